"""Every variant on every episode: what is written down of each, so that a study can go on and be summed up anew.

A line of `frames.jsonl` is one variant on one episode:

    {"episode": 3, "label": "none", "task": ..., "steps": [...], "facts": [...], "seen": [...], "kept": [...], ...}
    {"episode": 3, "label": "divprune_0.25", "error": [...], "kept": [...], "overlap": [...], "seam": [...],
     "covered": [...], "covered_random": [...], "gflops": [...]}

`none` is the unpruned policy, `blind` sees grey pictures, `noise` starts from other noise. Errors are root mean squares
over the actions that a robot would execute, in the normalised units that the policy was trained in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from foveate.bench.variants import Variant, set_up
from foveate.data.conversion.base import Source
from foveate.errors import FoveateError
from foveate.evaluation.sim.controls import Perception
from foveate.models.common.columns import Columns
from foveate.policy import Policy
from foveate.studies.fit.causal import at_random, cover
from foveate.studies.fit.config import FitConfig
from foveate.studies.fit.critical import of_robot, window_facts
from foveate.studies.fit.episodes import RecordedEpisode, read_episode
from foveate.studies.fit.replay import Replay, replay
from foveate.types import Observation
from foveate.util.files import JsonLines, fault_of
from foveate.util.noise import action_noise
from foveate.util.progress import Reporter
from foveate.util.words import plural

UNPRUNED, BLIND, NOISE = "none", "blind", "noise"
BLINDED = Perception(vision="blind")
SESSION = "fit"
COVERS = 2
"""Random covers of as many patches."""
Row = dict[str, Any]


def measure(
    config: FitConfig,
    policy: Policy,
    labels: Sequence[str],
    source: Source,
    columns: Columns,
    log: JsonLines,
    until: float,
    report: Reporter,
) -> None:
    """Measure what the log lacks, episode by episode, until the time is up.

    Args:
        labels: of the pruned variants.
        until: of `time.monotonic`.
    Raises:
        FoveateError: not one episode can be read, or all frames are alike.
    """
    order = np.random.default_rng(config.seed).permutation(len(source))[: config.max_episodes].tolist()
    noisy = (NOISE,) if policy.spec.noise_shape is not None else ()
    wanted = (UNPRUNED, BLIND, *noisy, *labels)
    done = {(row["episode"], row["label"]) for row in log.rows}
    episodes = Episodes(config, policy, source, columns)
    failed: list[str] = []
    with report.bar("fit", "variants of episodes", len(order) * len(wanted), _count(done, order, wanted)) as bar:
        for number in order:
            missing = [label for label in wanted if (number, label) not in done]
            if not missing:
                continue
            whole = sum(all((n, label) in done for label in wanted) for n in order)
            if whole and time.monotonic() > until:
                report.line(f"{config.minutes:g} minutes are up after {whole} of {plural(len(order), 'episode')}")
                break
            try:
                rows = episodes.rows(number, missing, bar.advance)
            except Exception as error:
                failed.append(fault_of(error, f"episode {number}"))
                report.fail("failed", failed[-1])
                continue
            log.append(rows)
            done |= {(number, label) for label in missing}
            _refuse_alike(log.rows)
    if not log.rows:
        raise FoveateError(f"not one episode could be measured: {failed[0] if failed else 'there is none'}")


class Episodes:
    """Episodes, and the policy in all its variants."""

    def __init__(self, config: FitConfig, policy: Policy, source: Source, columns: Columns) -> None:
        self.config, self.policy, self.source, self.columns = config, policy, source, columns
        self._entries = of_robot(policy.processor.robot)
        self._variants: dict[str, Policy] = {}

    def rows(self, number: int, labels: Sequence[str], on_variant: Any) -> list[Row]:
        """The lines of some variants on one episode."""
        config = self.config
        episode = read_episode(self.source, number, self.columns, config.replan_steps, config.frames_per_episode)
        reference = self._replay(UNPRUNED, episode, episode.observations)
        rows, dropped = [], {}
        for label in labels:
            if label == UNPRUNED:
                row = self._of_episode(episode) | self._of_answers(episode, reference)
            else:
                seen = episode.observations
                if label == BLIND:
                    seen = tuple(BLINDED(each, episode.task, number) for each in seen)
                answers = self._replay(label, episode, seen)
                row = {"error": self._errors(episode, reference, answers)} | self._of_answers(episode, answers)
                if label not in (BLIND, NOISE):
                    dropped[label] = answers.valid & ~answers.keep
            rows.append({"episode": number, "label": label, **row})
            on_variant()
        for label, covered in self._covered(episode, reference, dropped).items():
            next(row for row in rows if row["label"] == label).update(covered)
        return rows

    def _policy(self, label: str) -> Policy:
        name = UNPRUNED if label in (BLIND, NOISE) else label
        if name not in self._variants:
            variant = Variant("eager", name, self.policy.spec.num_steps)
            self._variants[name] = set_up(self.policy, variant, self.policy.engine)
        return self._variants[name]

    def _replay(self, label: str, episode: RecordedEpisode, seen: Sequence[Observation]) -> Replay:
        draw = int(label == NOISE)
        noise = [self._noise(episode, step, draw) for step in episode.keyframes]
        return replay(self._policy(label), seen, noise, self.config.batch, SESSION)

    def _noise(self, episode: RecordedEpisode, step: int, draw: int = 0) -> np.ndarray | None:
        return action_noise(self.policy.spec.noise_shape, self.config.seed, episode.number, step, draw)

    def _normalised(self, actions: np.ndarray, states: np.ndarray) -> np.ndarray:
        return normalised(self.policy, actions, states)

    def _errors(self, episode: RecordedEpisode, reference: Replay, answers: Replay) -> list[float]:
        return errors(self.policy, episode, reference.actions, answers.actions, self.config.replan_steps)

    def _of_episode(self, episode: RecordedEpisode) -> Row:
        facts = window_facts(
            episode.states, episode.actions, episode.keyframes, self._entries, self.config.replan_steps
        )
        seen = [crc32(b"".join(p.tobytes() for p in each.images.values())) for each in episode.observations]
        return {"task": episode.task, "steps": list(episode.keyframes), "facts": facts, "seen": seen}

    def _of_answers(self, episode: RecordedEpisode, answers: Replay) -> Row:
        """Cost, and how steady it is from one moment to the next."""
        keep = answers.keep
        both, either = (keep[1:] & keep[:-1]).sum(1), (keep[1:] | keep[:-1]).sum(1)
        return {
            "kept": keep.sum(1).tolist(),
            "patches": answers.valid.sum(1).tolist(),
            "gflops": answers.gflops.round(6).tolist(),
            "overlap": (both / np.maximum(either, 1)).round(6).tolist(),
            "seam": self._seams(episode, answers),
        }

    def _seams(self, episode: RecordedEpisode, answers: Replay) -> list[float]:
        """Where two chunks speak of the same steps: how far they are apart; empty where none do."""
        found = []
        horizon = answers.actions.shape[1]
        for k, (start, after) in enumerate(zip(episode.keyframes, episode.keyframes[1:], strict=False)):
            shared = min(horizon - (after - start), self.config.replan_steps)
            if shared > 0:
                old = answers.actions[k : k + 1, after - start : after - start + shared]
                new = answers.actions[k + 1 : k + 2, :shared]
                state = episode.states[after : after + 1]
                found += _rms(self._normalised(old, state) - self._normalised(new, state))
        return found

    def _covered(
        self, episode: RecordedEpisode, reference: Replay, dropped: Mapping[str, np.ndarray]
    ) -> dict[str, dict[str, list[float]]]:
        """Label -> errors of the unpruned policy where what was dropped is covered, and where as much is at random."""
        count = min(self.config.causal_frames, len(episode.keyframes))
        found: dict[str, dict[str, list[float]]] = {label: {"covered": [], "covered_random": []} for label in dropped}
        chosen = np.random.default_rng((self.config.seed, episode.number)).choice(len(episode.keyframes), count, False)
        for k in chosen.tolist() if dropped else ():
            valid, key = reference.valid[k], (self.config.seed, episode.number, k)
            masks: dict[Any, np.ndarray] = {label: mask[k] for label, mask in dropped.items() if mask[k].any()}
            for amount in {int(mask.sum()) for mask in masks.values()}:
                masks |= {(amount, draw): at_random(valid, amount, (*key, amount, draw)) for draw in range(COVERS)}
            noise = self._noise(episode, episode.keyframes[k])
            answers = cover(
                self._policy(UNPRUNED), episode.observations[k], noise, masks, self.config.batch, self.config.seed
            )
            state = episode.states[[episode.keyframes[k]]]
            ours = self._normalised(reference.actions[k : k + 1], state)[:, : self.config.replan_steps]
            moved = {
                case: _rms(self._normalised(actions[None], state)[:, : self.config.replan_steps] - ours)[0]
                for case, actions in answers.items()
            }
            for label in set(dropped) & set(moved):
                amount = int(dropped[label][k].sum())
                control = [moved[amount, draw] for draw in range(COVERS) if (amount, draw) in moved]
                if control:
                    found[label]["covered"].append(moved[label])
                    found[label]["covered_random"].append(float(np.mean(control)))
        return found


def normalised(policy: Policy, actions: np.ndarray, states: np.ndarray) -> np.ndarray:
    """float64 [K, n, A]: actions as the policy was trained to give them."""
    values = policy.processor.targets(actions, states).numpy()
    return values[..., : policy.spec.action_dim].astype(np.float64)


def errors(
    policy: Policy, episode: RecordedEpisode, reference: np.ndarray, answers: np.ndarray, count: int
) -> list[float]:
    """How far answers at an episode's keyframes are from a reference, in the units that the policy was trained in.

    Args:
        reference, answers: [K, H, A], in the robot's units.
        count: actions of a chunk that are executed.
    """
    states = episode.states[list(episode.keyframes)]
    a, b = (normalised(policy, actions, states)[:, :count] for actions in (reference, answers))
    return _rms(a - b)


def _rms(difference: np.ndarray) -> list[float]:
    """Of each first entry."""
    return [float(value) for value in np.sqrt((difference**2).mean((1, 2))).round(8)]


def _count(done: set[tuple[int, str]], order: Sequence[int], wanted: Sequence[str]) -> int:
    return sum((number, label) in done for number in order for label in wanted)


def _refuse_alike(rows: Sequence[Row]) -> None:
    """Raises FoveateError where two episodes and more show one picture alone."""
    seen = [row["seen"] for row in rows if row["label"] == UNPRUNED]
    if len(seen) > 1 and len({picture for episode in seen for picture in episode}) == 1:
        frames = sum(len(episode) for episode in seen)
        raise FoveateError(
            f"all {frames} frames of {len(seen)} episodes show the same pictures, so nothing can be learnt of what to "
            "drop; name recordings with pictures of their own"
        )
