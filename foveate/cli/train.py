"""`foveate train policy`, `foveate train vlm`: policies on demonstrations, image-text models on questions."""

from __future__ import annotations

import logging
import os

HELP = "train a policy"


def policy(argv: list[str]) -> int:
    """The verb's entry: parse, train, say where the policy is. Runs under `torchrun` as well."""
    from foveate.cli.config import parse
    from foveate.training.policy.train import TrainPolicyConfig, train_policy
    from foveate.util.run_folder import write_run_files

    config = parse(TrainPolicyConfig, argv, "foveate train policy")
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.WARNING, format="%(message)s")
    if is_main:
        write_run_files(config.out, config, config.seed)
    folder = train_policy(config, _loading if is_main else None)
    if is_main:
        print(f"policy: {folder}")
    return 0


def vlm(argv: list[str]) -> int:
    """The verb's entry: parse, train, say where the model is. Runs under `torchrun` as well."""
    from foveate.cli.config import parse
    from foveate.training.vlm.train import TrainVlmConfig, train_vlm
    from foveate.util.run_folder import write_run_files

    config = parse(TrainVlmConfig, argv, "foveate train vlm")
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.WARNING, format="%(message)s")
    if is_main:
        write_run_files(config.out, config, config.seed)
    folder = train_vlm(config)
    if is_main:
        print(f"model: {folder}")
    return 0


def _loading(done: int, total: int) -> None:
    if done == total or done % 50 == 0:
        logging.getLogger("foveate").info("loading demonstrations: %d of %d episodes", done, total)
