"""`foveate engine`: choose prefix lengths for static shapes, scales for float8, and an engine held against eager."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foveate.errors import FoveateError
from foveate.util.words import percent, plural


@dataclass(frozen=True)
class EnginePlanConfig:
    """Choose the prefix lengths (buckets) that a compiled prefill is prepared for, out of traced runs' token logs."""

    runs: tuple[str, ...] = ()
    """Run folders with a trace; bare words before all options are meant."""
    policy: str | None = None
    """Policy folder that gets the choice as its default (engine.json), for each pruning of the runs its own; null: it
    is printed alone."""
    max_buckets: int = 8
    """Lengths at most."""
    max_padding: float = 0.15
    """Padding at most, as a share of the real tokens; the fewest lengths that keep to it are chosen."""
    device: Literal["cpu", "gpu"] = "cpu"
    """On a gpu lengths are multiples of the matrix tile, 64."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise FoveateError("name at least one run folder: foveate engine plan runs/try")


def plan(argv: list[str]) -> int:
    """The verb: a table of buckets."""
    from rich.table import Table

    from foveate.cli.config import parse

    bare = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    words = ["--runs", *argv[:bare], *argv[bare:]] if bare else argv
    config = parse(EnginePlanConfig, words, "foveate engine plan", whole=("runs",))

    from foveate.engine.buckets import GPU_TILE
    from foveate.engine.plan import FILE, Plan, cache_mb, lengths_of, pruning_of, write_plan
    from foveate.engine.plan import plan as choose
    from foveate.models.base import ModelOptions
    from foveate.models.registry import detect
    from foveate.util.progress import plain_console
    from foveate.util.shipped import find_policy

    console = plain_console()
    folder = None if config.policy is None else find_policy(config.policy)
    spec = None if folder is None else detect(folder, ModelOptions())[1].spec
    groups: dict[str, list[int]] = {}
    for run in config.runs:
        groups.setdefault("" if folder is None else pruning_of(Path(run), folder), []).extend(lengths_of(run))
    plans: dict[str, Plan] = {}
    for pruning, lengths in groups.items():
        made = choose(lengths, config.max_buckets, config.max_padding, GPU_TILE if config.device == "gpu" else 1)
        plans[pruning] = made
        middle = sorted(lengths)[len(lengths) // 2]
        told = f"{len(lengths)} queries of {min(lengths)} to {max(lengths)} tokens, median {middle}"
        console.print(f"pruning {pruning}: {told}" if pruning else told)
        table = Table("bucket", "queries", "padding", *(["cache MB"] if spec else []))
        for length, count, padding in zip(made.buckets, made.queries, made.bucket_padding, strict=True):
            memory = [f"{cache_mb(spec, length):.1f}"] if spec else []
            table.add_row(str(length), str(count), percent(padding, 1), *memory)
        console.print(table)
        wanted = f"(wanted: at most {percent(config.max_padding)})"
        console.print(f"padding of all: {percent(made.padding, 1)} of the real tokens {wanted}")
    for pruning, made in plans.items():
        if folder is None:
            console.print(f"--engine.buckets {','.join(map(str, made.buckets))}", soft_wrap=True)
        else:
            write_plan(folder, pruning, made.buckets)
            console.print(f"{folder / FILE}: the policy's default for {pruning} from now on", soft_wrap=True)
    return int(any(made.padding > config.max_padding for made in plans.values()))


def calibrate(argv: list[str]) -> int:
    """The verb: errors by kind of layer, and the layers that stay as they are."""
    from collections import defaultdict

    from rich.table import Table

    from foveate.cli.config import parse
    from foveate.evaluation.calibration import CalibrateConfig, calibrate_policy
    from foveate.util.progress import Reporter, plain_console

    aliases = {"pretrained_checkpoint": "policy"}
    config = parse(CalibrateConfig, argv, "foveate engine calibrate", aliases=aliases)
    console = plain_console()
    done = calibrate_policy(config, Reporter(console))
    made = done.calibration
    kinds = defaultdict(list)
    for name, layer in made.layers.items():
        kinds[name.partition(".")[2]].append(layer)
    table = Table("layer", "of them", "largest input", "error, least", "worst")
    for kind, layers in kinds.items():
        errors = [layer.error for layer in layers]
        largest = max(layer.input_max for layer in layers)
        table.add_row(kind, str(len(layers)), f"{largest:.4g}", percent(min(errors), 1), percent(max(errors), 1))
    console.print(f"{plural(made.observations, 'observation')} of {plural(len(done.tasks), 'task')}")
    console.print(table)
    console.print(f"{plural(len(made.quantised), 'layer')} in float8; stay as they are: {len(made.kept) or 'none'}")
    for name, why in made.kept.items():
        console.print(f"  {name}: {why}", soft_wrap=True)
    console.print(f"{done.path}: kept beside the checkpoint", soft_wrap=True)
    return int(not made.quantised)


def check(argv: list[str]) -> int:
    """The verb: a line of numbers. 0: within the bound, and recorded; 1: it is off."""
    from foveate.cli.config import parse
    from foveate.evaluation.fidelity import EngineCheckConfig, check_engine
    from foveate.util.progress import Reporter, plain_console

    aliases = {"pretrained_checkpoint": "policy", "denoising_steps": "num_steps"}
    config = parse(EngineCheckConfig, argv, "foveate engine check", aliases=aliases)
    console = plain_console()
    done = check_engine(config, Reporter(console))
    word = "ok" if done.passed else "OFF"
    console.print(
        f"{word}: {done.engine} against eager float32, worst of {done.samples} samples: cosine {done.cosine:.7f} (at "
        f"least {done.bound.cosine:g}), largest action error {done.error:.2e} (at most {done.bound.error:g})",
        soft_wrap=True,
    )
    if done.keep_differs:
        console.print(f"the pruner chose other patches in {done.keep_differs} of {done.samples} samples")
    told = ", ".join(f"{name} {value}" for name, value in done.report.items() if name in ("compile_s", "compiled"))
    console.print(f"median: eager {done.ms[0]:.1f} ms, {done.engine} {done.ms[1]:.1f} ms{told and f'; {told}'}")
    if "fp8" in done.report:
        rounded = done.report["fp8"]
        console.print(f"{plural(rounded['layers'], 'layer')} in float8, {len(rounded['kept'])} as they were")
    if done.record is not None:
        console.print(f"record: {done.record}", soft_wrap=True)
    return int(not done.passed)
