import threading

import numpy as np
import pytest

from foveate.envs.base import EnvCrash, StepResult
from foveate.errors import ActionsNotFinite, FoveateError
from foveate.evaluation.sim.rollout import Job, JobQueue, Query, RolloutConfig, noise_of, rollout
from foveate.testing.faults import UNEXPECTED
from foveate.types import ActionChunk, Observation, Span, TokenLayout, Trace
from foveate.util.files import CannotWrite

SHAPE = (4, 2)
LAYOUT = TokenLayout((Span("corner", "image", 0, 4, (2, 2)), Span("text", "text", 4, 6)))


class Line:
    """The state must come past 1; every step adds the first action. Seed 13 dies, seed 14 cannot see pictures."""

    def __init__(self, restartable=True):
        self.restarts, self.renders, self.restartable = 0, 0, restartable

    def _see(self):
        self.renders += 1
        return Observation({"corner": np.zeros((8, 8, 3), np.uint8)}, np.array([self.x]), f"do {self.task}")

    def reset(self, task, seed):
        self.task, self.seed, self.x, self.steps = task, seed, 0.01 * seed, 0
        return self._see()

    def step(self, action, render=True):
        self.steps += 1
        if self.seed == 13 and self.steps == 3:
            raise EnvCrash("the simulator died")
        self.x += float(action[0])
        return StepResult(self._see() if render else None, self.x > 1, self.steps >= 40)

    def restart(self):
        self.restarts += 1
        if not self.restartable:
            raise FoveateError("no simulator here")


class Policy:
    """Walks on by 0.1 plus a little of the noise; on `do backwards` the other way, on `do nan` nowhere."""

    def __init__(self):
        self.batches, self.threads, self.forgotten = [], set(), []

    def reset(self, session=None):
        self.forgotten.append(session)

    def infer_batch(self, observations, noise=None, **_):
        self.batches.append(len(observations))
        self.threads.add(threading.get_ident())
        chunks = []
        for observation, eps in zip(observations, noise, strict=True):
            step = {"do backwards": -0.1, "do nan": np.nan}.get(observation.prompt, 0.1)
            keep = np.array([True, observation.state[0] > 0.5, False, False])
            trace = Trace(LAYOUT, {"keep_mask": keep, "valid": np.ones(4, bool)}, seq_lens={"post_seq_len": 3})
            chunks.append(ActionChunk(step + 0.01 * eps, {"vision": 1.0, "total": 3.0}, trace))
        return chunks


def run(tasks=("walk",), episodes=4, envs=1, policy=None, jobs=None, **kwargs):
    config = RolloutConfig(**{"seed": 0, "replan_steps": 3, **kwargs.pop("config", {})})
    jobs = jobs or [Job(t, i, e, e) for i, t in enumerate(tasks) for e in range(episodes)]
    played = []
    simulators = kwargs.pop("simulators", None) or [Line() for _ in range(envs)]
    rollout(policy or Policy(), simulators, jobs, config, noise_shape=SHAPE, on_episode=played.append, **kwargs)
    return sorted(played, key=lambda p: (p.result.task, p.result.episode))


def test_statuses_steps_and_evidence():
    success, failure, crash = run(
        jobs=[Job("walk", 0, 2, 2), Job("backwards", 1, 0, 0), Job("nan", 2, 0, 0)], gflops=lambda trace: 2.0
    )[::-1]
    assert success.result.status == "success" and 7 <= success.result.steps <= 13
    assert success.result.queries == -(-success.result.steps // 3) == len(success.queries)
    assert success.result.instruction == "do walk" and success.result.extra == {"task_id": 0}
    assert success.result.patches == 4 and 1 < success.result.kept_mean < 2
    assert success.result.latency_ms_p50 == 3.0 and success.result.stages_ms_p50 == {"vision": 1.0}
    assert success.result.gflops_mean == 2.0
    first = success.queries[0]
    assert first["kept"] == first["kept_corner"] == 1 and first["patches"] == 4 and first["step"] == 0
    assert [q["step"] for q in success.queries[:3]] == [0, 3, 6]
    assert (crash.result.task, crash.result.status) == ("backwards", "failure") and crash.result.steps == 40
    assert failure.result.status == "crash" and "not finite" in failure.result.error and failure.result.steps == 0


class NotFinite(Policy):
    """Answers like `foveate.Policy`: an error that holds all chunks of the batch."""

    def infer_batch(self, observations, noise=None, **options):
        chunks = super().infer_batch(observations, noise, **options)
        if any(not np.isfinite(chunk.actions).all() for chunk in chunks):
            raise ActionsNotFinite("not finite", chunks)
        return chunks


def test_actions_that_are_not_finite_end_their_own_episode_alone():
    jobs = [Job("walk", 0, 2, 2), Job("nan", 1, 0, 0)]
    crash, success = run(jobs=jobs, envs=2, policy=NotFinite(), config={"window_ms": 500})
    assert (crash.result.task, crash.result.status) == ("nan", "crash") and "not finite" in crash.result.error
    assert (success.result.task, success.result.status) == ("walk", "success")


def test_max_steps():
    (played,) = run(("backwards",), 1, config={"max_steps": 10})
    assert played.result.status == "failure" and played.result.steps == 10


def test_a_crash_is_counted_and_the_run_goes_on():
    env = Line()
    played = run(jobs=[Job("walk", 0, e, 12 + e) for e in range(3)], simulators=[env])
    assert [p.result.status for p in played] == ["success", "crash", "success"]
    assert played[1].result.error == "the simulator died" and played[1].result.steps == 2
    assert len(played[1].queries) == 1 and env.restarts == 1


def test_an_environment_that_cannot_restart_ends_the_run():
    with pytest.raises(FoveateError, match=r"simulator died.*cannot be started again: no simulator here"):
        run(jobs=[Job("walk", 0, 0, 13)], simulators=[Line(restartable=False)])


def test_pictures_are_rendered_only_for_inferences():
    env = Line()
    (played,) = run(episodes=1, simulators=[env])
    result = played.result
    assert env.renders <= result.queries + 1 < result.steps


def test_results_depend_neither_on_workers_nor_on_order():
    alone = run(("walk", "stroll"), 6)
    policy = Policy()
    together = run(("walk", "stroll"), 6, envs=4, policy=policy, config={"window_ms": 50.0})
    assert [p.result.steps for p in alone] == [p.result.steps for p in together]
    assert max(policy.batches) == 4 and policy.threads == {threading.get_ident()}
    assert {p.queries[0]["batch"] for p in together} > {1} or together[0].queries[0]["batch"] == 4
    reverse = run(jobs=[Job("walk", 0, e, e) for e in reversed(range(6))])
    assert [p.result.steps for p in reverse] == [p.result.steps for p in alone if p.result.task == "walk"]


def test_workers_stay_with_their_task():
    todo = JobQueue([Job(task, 0, episode, 0) for task in "abc" for episode in range(2)])
    first, second = todo.take(None), todo.take(None)
    assert (first.task, second.task) == ("a", "b")
    order = [todo.take("a"), todo.take("a"), todo.take("b"), todo.take("c")]
    assert [(job.task, job.episode) for job in order] == [("a", 1), ("c", 0), ("b", 1), ("c", 1)]
    assert todo.take("b") is None and len(todo) == 0


def test_max_batch():
    policy = Policy()
    run(episodes=6, envs=4, policy=policy, config={"max_batch": 1})
    assert set(policy.batches) == {1}


def test_noise_is_of_the_query_alone():
    observation = Observation({}, np.zeros(1), "")

    def noise(seed=0, task="walk", episode=0, query=0):
        return noise_of(seed, Query(Job(task, 0, episode, 5), query, 0, observation), (50, 32))

    np.testing.assert_array_equal(noise(), noise())
    assert noise().dtype == np.float32 and abs(noise().mean()) < 0.1 and abs(noise().std() - 1) < 0.1
    others = [noise(seed=1), noise(task="stroll"), noise(episode=1), noise(query=1)]
    assert all(abs(np.corrcoef(noise().ravel(), other.ravel())[0, 1]) < 0.1 for other in others)


def test_a_broken_policy_ends_the_run():
    class Broken:
        def infer_batch(self, observations, noise=None, **_):
            raise FoveateError("no weights")

    with pytest.raises(FoveateError, match="no weights"):
        run(policy=Broken(), envs=3)


def test_what_the_policy_is_shown_and_what_is_recorded():
    shown, recorded = [], []

    class Recorder:
        def __init__(self, job):
            self.frames = []

        def add(self, observation, action, env):
            self.frames.append((observation, action))

        def finish(self, result):
            recorded.append((result, self.frames))

    def perceive(observation, task, episode):
        return Observation(observation.images, observation.state, "do backwards")

    env = Line()
    run(
        episodes=1,
        simulators=[env],
        perceive=perceive,
        on_inference=lambda query, chunk: shown.append(query.observation.prompt),
        recorder=Recorder,
    )
    ((result, frames),) = recorded
    assert set(shown) == {"do backwards"} and result.instruction == "do backwards"
    assert len(frames) == result.steps + 1 == env.renders and frames[-1][1] is None
    assert frames[1][0].prompt == "do walk"
    moved = frames[1][0].state[0] - frames[0][0].state[0]
    assert moved == pytest.approx(frames[0][1][0], abs=1e-6)


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("envs", [1, 3])
def test_an_observation_that_the_policy_cannot_take_is_one_crashed_episode(error, envs):
    class Picky(Policy):
        def infer_batch(self, observations, noise=None, **_):
            if any(0.4 < o.state[0] < 0.8 and o.prompt == "do odd" for o in observations):
                raise error
            return super().infer_batch(observations, noise)

    jobs = [Job("odd", 0, 0, 0), *(Job("walk", 1, i, i) for i in range(4))]
    odd, *others = run(jobs=jobs[1:] + jobs[:1], envs=envs, policy=Picky())
    assert odd.result.status == "crash" and odd.result.steps > 0
    assert "cannot take what it is shown at step" in odd.result.error and type(error).__name__ in odd.result.error
    assert [p.result.status for p in others] == ["success"] * 4


def test_a_policy_that_takes_nothing_any_more_ends_the_run():
    class Broken(Policy):
        def infer_batch(self, observations, noise=None, **_):
            if len(self.batches) > 5:
                raise RuntimeError("the device is gone")
            return super().infer_batch(observations, noise)

    with pytest.raises(RuntimeError, match="the device is gone"):
        run(policy=Broken())


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_whatever_a_simulator_raises_is_one_crashed_episode(error):
    class Odd(Line):
        def step(self, action, render=True):
            if self.seed == 1 and self.steps == 4:
                raise error
            return super().step(action, render)

    simulator = Odd()
    played = run(simulators=[simulator])
    assert [p.result.status for p in played] == ["success", "crash", "success", "success"]
    assert type(error).__name__ in played[1].result.error and simulator.restarts == 1


class Record:
    def __init__(self, error):
        self.error = error

    def add(self, observation, action, env):
        pass

    def finish(self, result):
        if result.episode == 1:
            raise self.error


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_a_recording_that_fails_is_named_and_costs_no_result(error):
    played = run(recorder=lambda job: Record(error))
    assert [p.result.status for p in played] == ["success"] * 4
    assert [bool(p.warnings) for p in played] == [False, True, False, False]
    assert played[1].warnings[0].startswith("walk episode 1: its recording could not be finished: ")


def test_a_recording_that_cannot_be_written_ends_the_run(tmp_path):
    full = CannotWrite(tmp_path, OSError(28, "No space left on device"))
    with pytest.raises(CannotWrite, match="the disk is full"):
        run(recorder=lambda job: Record(full))
