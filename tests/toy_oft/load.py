"""The family: a folder of `toy.json` and `weights.safetensors`, its own prompt, the shared processing of a robot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from foveate.models.base import Family, ModelInputs, ModelOptions, ModelSpec
from foveate.models.common.processing import RobotProcessor
from foveate.models.common.robots import RobotMapping
from foveate.types import Observation
from toy_oft.model import WORDS, ToyOFT

LONGEST = 24


@dataclass(frozen=True)
class ToyInfo:
    path: Path
    spec: ModelSpec
    robot: RobotMapping | None
    pruner: Any = None
    missing: tuple[str, ...] = ()


class ToyProcessor(RobotProcessor):
    """Prompts by their bytes."""

    def inputs(self, observations: Sequence[Observation]) -> ModelInputs:
        images, masks = self.images(observations)
        tokens = np.zeros((len(observations), LONGEST), np.int64)
        there = np.zeros(tokens.shape, bool)
        for row, observation in enumerate(observations):
            text = self.prompt(observation).encode()[:LONGEST]
            tokens[row, : len(text)], there[row, : len(text)] = list(text), True
        state = self.padded_state(self.normalized_state(observations))
        return ModelInputs(images, masks, torch.from_numpy(tokens), torch.from_numpy(there), state)

    def pieces(self, tokens: np.ndarray) -> list[str]:
        return [chr(token) for token in tokens.tolist()]


def detect(folder: Path, options: ModelOptions) -> ToyInfo | None:
    if not (folder / "toy.json").exists():
        return None
    stored = json.loads((folder / "toy.json").read_text())
    robot = RobotMapping.load(options.robot or stored["robot"])
    return ToyInfo(folder, ToyOFT(stored["views"]).spec, robot, stored.get("pruner"))


def load(info: ToyInfo, options: ModelOptions) -> tuple[ToyOFT, ToyProcessor]:
    model = ToyOFT(info.spec.views)
    model.load_state_dict(load_file(info.path / "weights.safetensors"))
    assert info.robot is not None
    return model.to(options.device), ToyProcessor(model.spec, info.robot, None, None)


def write(folder: Path, pruner: dict | None = None) -> Path:
    """A checkpoint of random weights for the Meta-World robot."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    views = ["corner", "gripperPOV"]
    (folder / "toy.json").write_text(json.dumps({"robot": "metaworld", "views": views, "pruner": pruner}))
    save_file(ToyOFT(views).state_dict(), folder / "weights.safetensors")
    assert WORDS >= 256
    return folder


def describe(info: ToyInfo) -> dict[str, Any]:
    return {"checkpoint": str(info.path), "family": "toy_oft", "views": list(info.spec.views)}


FAMILY = Family("toy_oft", detect, load, describe, lambda document: f"{document['checkpoint']}: a toy OFT")
