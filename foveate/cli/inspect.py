"""`foveate inspect CHECKPOINT`: what a checkpoint is, what it expects, and what is missing to run it.

Only small files and the header of the weights are read; with `--prefix` the policy is loaded, and infers from noise.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class InspectConfig:
    """What a checkpoint is, what it expects, and what is missing to run it."""

    checkpoint: str
    """Folder of a foveate, openpi (PyTorch), LeRobot or OpenVLA-OFT policy, or a shipped policy's name."""
    robot: str | None = None
    """Robot mapping: a shipped one (droid, libero, aloha, metaworld) or a YAML file; null: as the checkpoint says."""
    tokenizer: str | None = None
    """Sentencepiece model file, where the checkpoint folder has none."""
    asset_id: str | None = None
    """Name of the norm stats (a folder under assets), where the checkpoint has several."""
    action_horizon: int | None = None
    """Actions per chunk of an openpi checkpoint, which does not store it; null: that of openpi's published policy."""
    lerobot_version: Literal["0.4", "0.5"] | None = None
    """LeRobot that trained a LeRobot policy: 0.4 (also before) padded pictures with -3, and the state in the prompt."""
    clean_prompt: bool | None = None
    """Whether underscores and line breaks of the instruction become spaces; null: yes, but for LeRobot's π0."""
    prefix: bool = False
    """Load the policy, and print the lengths of its prefix, pruned and not."""
    json: bool = False
    """Print one JSON document instead."""


def run(argv: list[str]) -> int:
    """Print the description; status 0 also where something is missing to run it."""
    from foveate.cli.config import parse

    config = parse(InspectConfig, argv, "foveate inspect", positional=("checkpoint",))
    # Imported here, so that `--help` answers without torch.
    from foveate.models.base import ModelOptions
    from foveate.models.registry import detect
    from foveate.util.shipped import find_policy

    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(ModelOptions) if hasattr(config, f.name)}
    family, info = detect(find_policy(config.checkpoint), ModelOptions(**options))
    rows = []
    if config.prefix:
        from foveate.bench.prefix import prefix_lengths
        from foveate.policy import load_policy

        rows = prefix_lengths(load_policy(config.checkpoint, **options))
    if config.json:
        document = family.describe(info) | ({"prefix": [dataclasses.asdict(row) for row in rows]} if rows else {})
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return 0
    print(family.as_text(family.describe(info)))
    if rows:
        from foveate.bench.prefix import as_text

        print(as_text(rows))
        print(
            "  (noise as pictures; what LightVLA keeps depends on picture and instruction: see `foveate trace predict`)"
        )
    return 0
