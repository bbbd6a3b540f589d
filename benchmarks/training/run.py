"""Training steps of π0 at 65 M parameters on a CPU: foveate, transformers and lerobot, interleaved in one run.

    python benchmarks/training/run.py --lerobot PATH_OF_LEROBOT_0.5.1_SOURCE --out benchmarks/training/results.json

Equal weights, batch, noise, times, thread and optimizer (fused AdamW); a step is forward, backward, clipping and the
optimizer's step, foveate's moving average included. The losses of the first step have to agree (lerobot's to a percent,
with a transformers later than its own). Cameras: 2 of 3, as
LIBERO's and DROID's robots have them, and 3 of 3. transformers gets what its own processor would give it (an absent
camera is not there); lerobot always takes three.

Then one process of one thread against two (DDP over gloo), the same batch in all, `--data SET` (a LeRobot set with
videos; made-up pictures where it is left out), with the utilisation that the loader reports. Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from foveate.golden import peer as transformers_peer
from foveate.models.base import ModelInputs
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.model import Pi0
from foveate.training.config import NoiseConfig, OptimConfig
from foveate.training.ema import Ema
from foveate.training.loop import make_optimizer
from foveate.training.policy.pi0.losses import FlowBatch, FlowMatching
from foveate.training.policy.untrained import MID as BENCH_MID
from foveate.util.provenance import provenance

sys.path.insert(0, str(Path(__file__).parent))
import lerobot_peer

MID = replace(BENCH_MID, pi05=False, views=Pi0Config().views, max_token_len=48)
Step = Callable[[], Tensor]


def make_batch(rows: int, cameras: int) -> FlowBatch:
    """`rows` samples, 48 prompt tokens without padding; cameras beyond the first ones are absent."""
    side, horizon, width = MID.vision.image_size, MID.action_horizon, MID.action_dim
    present = (torch.arange(3)[None] < cameras).expand(rows, 3)
    inputs = ModelInputs(
        images=torch.rand(rows, 3, 3, side, side) * 2 - 1,
        image_masks=present,
        tokens=torch.randint(1, MID.vocab_size, (rows, 48)),
        token_masks=torch.ones(rows, 48, dtype=torch.bool),
        state=torch.randn(rows, width),
    )
    actions, noise = torch.randn(rows, horizon, width), torch.randn(rows, 1, horizon, width)
    return FlowBatch(inputs, actions, noise, torch.rand(rows, 1), torch.ones(rows, horizon, dtype=torch.bool))


def step_of(module: nn.Module, loss: Callable[[], Tensor], average: bool = False) -> Step:
    """One optimizer step, which gives its loss."""
    optimizer = make_optimizer(module, OptimConfig(lr=1e-5))
    ema = Ema(module, 0.99) if average else None
    parameters = [p for p in module.parameters() if p.requires_grad]

    def step() -> Tensor:
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            ema.update(0)
        return value.detach()

    return step


def transformers_loss(theirs: nn.Module, model: Pi0, batch: FlowBatch) -> Callable[[], Tensor]:
    given = transformers_peer.arguments(model, batch.inputs)
    absent = ~batch.inputs.image_masks[0]
    if absent.any():  # all rows have the same cameras
        patches = MID.vision.grid[0] * MID.vision.grid[1]
        real = torch.cat(((~absent).repeat_interleave(patches), torch.ones(48, dtype=torch.bool)))
        given |= {name: given[name][:, real] for name in ("input_ids", "attention_mask")}
        given |= {name: given[name][:, ~absent] for name in ("pixel_values", "pixel_attention_mask")}

    def loss() -> Tensor:
        return theirs(**given, noise=batch.noise[:, 0], timestep=batch.time[:, 0], actions=batch.actions).loss

    return loss


def against_peers(rows: int, cameras: int, rounds: int, lerobot: Path | None) -> list[dict[str, Any]]:
    """One result per implementation: milliseconds of a step, in rounds that run each once."""
    torch.manual_seed(0)
    model, batch = Pi0(MID), make_batch(rows, cameras)
    objective = FlowMatching(model, NoiseConfig())
    theirs = transformers_peer.build(model).train()
    steps = {
        "foveate": step_of(objective, lambda: objective(batch), average=True),
        "transformers": step_of(theirs, transformers_loss(theirs, model, batch)),
    }
    if lerobot is not None:
        other = lerobot_peer.build(model, lerobot).train()
        steps["lerobot"] = step_of(other, lambda: lerobot_peer.loss(other, batch))
    first = {name: float(step()) for name, step in steps.items()}
    for name, value in first.items():
        # lerobot was written for an earlier transformers, whose embeddings are scaled elsewhere: the work is the same.
        allowed = 0.01 if name == "lerobot" else 1e-4
        assert abs(value - first["foveate"]) < allowed * first["foveate"], f"other losses, so another step: {first}"
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            begun, used = time.perf_counter(), time.process_time()
            steps[name]()
            wall[name].append(time.perf_counter() - begun)
            cpu[name].append(time.process_time() - used)
    ours = statistics.median(cpu["foveate"])
    return [
        {
            "implementation": name,
            "cameras": cameras,
            "samples_per_s": rows / statistics.median(wall[name]),
            "samples_per_processor_s": rows / statistics.median(cpu[name]),
            "foveate_is_faster_by": statistics.median(cpu[name]) / ours,
            "first_loss": first[name],
        }
        for name in steps
    ]


def processes(rows: int, steps: int, data: str | None, robot: str) -> dict[str, Any]:
    """Samples per second of `foveate train policy` in one process of one thread, and in two."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "model": replace(MID, pi05=True, views=("corner", "gripperPOV"), action_horizon=10).to_dict(),
            "data": {"path": [data or "fake"], "robot": robot, "decode_workers": 1},
            "loop": {
                "steps": steps,
                "batch_size": rows,
                "save_every": 10**6,
                "log_every": 1,
                "device": "cpu",
                "threads": 1,
            },
        }
        file = Path(folder, "mid.yaml")
        file.write_text(yaml.safe_dump(config))
        for count in (1, 2):
            start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"] if count > 1 else []
            out = Path(folder, str(count))
            train = ["-m", "foveate", "train", "policy", "--config", str(file), "--out", str(out)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run([sys.executable, *start, *train], capture_output=True, text=True, env=environment)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            # The first step warms up, the last one writes a checkpoint.
            found[f"{count}_samples_per_s"] = statistics.median(line["samples_per_s"] for line in lines[1:-1])
            if told := re.search(r"loader.*", done.stdout + done.stderr):
                found[f"{count}_loader"] = told[0]
    found["two_by_one"] = found["2_samples_per_s"] / found["1_samples_per_s"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4, help="samples of a batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cameras", type=int, nargs="+", default=[2, 3], help="cameras that are there, of three")
    parser.add_argument("--lerobot", type=Path, help="folder that holds lerobot/ of version 0.5.1")
    parser.add_argument("--data", help="LeRobot set for the run in two processes")
    parser.add_argument("--robot", default="metaworld", help="its mapping, with the views corner and gripperPOV")
    parser.add_argument("--steps", type=int, default=10, help="steps of the run in one and in two processes")
    parser.add_argument("--skip", choices=("peers", "processes"), help="leave a part out")
    parser.add_argument("--out", type=Path, help="file for the JSON document")
    args = parser.parse_args()
    torch.set_num_threads(1)
    document: dict[str, Any] = {"rows": args.rows, "rounds": args.rounds, "load_average": os.getloadavg()}
    if args.skip != "peers":
        document["peers"] = [
            row for cameras in args.cameras for row in against_peers(args.rows, cameras, args.rounds, args.lerobot)
        ]
        print(f"{'':14}cameras  samples/s  per processor second  foveate is faster by")
        for row in document["peers"]:
            print(
                f"{row['implementation']:<14}{row['cameras']:7}{row['samples_per_s']:11.2f}"
                f"{row['samples_per_processor_s']:22.2f}{row['foveate_is_faster_by']:22.2f}"
            )
    if args.skip != "processes":
        document["processes"] = processes(2 * args.rows, args.steps, args.data, args.robot)
        print(json.dumps(document["processes"], indent=1))
    text = json.dumps({**document, "torch": torch.__version__, **provenance()}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
