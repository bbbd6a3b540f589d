"""The small Qwen3-VL that ships with foveate, from nothing: sizes, vocabulary, initialisation.

The class is transformers' own; only the sizes are small. Every word of the sets it learns is one token, and bytes are
there for all other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from foveate.models.vlm.budget import VisionBudget
from foveate.models.vlm.load import assemble
from foveate.models.vlm.model import VLM

TEMPLATE = "{hint} {question}\n{choices}\n{image}"
BUDGET = VisionBudget(coarse_long_side=16, full_long_side=64, patch_size=16)
SPECIAL = ["<|pad|>", "<|end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, lower case, in which every word of `texts` is one token. Deterministic."""
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+|[^a-z\s]", text.lower())})
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # never reached: merging ends when every word is one token
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word}" for word in words for _ in range(2)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left", model_max_length=2048
    )


def make_model(tokenizer: Any, seed: int) -> Qwen3VLForConditionalGeneration:
    """A new model, initialised by fan-in: at this width the usual 0.02 leaves it too quiet to learn in minutes."""
    start, end, image, video = tokenizer.convert_tokens_to_ids(SPECIAL[2:])
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 1,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 3,
            "patch_size": 8,
            "out_hidden_size": 128,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    return model


def make_tiny(texts: Iterable[str], seed: int = 0, batch_size: int = 128) -> VLM:
    """The untrained model with its tokenizer, processor, template and budget."""
    tokenizer = make_tokenizer(texts)
    processor = Qwen2VLImageProcessorPil(
        patch_size=8,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 16 * 16, "longest_edge": 256 * 256},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return assemble(make_model(tokenizer, seed), processor, tokenizer, BUDGET, TEMPLATE, batch_size)
