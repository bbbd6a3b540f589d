from __future__ import annotations

import pytest
import torch

from foveate.models.vlm.vision_attention import PACKED_SDPA, batch_equal_pictures
from foveate.testing.vlm import tiny_parts


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl", "qwen2_vl"])
def test_batched_pictures_equal_the_stock_loop(kind):
    stock, batched = tiny_parts(kind)[0].eval(), tiny_parts(kind)[0].eval()
    classes = [type(module) for module in batched.modules()]
    for _ in range(2):  # once is enough
        batch_equal_pictures(batched)
    assert [type(module) for module in batched.modules()] == classes
    assert batched.state_dict().keys() == stock.state_dict().keys()
    used = [config._attn_implementation for m in (stock, batched) for config in (m.config.vision_config, m.config)]
    assert used == ["sdpa", "sdpa", PACKED_SDPA, "sdpa"]
    assert batched.config.text_config._attn_implementation == "sdpa"
    for sizes in ([(4, 4)] * 3, [(4, 4), (8, 4), (4, 4)], [(8, 8)]):
        pixels = torch.randn(sum(h * w for h, w in sizes), 3 * 2 * 8 * 8)
        grid = torch.tensor([(1, h, w) for h, w in sizes])
        with torch.no_grad():
            a, b = (torch.cat(list(m.get_image_features(pixels, grid).pooler_output)) for m in (stock, batched))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
