"""What each look at each view is worth, on recorded episodes: the action error that it avoids.

    row = episode_gains(policy, episode, entries, config)

At every keyframe the policy is asked with all views at FULL, and with one view changed: looked at coarsely, or shown as
it was one to `max_age` keyframes before, which is what reusing its tokens gives. All answers start from the same noise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from foveate.policy import Policy
from foveate.studies.fit.critical import Entries, window_facts
from foveate.studies.fit.episodes import RecordedEpisode
from foveate.studies.fit.measure import errors
from foveate.studies.fit.replay import Replay, replay
from foveate.studies.looking.config import LookingTrainConfig
from foveate.types import Observation
from foveate.util.noise import action_noise
from foveate.vision_value.looking import Wrist
from foveate.vision_value.looking.head import view_features

Row = dict[str, Any]


def episode_gains(policy: Policy, episode: RecordedEpisode, entries: Entries, config: LookingTrainConfig) -> Row:
    """A row of `gains.jsonl`: facts of each keyframe, and for each view errors, GFLOP and what a head may see.

    Args:
        policy: that looks at everything.
        entries: of the robot's state and actions.
    """
    spec, count, seen = policy.spec, config.replan_steps, list(episode.observations)
    noise = [action_noise(spec.noise_shape, config.seed, episode.number, step, 0) for step in episode.keyframes]

    def ask(one: Policy, observations: list[Observation]) -> Replay:
        return replay(one, observations, noise, config.batch, "looking")

    full = ask(policy, seen)

    def off(answers: Replay) -> list[float]:
        return errors(policy, episode, full.actions, answers.actions, count)

    views, pictures = policy.engine.model.spec.views, [policy.processor.source_images(each) for each in seen]
    tower = policy.flops(1, 1)["vision"]
    row: Row = {"episode": episode.number, "task": episode.task, "views": {}}
    row["facts"] = window_facts(episode.states, episode.actions, episode.keyframes, entries, count)
    for v, view in enumerate(views):
        others = Wrist(views=tuple(other for other in views if other != view))
        coarse = ask(Policy(policy.engine, policy.processor, policy.pruner, device=policy.device, looking=others), seen)
        found: Row = {"coarse": off(coarse), "no": {}, "features": {}}
        # Of NO, COARSE and FULL. NO saves the tower alone: what is reused goes through the backbone again.
        found["gflops"] = [float(g) for g in (full.gflops.mean() - tower, coarse.gflops.mean(), full.gflops.mean())]
        for age in range(1, min(config.max_age, len(seen) - 1) + 1):
            aged = [_shown_as(policy, now, seen[max(k - age, 0)], view) for k, now in enumerate(seen)]
            found["no"][str(age)] = off(ask(policy, aged))[age:]
            found["features"][str(age)] = [
                view_features(
                    v, len(views), pictures[k][view], pictures[k - age][view], age, seen[k].state, seen[k - 1].state
                ).round(4).tolist()
                for k in range(age, len(seen))
            ]  # fmt: skip
        row["views"][view] = found
    return row


def _shown_as(policy: Policy, now: Observation, then: Observation, view: str) -> Observation:
    """The observation with one view as it was."""
    name = next(name for name in policy.spec.cameras[view] if name in now.images)
    return replace(now, images={**now.images, name: then.images[name]})
