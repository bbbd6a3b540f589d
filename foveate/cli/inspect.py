"""`foveate inspect CHECKPOINT`: what a checkpoint is, what it expects, and what is missing to run it.

Only small files and the header of the weights are read.
"""

from __future__ import annotations

import argparse
import json


def run(argv: list[str]) -> int:
    """Print the description; status 0 also where something is missing to run it."""
    parser = argparse.ArgumentParser("foveate inspect", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "checkpoint", help="folder of a foveate, openpi (PyTorch) or LeRobot policy, or a shipped policy's name"
    )
    parser.add_argument("--robot", help="shipped mapping (droid, libero, aloha, metaworld) or a YAML file")
    parser.add_argument("--tokenizer", help="sentencepiece model, where the folder has none")
    parser.add_argument(
        "--action_horizon", "--action-horizon", type=int, help="of an openpi checkpoint, which does not store it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    args = parser.parse_args(argv)
    # Imported here, so that `--help` answers without torch.
    from foveate.models.base import ModelOptions
    from foveate.models.registry import detect
    from foveate.util.shipped import find_policy

    options = ModelOptions(robot=args.robot, tokenizer=args.tokenizer, action_horizon=args.action_horizon)
    _, info = detect(find_policy(args.checkpoint), options)
    print(json.dumps(info.describe(), indent=2, ensure_ascii=False) if args.json else info.summary())
    return 0
