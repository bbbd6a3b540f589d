"""What a policy is allowed to perceive: the controls that every success rate is held against.

A control changes the observation alone; pruning is the policy's own affair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from foveate.errors import FoveateError
from foveate.types import Observation

Vision = Literal["normal", "blind"]
Instruction = Literal["normal", "shuffled"]
GREY = 128


@dataclass(frozen=True)
class Perception:
    """How an observation is changed before the policy sees it."""

    vision: Vision = "normal"
    """`blind` paints every view grey (128, 128, 128)."""
    instruction: Instruction = "normal"
    """`shuffled` gives each episode the instruction of another task."""
    instructions: Mapping[str, str] = field(default_factory=dict)
    """Task -> instruction, of all tasks in the run; needed for `shuffled`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.instruction == "shuffled" and len(set(self.instructions.values())) < 2:
            raise FoveateError(
                "instruction shuffled: expected at least two tasks with different instructions to swap, "
                f"got {sorted(set(self.instructions.values()))}; add tasks to task_suite_name"
            )

    def prompt(self, task: str, episode: int) -> str | None:
        """The instruction given in place of the task's own; None: its own."""
        if self.instruction == "normal":
            return None
        others = sorted(set(self.instructions.values()) - {self.instructions[task]})
        # A cycle through the others from a seeded start: every wrong instruction is given equally often.
        return others[(self.seed + sorted(self.instructions).index(task) + episode) % len(others)]

    def __call__(self, observation: Observation, task: str, episode: int) -> Observation:
        images, prompt = observation.images, self.prompt(task, episode)
        if self.vision == "blind":
            images = {view: np.full_like(image, GREY) for view, image in images.items()}
        return dataclasses.replace(observation, images=images, prompt=observation.prompt if prompt is None else prompt)


def variant_name(pruner: str | None, vision: Vision = "normal", instruction: Instruction = "normal") -> str:
    """`full`, `lightvla`, `blind`, `lightvla_shuffled_instruction`, ..."""
    parts = [pruner.lower()] if pruner else []
    parts += ["blind"] if vision == "blind" else []
    parts += ["shuffled_instruction"] if instruction == "shuffled" else []
    return "_".join(parts) or "full"
