import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from foveate.envs.base import Advice, EnvConventions, EnvCrash, StepResult
from foveate.envs.worker import WorkerEnv
from foveate.errors import FoveateError
from foveate.types import Observation
from foveate.util.wire import send

HERE = "foveate.envs.worker_test:Fake"


class Fake:
    """A counter with pictures; its tasks are the ways in which a simulator may go wrong."""

    conventions: ClassVar[EnvConventions] = EnvConventions("x+y", 2, True, "positive_closes")
    views = ("front",)
    tasks = (
        "good",
        "hangs",
        "hangs_in_c",
        "stops",
        "exits",
        "killed",
        "raises",
        "nan_state",
        "one_view_less",
        "prints",
    )
    max_steps = 5

    def __init__(self, fail_at_start: str = "", tasks: tuple[str, ...] = ()) -> None:
        if fail_at_start == "user":
            raise FoveateError("no such simulator here")
        if fail_at_start == "bug":
            raise ValueError("broken")
        if fail_at_start == "warns":
            logging.getLogger("foveate").warning("EGL cannot draw here")

    def reset(self, task: str, seed: int) -> Observation:
        self.task, self.steps, self.seed = task, 0, seed
        return self._see(seed)

    def step(self, action: np.ndarray, render: bool = True) -> StepResult:
        self.steps += 1
        if self.task == "hangs":
            time.sleep(1000)
        elif self.task == "hangs_in_c":
            ctypes.CDLL(None).prctl(15, b"hung")  # PR_SET_NAME
            ctypes.PyDLL(None).sleep(1000)  # holds the interpreter: no thread of it runs any more
        elif self.task == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.task == "exits":
            print("the simulator says farewell", flush=True)
            os._exit(3)
        elif self.task == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.task == "raises":
            raise RuntimeError("mj_step diverged")
        elif self.task == "prints":
            print("noise on stdout", flush=True)
        seen = self._see(float("nan") if self.task == "nan_state" else action[0]) if render else None
        info: dict[str, Any] = {"torch": "torch" in sys.modules, "pid": os.getpid()}
        return StepResult(seen, self.steps == 3, self.steps == 5, info)

    def _see(self, x: float) -> Observation:
        image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
        views = {} if self.task == "one_view_less" and self.steps else {"front": image[:, ::-1]}
        return Observation(views, np.array([x, self.steps], np.float32), f"do {self.task}")

    def advise(self) -> Advice:
        return Advice(np.array([self.seed, self.steps], np.float32), ACTION)

    def close(self) -> None:
        pass


ACTION = np.array([0.5, -1.0], np.float32)


@pytest.fixture(scope="module")
def worker():
    with WorkerEnv(HERE, timeout_s=20) as env:
        yield env


def test_what_it_warns_of_when_it_is_made_is_passed_on():
    with WorkerEnv(HERE, fail_at_start="warns") as env:
        assert env.warnings == ("EGL cannot draw here",)
    with WorkerEnv(HERE) as env:
        assert env.warnings == ()


def test_same_interface_as_the_environment_itself(worker):
    assert (worker.conventions, worker.views, worker.tasks, worker.max_steps) == (
        Fake.conventions,
        Fake.views,
        Fake.tasks,
        5,
    )
    here, there = Fake().reset("good", 7), worker.reset("good", 7)
    np.testing.assert_array_equal(there.images["front"], here.images["front"])
    assert there.state.tolist() == [7, 0]
    assert there.prompt == "do good"
    results = [worker.step(ACTION, render=i != 1) for i in range(5)]
    assert [r.success for r in results] == [False, False, True, False, False]
    assert [r.done for r in results] == [False, False, False, False, True]
    assert results[1].observation is None
    assert results[0].observation.state.tolist() == [0.5, 1]


def test_advice_of_an_expert(worker):
    worker.reset("good", 7)
    worker.step(ACTION, render=False)
    told = worker.advise()
    assert (told.state.tolist(), told.action.tolist()) == ([7, 1], [0.5, -1])
    assert told.action.dtype == np.float32


def test_worker_has_no_torch(worker):
    worker.reset("good", 0)
    assert worker.step(ACTION).info["torch"] is False


def test_metaworld_worker_code_has_no_torch():
    modules = "foveate.envs.metaworld.env, foveate.envs.worker, foveate.envs.libero"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_prints_of_the_simulator_do_not_disturb(worker):
    worker.reset("prints", 0)
    assert worker.step(ACTION).info["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("exits", r"died \(exit status 3\); its last lines: .*the simulator says farewell"),
        ("killed", r"died \(signal 9\)"),
        ("raises", "RuntimeError: mj_step diverged"),
        ("nan_state", "expected finite numbers"),
        ("one_view_less", "observation lacks its view front"),
    ],
)
def test_crash_is_told_and_a_restart_mends_it(worker, task, message):
    worker.reset(task, 0)
    with pytest.raises(EnvCrash, match=message):
        worker.step(ACTION)
    worker.restart()
    worker.reset("good", 1)
    assert worker.step(ACTION).observation is not None


def test_hang_is_a_crash_after_the_timeout():
    with WorkerEnv(HERE, timeout_s=8) as worker:
        worker.timeout_s = 0.5  # the start of an interpreter may take longer
        worker.reset("hangs", 0)
        start = time.monotonic()
        with pytest.raises(EnvCrash, match=r"no answer within 0\.5 s"):
            worker.step(ACTION)
        assert time.monotonic() - start < 5
        with pytest.raises(EnvCrash, match="restart"):
            worker.reset("good", 0)


@pytest.mark.parametrize("action", [[np.nan, 0.0], [np.inf, 0.0], [1.0], [[1.0, 2.0]]])
def test_impossible_action_is_a_crash_of_the_episode_and_the_worker_lives(worker, action):
    worker.reset("good", 0)
    with pytest.raises(EnvCrash, match="action"):
        worker.step(np.array(action))
    assert worker.step(ACTION).observation.state.tolist() == [0.5, 1]


@pytest.mark.parametrize(("kind", "message"), [("user", "no such simulator here"), ("bug", "ValueError: broken")])
def test_failure_at_the_start(kind, message):
    with pytest.raises(FoveateError, match=message):
        WorkerEnv(HERE, timeout_s=20, fail_at_start=kind)


def test_interpreter_that_is_not_there():
    with pytest.raises(FoveateError, match="no_such_python"):
        WorkerEnv(HERE, python="/no_such_python")


def test_unknown_environment_names_the_near_ones():
    with pytest.raises(FoveateError, match="did you mean 'metaworld'"):
        WorkerEnv("metawold", timeout_s=20)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the worker")
@pytest.mark.parametrize("task", ["good", "hangs", "hangs_in_c", "stops"])
def test_worker_ends_when_its_parent_is_killed(task):
    code = (
        f"import numpy as np; from foveate.envs.worker import WorkerEnv; env = WorkerEnv({HERE!r})\n"
        "env.reset('good', 0)\n"
        "print(env.step(np.zeros(2)).info['pid'], flush=True)\n"
        f"env.reset({task!r}, 0); print('steps', flush=True); env.step(np.zeros(2)); env.step(np.zeros(2))\n"
        "import time; time.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "steps\n"
    if task == "hangs_in_c":
        _wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "hung\n", "the simulator does not hang")
    if task == "stops":
        _wait_until(lambda: _state(pid) == "T", "the simulator does not stop")
    parent.kill()
    parent.wait()
    _wait_until(lambda: _state(pid) in "Z", "the worker outlives its run")


def test_worker_outlives_the_thread_that_asked_for_it():
    with ThreadPoolExecutor(1) as pool:
        env = pool.submit(WorkerEnv, HERE, timeout_s=20).result()
    with env:
        env.reset("good", 0)
        assert env.step(ACTION).observation is not None
        with ThreadPoolExecutor(1) as pool:
            pool.submit(env.restart).result()
        assert env.reset("good", 1).state.tolist() == [1, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's list of processes")
@pytest.mark.parametrize("task", ["hangs_in_c", "stops"])
def test_whatever_hangs_is_ended_after_the_timeout(task):
    with WorkerEnv(HERE, timeout_s=20) as env:
        env.reset("good", 0)
        pid = env.step(ACTION).info["pid"]
        env.reset(task, 0)
        env.timeout_s = 0.5
        with pytest.raises(EnvCrash, match="the worker hung and was ended"):
            env.step(ACTION)
        assert _state(pid) in "Z"


def test_worker_whose_run_died_before_it_began_ends(monkeypatch):
    ours, theirs = socket.socketpair()
    send(ours, {"call": "make", "name": HERE, "kwargs": {}})
    ours.close()
    code = f"from foveate.envs import worker; worker.make_env = print; worker.main({theirs.fileno()})"
    done = subprocess.run([sys.executable, "-c", code], pass_fds=[theirs.fileno()], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b""), "a simulator was made for a run that is gone"


def _wait_until(holds, otherwise: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def _state(pid: int) -> str:
    """Letter of the process's state; empty: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
