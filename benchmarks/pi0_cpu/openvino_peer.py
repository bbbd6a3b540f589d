"""transformers' π0 in OpenVINO, a second peer on a CPU: exported and converted stage by stage, float32.

The whole sampling in one piece does not convert as `torch.export` gives it: transformers concatenates with an empty
cache, and OpenVINO's sum over booleans (2026.4) is wrong, so that pictures land in wrong places. Both are left out:
the prefill keeps its keys and values as they are, and foveate's own conversion sums integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from foveate.engine.openvino import converted


class Kept(DynamicCache):
    """Keys and values of a prefill, in the order of the layers; nothing was there before."""

    def update(self, key: Tensor, value: Tensor, layer: int | None = None, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.kept = [*getattr(self, "kept", ()), key, value]
        return key, value

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        return 0

    def get_mask_sizes(self, queries: Any, *_: Any, **__: Any) -> tuple[int, int]:
        return (queries if isinstance(queries, int) else queries.shape[0]), 0


class Embed(nn.Module):
    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.theirs = theirs

    def forward(self, tokens: Tensor, pixels: Tensor, cameras: Tensor) -> Tensor:
        return self.theirs.model.embed_prefix(tokens, pixels, cameras)


class Prefill(Embed):
    def forward(self, embeds: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        cache = Kept()
        self.theirs.model.vlm(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=mask.cumsum(-1) - 1,
            token_type_ids=torch.zeros_like(embeds)[:, :, 0],
            past_key_values=cache,
            use_cache=True,
        )
        return tuple(cache.kept)


class Step(Embed):
    def forward(self, state: Tensor, x: Tensor, t: Tensor, mask: Tensor, cameras: Tensor, *kept: Tensor) -> Tensor:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(kept[::2], kept[1::2], strict=True)):
            cache.update(keys[:, :, :0], values[:, :, :0], layer)
            cache.layers[layer].keys, cache.layers[layer].values = keys, values
        arguments = {"state": state, "noise": x, "timestep": t, "attention_mask": mask}
        return self.theirs(**arguments, pixel_attention_mask=cameras, past_key_values=cache).logits


def ready(stage: nn.Module, given: tuple[Tensor, ...]) -> Callable[..., list[Any]]:
    """The stage in OpenVINO, for inputs of these shapes: arrays in, arrays out."""
    compiled = converted(torch.export.export(stage, given, strict=False))
    request = compiled.create_infer_request()

    def run(*arrays: Any) -> list[Any]:
        results = request.infer(list(arrays), share_inputs=True, share_outputs=True)
        return [results[output] for output in compiled.outputs]

    return run


def openvino_peer(theirs: nn.Module, given: Mapping[str, Tensor], noise: Tensor, steps: int) -> Callable[[], Tensor]:
    """An inference of transformers' π0 in OpenVINO on these inputs, with as many threads as PyTorch has.

    Args:
        given: `foveate.golden.peer.arguments`; noise: float32 [1, H, A]; steps: of Euler, evenly spaced.
    """
    tokens, pixels, mask, cameras = (
        given[name] for name in ("input_ids", "pixel_values", "attention_mask", "pixel_attention_mask")
    )
    with torch.no_grad():
        stages: list[Callable[..., list[Any]]] = []
        embeds = Embed(theirs)(tokens, pixels, cameras)
        stages.append(ready(Embed(theirs), (tokens, pixels, cameras)))
        kept = Prefill(theirs)(embeds, mask)
        stages.append(ready(Prefill(theirs), (embeds, mask)))
        first = (given["state"], noise, torch.ones(1), mask, cameras, *kept)
        stages.append(ready(Step(theirs), first))
    embed, prefill, step = stages
    inputs = [tensor.numpy() for tensor in (tokens, pixels, cameras)]
    state, masks = given["state"].numpy(), [mask.numpy(), cameras.numpy()]

    def run() -> Tensor:
        kept = prefill(*embed(*inputs), masks[0])
        x = noise.numpy()
        for i in range(steps):
            t = torch.full((1,), 1 - i / steps).numpy()
            x = x - step(state, x, t, *masks, *kept)[0] / steps
        return torch.from_numpy(x)

    return run
