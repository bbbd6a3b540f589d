"""The engines of a GPU against eager on the same GPU, in float32 on mid-size random models: every length, no fallback.

    python benchmarks/gpu/check.py

Exit status 1: an engine is off, or ran something as written that it was prepared for.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from foveate.engine.config import Compiled, Eager
from foveate.engine.registry import make_engine
from foveate.models.base import ModelInputs
from foveate.models.pi0.model import Pi0
from foveate.pruning import Random, make_pruner
from foveate.training.policy.untrained import MID

WORST = 1e-3
"""Largest difference of any number of any action."""
GRAPHS = dict.fromkeys(("vision", "prefill", "denoise"), "cuda_graph")
BUCKETS = (192, 320, 576)
ENGINES: dict[str, Eager] = {"compiled": Compiled(buckets=BUCKETS), "cuda_graph": Compiled(**GRAPHS, buckets=BUCKETS)}
WORDS = (12, 30, 48)
KEPT = (None, 0.5, 0.25)


def inputs_of(words: int) -> ModelInputs:
    real = torch.arange(48)[None] < words
    views = len(MID.views)
    return ModelInputs(
        images=torch.rand(1, views, 3, MID.vision.image_size, MID.vision.image_size) * 2 - 1,
        image_masks=torch.arange(views)[None] < 2,
        tokens=torch.randint(1, MID.vocab_size, (1, 48)).masked_fill(~real, 0),
        token_masks=real,
        state=torch.randn(1, MID.action_dim),
    ).to("cuda")


@torch.inference_mode()
def main() -> int:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu needs a CUDA device, and this machine has none")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    failed = 0
    for pi05 in (True, False):
        model = Pi0(replace(MID, pi05=pi05)).eval().cuda()
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))  # the gates of adaptive norms start at 0
        noise = model.draw_noise(1, "cuda")
        eager = make_engine(model)
        for name, config in ENGINES.items():
            engine, worst = make_engine(model, config), 0.0
            engine.prepare(inputs_of(48), noise)
            for words in WORDS:
                given = inputs_of(words)
                for kept in KEPT:
                    # A new pruner for each draws the same patches.
                    actions = [
                        each.run(given, noise, pruner=make_pruner(Random(keep_ratio=kept)) if kept else None).actions
                        for each in (eager, engine)
                    ]
                    worst = max(worst, (actions[0] - actions[1]).abs().max().item())
            report = engine.report()
            off = not worst <= WORST or report["parts_as_written"] > 0
            failed += off
            told = f"worst {worst:.1e}, {report['compiled']} prepared in {report['compile_s']} s"
            told += f", {report['parts_as_written']} parts as written, buckets {report['buckets']['lengths']}"
            print(f"{'OFF' if off else 'ok'}: {'pi05' if pi05 else 'pi0'} {name}: {told}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
