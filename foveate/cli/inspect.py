"""`foveate inspect CHECKPOINT`: what a checkpoint is, what it expects, and what is missing to run it.

Only small files and the header of the weights are read; with `--prefix` the policy is loaded, and infers from noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json


def run(argv: list[str]) -> int:
    """Print the description; status 0 also where something is missing to run it."""
    parser = argparse.ArgumentParser("foveate inspect", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "checkpoint", help="folder of a foveate, openpi (PyTorch) or LeRobot policy, or a shipped policy's name"
    )
    parser.add_argument("--robot", help="shipped mapping (droid, libero, aloha, metaworld) or a YAML file")
    parser.add_argument("--tokenizer", help="sentencepiece model, where the folder has none")
    parser.add_argument("--asset_id", "--asset-id", help="which norm stats, where the folder has several")
    parser.add_argument(
        "--action_horizon", "--action-horizon", type=int, help="of an openpi checkpoint, which does not store it"
    )
    parser.add_argument(
        "--lerobot_version",
        "--lerobot-version",
        choices=["0.4", "0.5"],
        help="LeRobot that trained a LeRobot policy: 0.4 (also before) padded pictures with -3, and the prompt's state",
    )
    parser.add_argument(
        "--clean_prompt",
        "--clean-prompt",
        choices=["true", "false"],
        help="whether underscores and line breaks of the instruction become spaces",
    )
    parser.add_argument(
        "--prefix", action="store_true", help="load the policy, and print the lengths of its prefix, pruned and not"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    args = parser.parse_args(argv)
    # Imported here, so that `--help` answers without torch.
    from foveate.models.base import ModelOptions
    from foveate.models.registry import detect
    from foveate.util.shipped import find_policy

    said = {name: getattr(args, name) for name in ("robot", "tokenizer", "asset_id", "action_horizon")}
    said |= {"lerobot_version": args.lerobot_version}
    said |= {"clean_prompt": None if args.clean_prompt is None else args.clean_prompt == "true"}
    family, info = detect(find_policy(args.checkpoint), ModelOptions(**said))
    rows = []
    if args.prefix:
        from foveate.bench.prefix import prefix_lengths
        from foveate.policy import load_policy

        rows = prefix_lengths(load_policy(args.checkpoint, **said))
    if args.json:
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
