"""Three training steps of a policy with random weights: memory predicted and measured, steps per second.

python benchmarks/gpu/train.py --size pi05 --batch 8 --gradient_checkpointing
python benchmarks/gpu/train.py --size pi05_mid --batch 2 --device cpu        # does it run?
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from foveate.models.pi0.model import Pi0
from foveate.training.config import LoopConfig, NoiseConfig, OptimConfig
from foveate.training.ema import Ema
from foveate.training.loop import make_optimizer
from foveate.training.policy.lora import LoraConfig
from foveate.training.policy.pi0.adapters import train_adapters
from foveate.training.policy.pi0.losses import FlowMatching
from foveate.training.policy.plan import PlanConfig, blank_batch, predict
from foveate.training.policy.untrained import SIZES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="pi05")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lora", type=int, default=0, metavar="RANK")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    lora = LoraConfig(rank=args.lora, alpha=args.lora) if args.lora else None
    loop = LoopConfig(batch_size=args.batch, precision="bfloat16")
    plan = PlanConfig(loop=loop, lora=lora, gradient_checkpointing=args.gradient_checkpointing)
    predicted = predict(SIZES[args.size], plan)

    torch.manual_seed(0)
    with torch.device(args.device):
        model = Pi0(SIZES[args.size])
        if lora is not None:
            train_adapters(model, lora, "bfloat16")
    objective = FlowMatching(model, NoiseConfig(), recompute=args.gradient_checkpointing)
    optimizer, ema = make_optimizer(objective, OptimConfig()), Ema(objective, 0.999)
    batch = blank_batch(SIZES[args.size], args.batch).to(args.device)
    seconds, losses = [], []
    for step in range(args.steps):
        start = time.perf_counter()
        with torch.autocast(args.device, torch.bfloat16, cache_enabled=False):
            loss = objective(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ema.parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(step)
        losses.append(float(loss.detach()))  # waits for the device
        seconds.append(time.perf_counter() - start)
    on_gpu = args.device.startswith("cuda")
    measured = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    result = {
        **vars(args),
        "torch": torch.__version__,
        "name": torch.cuda.get_device_name() if on_gpu else "cpu",
        "losses": losses,
        "first_step_s": seconds[0],
        "steps_per_s": 1 / min(seconds[1:] or seconds),
        "predicted_GB": {name: value / 1e9 for name, value in vars(predicted).items()}
        | {"total": predicted.total / 1e9},
        "measured_GB": measured,
    }
    told = f"{measured:.1f} GB measured, " if measured is not None else ""
    print(f"{result['steps_per_s']:.2f} steps/s of {args.batch}, {told}{predicted.total / 1e9:.1f} GB predicted")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
