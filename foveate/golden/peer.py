"""transformers' PI0ForConditionalGeneration with the weights of one of our π0 models: a second opinion.

Only the tests and `benchmarks/pi0_cpu` use it. It needs transformers 5.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from foveate.models.base import ModelInputs
from foveate.models.pi0.config import GemmaConfig
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.weights import openpi_state_dict

_NAMES = (
    ("paligemma_with_expert.paligemma.lm_head.", "model.vlm.language_model.embed_tokens."),
    ("paligemma_with_expert.paligemma.model.vision_tower.vision_model.", "model.vlm.vision_tower."),
    ("paligemma_with_expert.paligemma.model.", "model.vlm."),
    ("paligemma_with_expert.gemma_expert.model.", "model.dit."),
    ("action_out_proj.", "action_out_proj."),
    ("", "embed_action_time."),
)
"""The start of a name in openpi, and in transformers; the first that fits."""


def build(model: Pi0) -> Any:
    """A PI0ForConditionalGeneration of the size, with the weights, and in the attention kernel (SDPA) of `model`."""
    from transformers.models.pi0 import PI0Config, PI0ForConditionalGeneration

    config = model.config
    assert not config.pi05, "transformers has π0 alone"
    vision = dataclasses.asdict(config.vision)
    projection = vision.pop("projection_dim")
    peer_config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": _gemma(config.llm, config.vocab_size),
            "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
            "projection_dim": projection,
            "image_token_id": config.vocab_size,
        },
        dit_config=_gemma(config.expert, config.vocab_size),
        chunk_size=config.action_horizon,
        max_state_dim=config.action_dim,
        max_action_dim=config.action_dim,
        num_inference_steps=config.num_steps,
    )
    peer = PI0ForConditionalGeneration(peer_config).eval()
    state = {}
    for key, value in openpi_state_dict(model).items():
        ours, theirs = next(pair for pair in _NAMES if key.startswith(pair[0]))
        state[theirs + key.removeprefix(ours)] = value
    missing, unexpected = peer.load_state_dict(state, strict=False)
    # The expert's token embedding exists there and is read by nothing.
    assert (missing, unexpected) == (["model.dit.embed_tokens.weight"], []), (missing, unexpected)
    return peer


def _gemma(config: GemmaConfig, vocab_size: int) -> dict[str, Any]:
    return {
        "model_type": "gemma",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "intermediate_size": config.mlp_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": vocab_size,
    }


def arguments(model: Pi0, inputs: ModelInputs) -> dict[str, Tensor]:
    """`sample_actions` and `forward` arguments for the same batch: every camera has its tokens, absent ones masked."""
    patches = model.config.vision.grid[0] * model.config.vision.grid[1]
    batch, views = inputs.image_masks.shape
    images = inputs.tokens.new_full((batch, views * patches), model.config.vocab_size)
    mask = torch.cat((inputs.image_masks.repeat_interleave(patches, 1), inputs.token_masks), 1)
    return {
        "state": inputs.state,
        "input_ids": torch.cat((images, inputs.tokens), 1),
        "pixel_values": inputs.images,
        "attention_mask": mask.long(),
        # All cameras carry features; which of them may be looked at is the attention mask's business.
        "pixel_attention_mask": torch.ones_like(inputs.image_masks),
    }


def leave_out_absent(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same for one sample as transformers' own processor feeds it: what is masked is not there at all."""
    real = given["attention_mask"][0].bool()
    views = given["pixel_values"].shape[1]
    patches = int((given["input_ids"][0] == given["input_ids"][0, 0]).sum()) // views
    present = real[: views * patches].view(views, patches)[:, 0]
    return {
        **given,
        "input_ids": given["input_ids"][:, real],
        "attention_mask": given["attention_mask"][:, real],
        "pixel_values": given["pixel_values"][:, present],
        "pixel_attention_mask": given["pixel_attention_mask"][:, present],
    }
