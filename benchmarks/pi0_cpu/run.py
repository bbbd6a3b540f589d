"""foveate's π0 against transformers' PI0ForConditionalGeneration on a CPU: equal weights, interleaved in one run.

    python benchmarks/pi0_cpu/run.py --rounds 15 --out benchmarks/pi0_cpu/results.json
    python benchmarks/pi0_cpu/run.py --compile --compile_peer --cameras 2   # compiles first, for minutes
    python benchmarks/pi0_cpu/run.py --openvino --cameras 2                 # needs `pip install openvino`

Two ways to feed the models, with 2 and with 3 cameras:

- `processor`: as transformers' own processor does. Absent cameras have no tokens; 48 prompt tokens, no padding.
- `openpi`: as openpi feeds the model. Always three cameras and 200 prompt tokens (48 of them real), the rest masked.

Each round runs every variant once, in a shuffled order. Wall-clock time says what a user waits; processor time (of all
threads) stays meaningful where other processes share the cores, and GFLOP/s are taken from it. Prints a table, then
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from openvino_peer import openvino_peer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from foveate.engine.config import PRESETS
from foveate.engine.registry import make_engine
from foveate.engine.staged import StagedEngine
from foveate.golden import peer
from foveate.models.base import ModelInputs
from foveate.models.pi0.config import GemmaConfig, Pi0Config
from foveate.models.pi0.model import Pi0
from foveate.pruning import LightVLA, Random, make_pruner
from foveate.training.policy.untrained import MID as BENCH_MID

# The project's mid-size model as π0 with openpi's three cameras, on transformers' time grid.
MID = replace(BENCH_MID, pi05=False, views=Pi0Config().views, time_grid="exact")
PROMPT = 48
BASELINE = "transformers"
Samples = dict[tuple[str, int, str], list[float]]
"""(feed, cameras, variant) -> seconds, one per round."""
BUCKETS = {2: (192, 576), 3: (256, 832)}
"""Cameras -> prefix lengths to prepare: 2 to 9 % above those of the inputs, pruned to 25 % and not."""
PRUNERS = {"foveate, LightVLA 25 %": LightVLA(keep_ratio=0.25), "foveate, random 25 %": Random(keep_ratio=0.25)}


def make_inputs(cameras: int, feed: str) -> ModelInputs:
    """One observation in foveate's form: three camera slots, some absent; 200 prompt slots under `openpi`."""
    length = 200 if feed == "openpi" else PROMPT
    real = torch.arange(length)[None] < PROMPT
    return ModelInputs(
        images=torch.rand(1, 3, 3, MID.vision.image_size, MID.vision.image_size) * 2 - 1,
        image_masks=torch.arange(3)[None] < cameras,
        tokens=torch.randint(1, MID.vocab_size, (1, length)).masked_fill(~real, 0),
        token_masks=real,
        state=torch.randn(1, MID.action_dim),
    )


def gflop(cameras: int, text: int) -> float:
    """Matrix products of one inference on exactly these tokens, 2 per multiply-add; the last backbone layer's
    queries, output and MLP are not needed, and π0's state token runs once."""
    v, llm, expert = MID.vision, MID.llm, MID.expert
    patches = v.grid[0] * v.grid[1]
    tokens = cameras * patches + text
    vision_layer = 4 * v.hidden_size**2 + 2 * v.hidden_size * v.intermediate_size + 2 * patches * v.hidden_size
    vision = v.num_hidden_layers * vision_layer + v.hidden_size * (3 * v.patch_size**2 + v.projection_dim)
    total = cameras * patches * vision

    def layer(g: GemmaConfig, seen: int) -> int:
        wide = g.num_heads * g.head_dim
        return g.width * (2 * wide + 2 * g.num_kv_heads * g.head_dim) + 3 * g.width * g.mlp_dim + 2 * seen * wide

    total += tokens * ((llm.depth - 1) * layer(llm, tokens) + llm.width * 2 * llm.num_kv_heads * llm.head_dim)
    total += expert.depth * layer(expert, tokens + 1)
    step = expert.depth * layer(expert, tokens + 1 + MID.action_horizon) + 3 * expert.width**2
    total += MID.num_steps * MID.action_horizon * (step + 2 * expert.width * MID.action_dim)
    return 2 * total / 1e9


def matmul_peak(cameras: int) -> dict[str, float]:
    """GFLOP/s of bare matrix products at the model's main shapes [rows, inner] x [inner, columns]."""
    v, llm, expert = MID.vision, MID.llm, MID.expert
    patches = cameras * v.grid[0] * v.grid[1]
    tokens = patches + PROMPT
    shapes = {
        "vision MLP": (patches, v.hidden_size, v.intermediate_size),
        "backbone MLP": (tokens, llm.width, 2 * llm.mlp_dim),
        "expert MLP": (MID.action_horizon, expert.width, 2 * expert.mlp_dim),
    }
    rates = {}
    for name, (rows, inner, columns) in shapes.items():
        x, w = torch.randn(rows, inner), torch.randn(inner, columns)
        repeats = max(3, int(2e9 / (rows * inner * columns)))
        best = float("inf")
        for _ in range(7):
            start = time.process_time()
            for _ in range(repeats):
                x @ w
            best = min(best, (time.process_time() - start) / torch.get_num_threads() / repeats)
        rates[f"{name} [{rows}, {inner}] x [{inner}, {columns}]"] = 2e-9 * rows * inner * columns / best
    return rates


def ready_engine(
    preset: str, model: Pi0, noise: torch.Tensor, cameras: list[int]
) -> tuple[StagedEngine, dict[str, object]]:
    """The engine, ready for these numbers of cameras, and what its preparation took."""
    buckets = tuple(sorted(length for number in cameras for length in BUCKETS[number]))
    engine, start = make_engine(model, PRESETS[preset](buckets=buckets)), time.perf_counter()
    for number in cameras:
        engine.prepare(make_inputs(number, "openpi"), noise)
    return engine, {"wall_s": round(time.perf_counter() - start, 1), **engine.report()}


def compiled_peer(theirs: torch.nn.Module) -> Callable:
    """transformers' whole sampling as its user would compile it: static shapes, weights frozen."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(theirs.sample_actions, dynamic=False)


def variants(
    model: Pi0,
    theirs: torch.nn.Module,
    feed: str,
    cameras: int,
    noise: torch.Tensor,
    engines: dict[str, StagedEngine],
    peer_compiled: Callable | None,
) -> dict[str, Callable]:
    inputs, engine = make_inputs(cameras, feed), make_engine(model)
    given = peer.arguments(model, inputs)
    if feed == "processor":
        given = peer.leave_out_absent(given)

    def run_peer() -> torch.Tensor:
        return theirs.sample_actions(noise=noise, **given)

    def run_ours(pruner: LightVLA | Random | None = None, engine: StagedEngine = engine) -> torch.Tensor:
        return engine.run(inputs, noise, pruner=make_pruner(pruner)).actions

    def run_padded() -> torch.Tensor:
        return model.sample_actions(inputs, noise, packed=False)

    runs: dict[str, Callable] = {BASELINE: run_peer, "foveate": run_ours}
    if feed == "openpi":
        runs["foveate, not packed"] = run_padded
    if peer_compiled is not None and (feed, cameras) == ("processor", 2):  # minutes of compilation each
        runs["transformers, compiled"] = lambda: peer_compiled(noise=noise, **given)
    if "openvino" in engines and feed == "processor":
        runs["transformers in OpenVINO"] = openvino_peer(theirs, given, noise, MID.num_steps)
    for preset, ready in engines.items():
        own = f"foveate, {preset}"
        runs[own] = lambda ready=ready: run_ours(engine=ready)
        pruned = {name.replace("foveate", own): config for name, config in PRUNERS.items()}
        runs |= {name: (lambda config=config, ready=ready: run_ours(config, ready)) for name, config in pruned.items()}
    return runs | {name: (lambda config=config: run_ours(config)) for name, config in PRUNERS.items()}


def is_pruned(variant: str) -> bool:
    """Whether it drops patches, and so acts differently."""
    return variant.endswith("%")


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Median, and the quartiles around it."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


@torch.inference_mode()
def measure(args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    with torch.inference_mode(False):  # what is exported holds no weights of inference mode
        model = Pi0(MID).eval()
        theirs = peer.build(model).requires_grad_(False)
    noise = model.draw_noise(1, "cpu")
    presets = [name for name, asked in (("compiled", args.compile), ("openvino", args.openvino)) if asked]
    ready = {preset: ready_engine(preset, model, noise, args.cameras) for preset in presets}
    engines = {preset: engine for preset, (engine, _) in ready.items()}
    peer_compiled = compiled_peer(theirs) if args.compile_peer else None
    jobs: dict[tuple[str, int], dict[str, Callable]] = {}
    differences = {}
    for feed in ("processor", "openpi"):
        for cameras in args.cameras:
            jobs[feed, cameras] = variants(model, theirs, feed, cameras, noise, engines, peer_compiled)
            runs = jobs[feed, cameras]
            expected = runs[BASELINE]()
            for name in runs:
                if not is_pruned(name) and name != BASELINE:
                    error = (runs[name]() - expected).abs().max().item()
                    differences[f"{feed}, {cameras} cameras, {name}"] = error
                    assert error < 5e-5, f"{name} differs from transformers by {error}"
    peaks = {cameras: matmul_peak(cameras) for cameras in args.cameras}
    order = [(*job, name) for job, runs in jobs.items() for name in runs]
    wall: Samples = {key: [] for key in order}
    cpu: Samples = {key: [] for key in order}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    load_before = os.getloadavg()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("inferences", total=(args.warmup + args.rounds) * len(order))
        for turn in range(args.warmup + args.rounds):
            random.Random(turn).shuffle(order)
            for key in order:
                start, start_cpu = time.perf_counter(), time.process_time()
                jobs[key[0], key[1]][key[2]]()
                if turn >= args.warmup:
                    wall[key].append(time.perf_counter() - start)
                    cpu[key].append(time.process_time() - start_cpu)
                progress.advance(task)
    rows = [row(key, wall, cpu) for key in wall]
    return {
        "command": " ".join(["python benchmarks/pi0_cpu/run.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_average_1_5_15_min": {"before": load_before, "after": os.getloadavg()},
        "versions": {"torch": torch.__version__, "transformers": __import__("transformers").__version__},
        "threads": args.threads,
        "rounds": args.rounds,
        "config": MID.to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "largest_difference_of_actions": differences,
        "compilation": {preset: took for preset, (_, took) in ready.items()},
        "matmul_gflops": {f"{cameras} cameras": rates for cameras, rates in peaks.items()},
        "rows": rows,
        "wall_seconds": {" | ".join(map(str, key)): [round(s, 5) for s in values] for key, values in wall.items()},
        "cpu_seconds": {" | ".join(map(str, key)): [round(s, 5) for s in values] for key, values in cpu.items()},
    }


def row(key: tuple[str, int, str], wall: Samples, cpu: Samples) -> dict:
    """Medians and quartiles; ratios are taken within each round."""
    feed, cameras, name = key
    work = None if is_pruned(name) else gflop(cameras, PROMPT)
    result: dict = {"feed": feed, "cameras": cameras, "variant": name, "exact_gflop": work and round(work, 1)}
    for kind, samples in (("wall", wall), ("cpu", cpu)):
        times = quartiles([1e3 * s for s in samples[key]])
        ratios = quartiles([b / s for b, s in zip(samples[feed, cameras, BASELINE], samples[key], strict=True)])
        result[f"{kind}_ms"], *result[f"{kind}_ms_quartiles"] = (round(t, 1) for t in times)
        result[f"{kind}_speedup"], *result[f"{kind}_speedup_quartiles"] = (round(r, 3) for r in ratios)
    result["gflops"] = work and round(work / result["cpu_ms"] * torch.get_num_threads() * 1e3, 1)
    return result


def machine() -> str:
    """Processor and cores, as the system names them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def print_table(result: dict, console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("feed", "cameras", "variant", "ms", "speed-up", "cpu ms", "cpu speed-up", "GFLOP/s"):
        table.add_column(heading, justify="left" if heading in ("feed", "variant") else "right", no_wrap=True)
    for r in result["rows"]:
        cells = []
        for kind in ("wall", "cpu"):
            for value, digits in (("ms", 0), ("speedup", 2)):
                low, high = r[f"{kind}_{value}_quartiles"]
                cells.append(f"{r[f'{kind}_{value}']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        rate = f"{r['gflops']:.0f}" if r["gflops"] else ""
        table.add_row(r["feed"], str(r["cameras"]), r["variant"], *cells, rate)
    console.print(table)
    for cameras, rates in result["matmul_gflops"].items():
        console.print(
            f"matmul, {cameras}: " + "; ".join(f"{shape} {rate:.0f} GFLOP/s" for shape, rate in rates.items())
        )
    load = result["load_average_1_5_15_min"]
    console.print(f"load average: {load['before'][0]:.1f} before, {load['after'][0]:.1f} after; {result['machine']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed inferences of each variant (default: 15)")
    parser.add_argument("--warmup", type=int, default=2, help="untimed ones before (default: 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch (default: all cores)")
    parser.add_argument("--cameras", type=int, nargs="+", choices=(2, 3), default=[2, 3], help="(default: 2 and 3)")
    parser.add_argument("--compile", action="store_true", help="the compiled engine too")
    parser.add_argument("--compile_peer", action="store_true", help="and transformers, frozen: minutes of compilation")
    parser.add_argument("--openvino", action="store_true", help="the engine openvino, and transformers there")
    parser.add_argument("--out", type=Path, help="write the JSON document there too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console = Console()
    result = measure(args)
    print_table(result, console if console.is_terminal else Console(width=160))
    document = json.dumps(result, indent=1)
    print(document)
    if args.out:
        args.out.write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
