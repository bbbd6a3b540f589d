"""The golden OpenVLA-OFT checkpoint, made to run, and observations for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from foveate.testing.golden import golden_dir
from foveate.types import Observation
from foveate.util.shipped import TINY_TOKENIZER


def runnable_checkpoint(folder: Path) -> Path:
    """A copy with what it lacks: its towers' heads and a tokenizer (another model's, which runs too)."""
    shutil.copytree(golden_dir("openvla_oft", "index.json") / "checkpoint", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    config = json.loads((folder / "config.json").read_text())
    config["vision_heads"] = {"dino": 4, "siglip": 4}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(TINY_TOKENIZER, folder / "tokenizer.model")
    return folder


def oft_observation(prompt: str = "put the bowl on the plate", seed: int = 0) -> Observation:
    """Two noisy pictures and a state of LIBERO."""
    rng = np.random.default_rng(seed)
    images = {view: rng.integers(0, 256, (64, 64, 3), np.uint8) for view in ("image", "wrist_image")}
    return Observation(images, np.array([0.1, 0.2, 0.9, 3.0, 0.1, -0.1, 0.04, -0.04], np.float32), prompt)
