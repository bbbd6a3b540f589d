"""The demo of LightVLA on π0.5 that openpi forks have, in foveate's words: 800 prefix tokens, and what is left of them.

python examples/openpi_pruning.py        # on a CPU, seconds; weights, pictures and prompt are random

Three views of 256 patches and 32 text tokens. Evaluation drops tokens; training keeps the length and the gradient.
"""

from __future__ import annotations

import torch

from foveate.models.base import ModelInputs, pack
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.model import Pi0
from foveate.pruning import LightVLA, make_pruner
from foveate.pruning.base import pruning_stats

GEMMA = GemmaConfig(width=64, depth=4, mlp_dim=128, num_heads=8, num_kv_heads=1, head_dim=16)
VISION = VisionConfig(64, 2, 4, 128, patch_size=14, image_size=224, projection_dim=64)
CONFIG = Pi0Config(pi05=True, max_token_len=32, vocab_size=512, llm=GEMMA, expert=GEMMA, vision=VISION)


def main() -> None:
    """Embed a prefix; prune it as in evaluation, within a budget, and as in training."""
    torch.manual_seed(0)
    model = Pi0(CONFIG).eval()
    inputs = ModelInputs(
        images=torch.rand(1, 3, 3, 224, 224) * 2 - 1,
        image_masks=torch.ones(1, 3, dtype=torch.bool),
        tokens=torch.randint(0, CONFIG.vocab_size, (1, 32)),
        token_masks=torch.ones(1, 32, dtype=torch.bool),
        state=torch.zeros(1, CONFIG.action_dim),
    )
    with torch.inference_mode():
        prefix = model.embed_prefix(inputs)
        print(f"no_prune: tokens={prefix.embeds.shape[1]} pad_true={int(prefix.mask.sum())}")
        for budget in ({}, {"keep_tokens": 24}, {"keep_ratio": 0.1}):
            pruner = make_pruner(LightVLA(**budget)).eval()
            pruned = pack(pruner.select(prefix).apply(prefix))
            print(f"lightvla {budget or ''}: tokens={pruned.embeds.shape[1]} pad_true={int(pruned.mask.sum())}")
            print(f"  stats: {pruning_stats(pruner)}")
    pruner = make_pruner(LightVLA()).train()
    pruner.set_noise_scale(0.5)
    prefix = model.train().embed_prefix(inputs)
    trained = pruner.select(prefix).apply(prefix)
    trained.embeds.sum().backward()
    print(f"training: tokens={trained.embeds.shape[1]} requires_grad={trained.embeds.requires_grad}")


if __name__ == "__main__":
    main()
