"""The engines of a GPU against eager on the same GPU, on mid-size random models: every length, nothing as written.

    python benchmarks/gpu/check.py                # on a machine with a CUDA device
    python benchmarks/gpu/check.py --dry_run      # on any: tiny models, stand-ins for graphs and float8 units

Exit status 1: an engine is off, or ran something as written that it was prepared for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch

from foveate.engine import registry
from foveate.engine.calibration import LEAST_OBSERVATIONS, Calibration, calibrate
from foveate.engine.compiled import CompiledParts
from foveate.engine.config import Compiled, Eager
from foveate.engine.fp8 import Fp8, missing_units
from foveate.engine.graphs import CapturedParts
from foveate.engine.parts import tensors_of
from foveate.engine.registry import make_engine
from foveate.engine.staged import StagedEngine
from foveate.errors import FoveateError
from foveate.models.base import ModelInputs
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.model import Pi0
from foveate.pruning import Random, make_pruner
from foveate.training.policy.untrained import MID, TINY

GRAPHS = dict.fromkeys(("vision", "prefill", "denoise"), "cuda_graph")
KEPT = (None, 0.5, 0.25)
EXACT, ROUNDED = 1e-3, 2e-2
"""Largest difference of any number of any action, as a share of the largest action, at least of one: in float32; where
both round to bfloat16 or float16."""


@dataclass(frozen=True)
class Case:
    """One engine and what it is compared with."""

    name: str
    config: Eager
    reference: Eager = Eager()  # noqa: RUF009  # frozen
    bound: float = EXACT
    dtype: str = "float32"
    families: tuple[str, ...] = ("pi05", "pi0")


@dataclass(frozen=True)
class Setting:
    """A size, and where it runs."""

    model: Pi0Config
    device: str
    words: tuple[int, ...]
    buckets: tuple[int, ...]

    def inputs(self, words: int) -> ModelInputs:
        config = self.model
        real, views = torch.arange(self.words[-1])[None] < words, len(config.views)
        side = config.vision.image_size
        return ModelInputs(
            images=torch.rand(1, views, 3, side, side) * 2 - 1,
            image_masks=torch.arange(views)[None] < 2,
            tokens=torch.randint(1, config.vocab_size, real.shape).masked_fill(~real, 0),
            token_masks=real,
            state=torch.randn(1, config.action_dim),
        ).to(self.device)

    def make(self, family: str, dtype: str) -> Pi0:
        model = Pi0(replace(self.model, pi05=family == "pi05", dtype=dtype)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.02 * torch.randn_like(weight))  # the gates of adaptive norms start at 0
        return model.to(self.device)


FULL = Setting(MID, "cuda", (12, 30, 48), (192, 320, 576))
DRY = Setting(TINY, "cpu", (6, 20, 32), (24, 40, 64))


def cases(setting: Setting) -> Iterator[Case]:
    """What this machine can run, the most important first: who calls may run out of time."""
    buckets = setting.buckets
    yield Case("cuda_graph", Compiled(**GRAPHS, buckets=buckets))
    lacks = missing_units(torch.device(setting.device)) if setting.device != "cpu" else None
    if lacks is None:
        reference = Eager(prefill_precision="fp8_reference")
        fp8 = Compiled(**GRAPHS, buckets=buckets, prefill_precision="fp8")
        yield Case("cuda_graph, prefill in fp8", fp8, reference, ROUNDED, "bfloat16", ("pi05",))
    else:
        print(f"skipped: fp8, {lacks}")
    if find_spec("torch_tensorrt") is not None:
        yield Case("tensorrt", Eager(vision="tensorrt"), bound=ROUNDED, dtype="bfloat16", families=("pi05",))
        half = Eager(vision="tensorrt", vision_precision="fp16")
        yield Case("tensorrt, vision in fp16", half, bound=ROUNDED, dtype="bfloat16", families=("pi05",))
    else:
        print("skipped: tensorrt, torch_tensorrt is not installed")
    yield Case("compiled", Compiled(buckets=buckets), families=("pi05",))


@torch.inference_mode()
def compare(setting: Setting, case: Case, family: str) -> bool:
    """Whether the engine is off; its line is printed."""
    begin = time.perf_counter()
    with torch.inference_mode(False):
        model = setting.make(family, case.dtype)
    noise, scales = model.draw_noise(1, setting.device), None
    if case.config.rounds_to_float8:
        seen = [setting.inputs(setting.words[-1]) for _ in range(LEAST_OBSERVATIONS)]
        scales = Calibration("", len(seen), float("inf"), *calibrate(model, seen, Fp8()))
    engines = [make_engine(model, config, calibration=scales) for config in (case.reference, case.config)]
    engine = engines[1]
    engine.prepare(setting.inputs(setting.words[-1]), noise)
    worst = 0.0
    for words in setting.words:
        given = setting.inputs(words)
        for kept in KEPT:
            expected, actions = (_actions(each, given, noise, kept) for each in engines)
            worst = max(worst, ((actions - expected).abs().max() / expected.abs().max().clamp_min(1)).item())
    report = engine.report()
    off = not worst <= case.bound or report["parts_as_written"] > 0
    told = f"worst {worst:.1e} (at most {case.bound:g}), {report['compiled']} prepared in {report['compile_s']} s"
    told += f", {report['parts_as_written']} parts as written"
    told += "".join(f", {name} {report[name]}" for name in ("buckets", "fp8", "tensorrt") if name in report)
    print(f"{'OFF' if off else 'ok'}: {family} {case.name}: {told}; {time.perf_counter() - begin:.0f} s", flush=True)
    return off


def _actions(engine: StagedEngine, given: ModelInputs, noise: Any, kept: float | None) -> torch.Tensor:
    # A new pruner for each draws the same patches.
    return engine.run(given, noise, pruner=make_pruner(Random(keep_ratio=kept)) if kept else None).actions


def stand_ins() -> None:
    """On a machine without a GPU: what a graph does, done again; float8 by its reference form."""

    def recorded(function: Any) -> tuple[Any, Any]:
        result = function()

        def replay() -> None:
            for mine, new in zip(tensors_of(result), tensors_of(function()), strict=True):
                mine.copy_(new)

        return replay, result

    registry.BACKENDS["cuda_graph"] = lambda freeze: CapturedParts(recorded)
    registry.BACKENDS["compiled"] = lambda freeze: CompiledParts("eager", False)
    registry.on_cuda = lambda model: True
    precision = sys.modules["foveate.engine.precision"]
    precision.missing_units = lambda device: None  # type: ignore[attr-defined]


def main() -> int:
    dry = "--dry_run" in sys.argv[1:]
    if not dry and not torch.cuda.is_available():
        sys.exit(
            "benchmarks/gpu needs a CUDA device, and this machine has none; --dry_run tries the script without one"
        )
    if dry:
        stand_ins()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    setting, failed = DRY if dry else FULL, []
    for case in cases(setting):
        for family in case.families:
            try:
                if compare(setting, case, family):
                    failed.append(f"{family} {case.name}")
            except (FoveateError, RuntimeError) as error:
                print(f"OFF: {family} {case.name}: {error}", flush=True)
                failed.append(f"{family} {case.name}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    print(f"checks: {'all within their bounds' if not failed else 'OFF: ' + '; '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
