"""Training steps of π0 and π0.5 at 65 M parameters on a CPU: foveate, transformers and lerobot, interleaved in one run.

    python benchmarks/training/run.py --lerobot SOURCE_OF_LEROBOT_0.5.1 --out benchmarks/training/results.json

Equal weights, batch, noise, times, thread and optimizer (fused AdamW); a step is forward, backward, clipping and the
optimizer's step, foveate's moving average included. The losses of the first step have to agree (lerobot's to a percent,
with a transformers later than its own). Two of three cameras are there, as on LIBERO's and DROID's robots. In `equal`
every implementation computes the same tokens: two cameras, a prompt without padding. In `as run` each is given what its
own processor makes of the sample: lerobot three cameras, the absent one black and masked, and a prompt padded to 48
(π0) or 200 (π0.5) tokens; transformers (π0 alone) and foveate neither. With four flow samples foveate draws four noises
and times for each picture, which share its prefix; the rate counts pictures.

Then one process of one thread against two (DDP over gloo), the same batch in both, and against two processes that know
nothing of each other, with half of the batch each: what the machine can give. `--data SET`: a LeRobot set with videos
(made-up pictures where it is left out); the loader's own account stands beside. Prints tables, then JSON.
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
from functools import partial
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
Loss = Callable[[], Tensor]
REAL_TOKENS = {False: 20, True: 60}
"""Of a prompt; π0.5's holds the state."""


def make_batch(config: Pi0Config, rows: int, real_tokens: int, flows: int = 1) -> FlowBatch:
    """Samples whose third camera is absent, with prompts of so many tokens, padded to the model's length."""
    side, length = config.vision.image_size, config.max_token_len
    horizon, width = config.action_horizon, config.action_dim
    present = torch.arange(3)[None].expand(rows, 3) < 2
    real = (torch.arange(length) < real_tokens).expand(rows, length)
    inputs = ModelInputs(
        images=(torch.rand(rows, 3, 3, side, side) * 2 - 1).where(present[..., None, None, None], -1.0),
        image_masks=present,
        tokens=torch.randint(1, config.vocab_size, (rows, length)).where(real, 0),
        token_masks=real,
        state=torch.randn(rows, width),
    )
    actions, noise = torch.randn(rows, horizon, width), torch.randn(rows, flows, horizon, width)
    return FlowBatch(inputs, actions, noise, torch.rand(rows, flows), torch.ones(rows, horizon, dtype=torch.bool))


def without_padding(batch: FlowBatch, *, cameras: bool) -> FlowBatch:
    """The batch with the real tokens of its prompts alone, as foveate's loader cuts them; and with the real cameras."""
    inputs = batch.inputs
    real, present = inputs.token_masks[0], inputs.image_masks[0] | (not cameras)
    inputs = ModelInputs(
        images=inputs.images[:, present],
        image_masks=inputs.image_masks[:, present],
        tokens=inputs.tokens[:, real],
        token_masks=inputs.token_masks[:, real],
        state=inputs.state,
    )
    return replace(batch, inputs=inputs)


class Training:
    """A module and its optimizer, and for foveate the moving average; called with a loss it makes a step."""

    def __init__(self, module: nn.Module, average: bool = False) -> None:
        self.optimizer = make_optimizer(module, OptimConfig(lr=1e-5))
        self.ema = Ema(module, 0.99) if average else None
        self.parameters = [p for p in module.parameters() if p.requires_grad]

    def __call__(self, loss: Loss) -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(0)


def loss_of(name: str, module: nn.Module, model: Pi0, batch: FlowBatch, equal: bool) -> Loss:
    """An implementation's loss of a batch, given as its own processor would, or (`equal`) without padding."""
    if name == "foveate":
        return partial(module, without_padding(batch, cameras=False))
    present = without_padding(batch, cameras=True)
    if name == "lerobot":
        return partial(lerobot_peer.loss, module, present if equal else batch)
    given = transformers_peer.arguments(model, present.inputs)
    return lambda: module(**given, noise=batch.noise[:, 0], timestep=batch.time[:, 0], actions=batch.actions).loss


def steps_of(pi05: bool, rows: int, lerobot: Path | None) -> dict[tuple[str, str], tuple[Training, Loss]]:
    """(case, implementation) -> what makes a step, and its loss."""
    torch.manual_seed(0)
    config = replace(MID, pi05=pi05, max_token_len=200 if pi05 else 48)
    model = Pi0(config)
    modules: dict[str, nn.Module] = {"foveate": FlowMatching(model, NoiseConfig())}
    if not pi05:
        modules["transformers"] = transformers_peer.build(model).train()
    if lerobot is not None:
        modules["lerobot"] = lerobot_peer.build(model, lerobot).train()
    trained = {name: Training(module, average=name == "foveate") for name, module in modules.items()}
    found: dict[tuple[str, str], tuple[Training, Loss]] = {}
    for case, real_tokens in (("equal", config.max_token_len), ("as run", REAL_TOKENS[pi05])):
        batch = make_batch(config, rows, real_tokens)
        for name, module in modules.items():
            found[case, name] = trained[name], loss_of(name, module, model, batch, case == "equal")
    flows = make_batch(config, rows, REAL_TOKENS[pi05], flows=4)
    loss = loss_of("foveate", modules["foveate"], model, flows, False)
    found["as run", "foveate, 4 flow samples"] = trained["foveate"], loss
    return found


def against_peers(rows: int, rounds: int, lerobot: Path | None) -> list[dict[str, Any]]:
    """One result per implementation and case: samples per second, of rounds that run each once."""
    steps = {
        (model, *key): step
        for model, pi05 in (("π0", False), ("π0.5", True))
        for key, step in steps_of(pi05, rows, lerobot).items()
    }
    with torch.no_grad():
        losses = {key: float(loss()) for key, (_, loss) in steps.items()}
    for (model, case, name), value in losses.items():
        # lerobot was written for an earlier transformers, whose embeddings are scaled elsewhere; the work is the same.
        allowed, ours = 0.01 if name == "lerobot" else 1e-4, losses[model, case, "foveate"]
        assert "flow" in name or abs(value - ours) < allowed * ours, f"other losses, so another step: {losses}"
    for training, loss in steps.values():  # warm
        training(loss)
    wall: dict[Any, list[float]] = {key: [] for key in steps}
    cpu: dict[Any, list[float]] = {key: [] for key in steps}
    for turn in range(rounds):
        for key in list(steps)[:: 1 if turn % 2 else -1]:
            training, loss = steps[key]
            begun, used = time.perf_counter(), time.process_time()
            training(loss)
            wall[key].append(time.perf_counter() - begun)
            cpu[key].append(time.process_time() - used)
    median = {key: statistics.median(times) for key, times in wall.items()}
    return [
        {
            "model": model,
            "case": case,
            "implementation": name,
            "samples_per_s": rows / median[model, case, name],
            "samples_per_processor_s": rows / statistics.median(cpu[model, case, name]),
            "foveate_is_faster_by": median[model, case, name] / median[model, case, "foveate"],
            "first_loss": losses[model, case, name],
        }
        for model, case, name in steps
    ]


def processes(rows: int, steps: int, data: str | None, robot: str) -> dict[str, Any]:
    """Samples per second of `foveate train policy` in one process of one thread, in two, and in two on their own."""
    found: dict[str, Any] = {"rows": rows, "steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        one = start_training(Path(folder, "one"), rows, steps, data, robot)
        found["one"], found["one_loader"] = rate(one)
        two = start_training(Path(folder, "two"), rows, steps, data, robot, processes=2)
        found["two"], found["two_loader"] = rate(two)
        apart = [start_training(Path(folder, f"apart{i}"), rows // 2, steps, data, robot) for i in range(2)]
        found["two_apart"] = sum(rate(each)[0] for each in apart)
    return found | {"two_by_one": found["two"] / found["one"], "apart_by_one": found["two_apart"] / found["one"]}


Started = tuple[Path, "subprocess.Popen[str]"]


def start_training(out: Path, rows: int, steps: int, data: str | None, robot: str, processes: int = 1) -> Started:
    """`foveate train policy` of the mid size, one thread a process; its folder and the process."""
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
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    train = ["-m", "foveate", "train", "policy", "--config", str(file), "--out", str(out)]
    with out.with_suffix(".log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *start, *train]
        return out, subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)


def rate(started: Started) -> tuple[float, str]:
    """Samples per second of a training when it has ended, and what its loader says."""
    out, process = started
    told = out.with_suffix(".log")
    if process.wait():
        sys.exit(told.read_text()[-2000:])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    loader = re.search(r"loader: .*", told.read_text())
    # The first step warms up, the last one writes a checkpoint.
    return statistics.median(line["samples_per_s"] for line in lines[1:-1]), loader[0] if loader else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2, help="samples of a batch, twice as many in the second part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lerobot", type=Path, help="folder that holds lerobot/ of version 0.5.1")
    parser.add_argument("--data", help="LeRobot set for the run in two processes")
    parser.add_argument("--robot", default="metaworld", help="its mapping, with the views corner and gripperPOV")
    parser.add_argument("--steps", type=int, default=7, help="steps of the run in one and in two processes")
    parser.add_argument("--skip", choices=("peers", "processes"), help="leave a part out")
    parser.add_argument("--out", type=Path, help="file for the JSON document")
    args = parser.parse_args()
    torch.set_num_threads(1)
    document: dict[str, Any] = {"rows": args.rows, "rounds": args.rounds, "load_average": os.getloadavg()}
    if args.skip != "processes":
        document["processes"] = processes(2 * args.rows, args.steps, args.data, args.robot)
        print(json.dumps(document["processes"], indent=1))
    if args.skip != "peers":
        document["peers"] = against_peers(args.rows, args.rounds, args.lerobot)
        print(f"{'':38}samples/s  per processor second  foveate is faster by")
        for row in document["peers"]:
            print(
                f"{row['model']:<5}{row['case']:<7}{row['implementation']:<24}{row['samples_per_s']:11.2f}"
                f"{row['samples_per_processor_s']:22.2f}{row['foveate_is_faster_by']:22.2f}"
            )
    text = json.dumps({**document, "torch": torch.__version__, **provenance()}, indent=1, ensure_ascii=False)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
