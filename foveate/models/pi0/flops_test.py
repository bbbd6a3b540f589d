import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foveate.models.base import pack
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.flops import denoise_flops, gflops, prefill_flops, vision_flops
from foveate.models.pi0.model import ModelInputs, Pi0

TINY = Pi0Config(
    action_dim=7,
    action_horizon=5,
    max_token_len=11,
    vocab_size=64,
    llm=GemmaConfig(width=32, depth=3, mlp_dim=48, num_heads=4, num_kv_heads=2, head_dim=16),
    expert=GemmaConfig(width=24, depth=3, mlp_dim=40, num_heads=4, num_kv_heads=2, head_dim=16),
    vision=VisionConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        patch_size=14,
        image_size=56,
        projection_dim=32,
    ),
    views=("a", "b"),
    num_steps=4,
    time_grid="exact",
)


@pytest.mark.parametrize("pi05", [True, False])
def test_counts_what_torch_counts(pi05):
    config = dataclasses.replace(TINY, pi05=pi05)
    model = Pi0(config).eval()
    inputs = ModelInputs(
        images=torch.rand(1, 2, 3, 56, 56),
        image_masks=torch.ones(1, 2, dtype=torch.bool),
        tokens=torch.randint(0, 64, (1, 11)),
        token_masks=torch.ones(1, 11, dtype=torch.bool),
        state=torch.zeros(1, 7),
    )

    def count(stage):
        # The counter does not know torch's fused attention for CPUs; the plain one it counts product by product.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            result = stage()
        return counter.get_total_flops(), result

    with torch.no_grad():
        vision, _ = count(lambda: model.embed_images(inputs.images.flatten(0, 1)))
        prefix = pack(model.embed_prefix(inputs))
        prefill, cache = count(lambda: model.prefill(prefix))
        denoise, _ = count(lambda: model.denoise(cache, inputs.state, torch.randn(1, 5, 7)))
    tokens = prefix.embeds.shape[1]
    assert tokens == 2 * 16 + 11
    assert vision == vision_flops(config, 2)
    assert prefill == prefill_flops(config, tokens)
    assert denoise == denoise_flops(config, tokens, 4)


def test_published_size():
    """π0.5 with three cameras and 200 prompt tokens: the parts that dominate, by hand."""
    stages = gflops(Pi0Config(), views=3, tokens=968, num_steps=10)
    backbone_matrices = 18 * (2048 * 256 * (8 + 1) * 2 + 3 * 2048 * 16_384)
    assert stages["prefill"] == pytest.approx(2 * 968 * backbone_matrices / 1e9, rel=0.06)
    assert stages["total"] == pytest.approx(stages["vision"] + stages["prefill"] + stages["denoise"])
    fewer = gflops(Pi0Config(), views=3, tokens=200 + 192, num_steps=10)
    assert fewer["vision"] == stages["vision"] and fewer["prefill"] < 0.45 * stages["prefill"]
