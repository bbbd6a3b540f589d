"""`foveate train policy`, `plan`, `looking`, `vlm`: policies on demonstrations, image-text models on questions."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
HELP = "train a policy"


def policy(argv: list[str]) -> int:
    """The verb's entry: parse, train, say where the policy is. Runs under `torchrun` as well."""
    from foveate.studies.train_and_evaluate import train_and_evaluate
    from foveate.training.policy.train import TrainPolicyConfig

    config = policy_config(argv, "foveate train policy", TrainPolicyConfig)
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.WARNING, format="%(message)s")
    with _own_folder(config, is_main):
        folder = train_and_evaluate(config, _loading if is_main else None)
    if is_main:
        print(f"policy: {folder}")
    return 0


def plan(argv: list[str]) -> int:
    """The verb's entry: predict the memory of a training and say how to start it; 1 where nothing fits."""
    import shlex

    from foveate.training.policy.plan import PlanConfig, plans
    from foveate.util.progress import plain_console

    config = policy_config(argv, "foveate train plan", PlanConfig)
    console = plain_console()
    console.print(f"{config.gpus} x {config.gpu_memory}; GB per device, predicted", highlight=False)
    console.print("  weights  gradients  optimizer  average  activations  gathered   total", highlight=False)
    for found in plans(config):
        parts = vars(found.memory).values()
        widths = (9, 11, 11, 9, 13, 10)
        numbers = "".join(f"{part / 1e9:{width}.1f}" for part, width in zip(parts, widths, strict=True))
        verdict = "fits" if found.fits else "too much"
        told = f"{numbers}{found.memory.total / 1e9:8.1f}  {verdict}: {' '.join(found.changes) or 'as given'}"
        console.print(told, highlight=False, soft_wrap=True)
        if found.fits:
            words = list(_without(argv, ("gpus", "gpu_memory")))
            start = f"torchrun --standalone --nproc_per_node {config.gpus} -m foveate" if config.gpus > 1 else "foveate"
            console.print(
                " ".join([start, "train policy", shlex.join(words), *found.changes]), highlight=False, soft_wrap=True
            )
            return 0
    console.print("nothing fits: more devices, more memory, a smaller batch or a smaller model", highlight=False)
    return 1


def _without(argv: list[str], flags: tuple[str, ...]) -> Iterator[str]:
    """The words of a command line without these flags and their values."""
    words = iter(argv)
    for word in words:
        name, equals, _ = word.removeprefix("--").partition("=")
        if word.startswith("--") and name.replace("-", "_") in flags:
            if not equals:
                next(words, None)
        else:
            yield word


def policy_config(argv: list[str], prog: str, config_cls: type[T]) -> T:
    """From `[PRESET] [--OPTION VALUE ...]`, openpi's options among them; PRESET is a name or a YAML file."""
    from foveate.cli.config import parse
    from foveate.cli.openpi_flags import ALIASES, translate
    from foveate.training.preset import preset_file

    words = translate(argv)
    if words and not words[0].startswith("-"):
        preset = preset_file(words[0])
        words = [preset.stem, "--config", str(preset), *words[1:]]
    return parse(config_cls, words, prog, aliases=ALIASES, positional=("config_name",))


def vlm(argv: list[str]) -> int:
    """The verb's entry: parse, train, say where the model is. Runs under `torchrun` as well."""
    from foveate.cli.config import parse
    from foveate.training.vlm.train import TrainVlmConfig, train_vlm

    config = parse(TrainVlmConfig, argv, "foveate train vlm")
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.WARNING, format="%(message)s")
    with _own_folder(config, is_main):
        folder = train_vlm(config)
    if is_main:
        print(f"model: {folder}")
    return 0


def looking(argv: list[str]) -> int:
    """The verb's entry: gains, a head, and what it is worth on the test episodes."""
    from rich.table import Table

    from foveate.cli.config import parse
    from foveate.studies.looking.config import LookingTrainConfig
    from foveate.studies.looking.train import train_looking
    from foveate.util.progress import Reporter, plain_console

    config = parse(LookingTrainConfig, argv, "foveate train looking", positional=("policy", "episodes"))
    console = plain_console()
    done = train_looking(config, Reporter(console))
    motion = min(done.curve["motion"], key=lambda one: abs(one[0] - done.chosen[0]))
    points = {name: points[0] for name, points in done.curve.items() if name not in ("head", "motion")}
    table = Table("chooses", "cost", "action error", caption="test episodes; cost 0: the cheapest, 1: always FULL")
    for name, (cost, error) in {**points, "motion, at about the head's cost": motion, "head": done.chosen}.items():
        table.add_row(name, f"{cost:.3f}", f"{error:.4f}")
    console.print(table)
    console.print(f"head: {done.checkpoint}, lambda {done.chosen_lambda:g}", soft_wrap=True, highlight=False)
    return 0


@contextmanager
def _own_folder(config: Any, is_main: bool) -> Iterator[None]:
    """Hold the run's folder and write its configuration there; the main process does it for all."""
    from foveate.util.files import one_process
    from foveate.util.run_folder import write_run_files

    with one_process(Path(config.out), "preparing a training") if is_main else nullcontext():
        if is_main:
            write_run_files(config.out, config, config.seed)
        yield


def _loading(done: int, total: int) -> None:
    if done == total or done % 50 == 0:
        logging.getLogger("foveate").info("loading demonstrations: %d of %d episodes", done, total)
