"""Tiny random models of the real classes, with tokenizers trained on the spot: for tests, without downloads."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from foveate.models.vlm.budget import VisionBudget
from foveate.models.vlm.load import assemble
from foveate.models.vlm.model import VLM
from foveate.types import VQASample

QUESTION_FIRST = "{hint}\n{question}\n{choices}\n{image}\nAnswer:"
CORPUS = [
    "what color is the shape in the picture?",
    "A. red\nB. green\nC. a longer answer\nAnswer:",
    "maybe it is blue.",
]
KINDS = ("qwen3_vl", "qwen2_5_vl", "qwen2_vl", "smolvlm", "idefics3", "llava", "paligemma", "paligemma2")


def tiny_tokenizer(special: list[str], **names: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE with `<pad> <s> </s>` and further special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<pad>", "<s>", "</s>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 8, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", **names
    )


def tiny_parts(kind: str, seed: int = 0) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer of one of `KINDS`."""
    torch.manual_seed(seed)
    model, processor, tokenizer = {
        "qwen3_vl": _qwen3,
        "qwen2_5_vl": _qwen2_5,
        "qwen2_vl": _qwen2,
        "smolvlm": _tiles,
        "idefics3": _tiles,
        "llava": _llava,
        "paligemma": _paligemma,
        "paligemma2": _paligemma,
    }[kind](kind)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # the usual 0.02 hides every mistake below the tolerance
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model, processor, tokenizer


def tiny_vlm(kind: str = "qwen3_vl", template: str = QUESTION_FIRST, seed: int = 0, batch_size: int = 4) -> VLM:
    """A model that answers nonsense, deterministically; FULL 64 px, COARSE 32 px."""
    model, processor, tokenizer = tiny_parts(kind, seed)
    budget = VisionBudget(coarse_long_side=32, full_long_side=64)
    return assemble(model.eval(), processor, tokenizer, budget, template, batch_size)


def samples(count: int = 5, choices: bool = False, side: int = 64) -> list[VQASample]:
    """Questions of different lengths about noise; every third picture is half as high."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        height = side // 2 if i % 3 == 2 else side
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (height, side, 3), dtype=np.uint8)).save(buffer, "PNG")
        options = ("red", "green", "blue")[: 2 + i % 2] if choices and i % 2 == 0 else ()
        made.append(
            VQASample(
                id=f"s{i}",
                dataset="noise",
                question="what color is " + "the " * (i + 1) + "shape?",
                answers=("B",) if options else ("a longer answer",) if i % 2 else ("red",),
                image=buffer.getvalue(),
                choices=options,
                hint="maybe it is blue." if i == 1 else "",
            )
        )
    return made


def _text_sizes(vocab: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _qwen_processor(patch: int) -> Any:
    from transformers import Qwen2VLImageProcessorPil

    side = 2 * patch
    return Qwen2VLImageProcessorPil(
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": side**2, "longest_edge": 64 * side**2},
    )


QWEN_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    start, end, image, video = tokenizer.convert_tokens_to_ids(QWEN_TOKENS)
    return {
        "image_token_id": image,
        "video_token_id": video,
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        "tie_word_embeddings": True,
    }


def _qwen3(kind: str) -> tuple[Any, Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = tiny_tokenizer(QWEN_TOKENS)
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(
        text_config={**_text_sizes(len(tokenizer)), "head_dim": 8, "rope_parameters": rope},
        vision_config=vision,
        **_qwen_ids(tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config), _qwen_processor(8), tokenizer


def _qwen2_5(kind: str) -> tuple[Any, Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = tiny_tokenizer(QWEN_TOKENS)
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 32,
        "window_size": 32,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config={**_text_sizes(len(tokenizer)), "rope_parameters": rope},
        vision_config=vision,
        **_qwen_ids(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config), _qwen_processor(8), tokenizer


def _qwen2(kind: str) -> tuple[Any, Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokenizer = tiny_tokenizer(QWEN_TOKENS)
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 8}
    config = Qwen2VLConfig(
        text_config={**_text_sizes(len(tokenizer)), "rope_parameters": rope},
        vision_config=vision,
        **_qwen_ids(tokenizer),
    )
    return Qwen2VLForConditionalGeneration(config), _qwen_processor(8), tokenizer


def _tiles(kind: str) -> tuple[Any, Any, Any]:
    import transformers

    marks = ["<image>", "<fake_token_around_image>", "<global-img>"]
    tokenizer = tiny_tokenizer([*marks, *(f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4))])
    name = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[kind]
    config = getattr(transformers, f"{name}Config")(
        text_config={"model_type": "llama", **_text_sizes(len(tokenizer))},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    processor = getattr(transformers, f"{name}ImageProcessorPil")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), processor, tokenizer


def _llava(kind: str) -> tuple[Any, Any, Any]:
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = tiny_tokenizer(["<image>"])
    config = LlavaConfig(
        text_config={"model_type": "llama", **_text_sizes(len(tokenizer))},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return LlavaForConditionalGeneration(config), processor, tokenizer


def _paligemma(kind: str) -> tuple[Any, Any, Any]:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipImageProcessorPil

    tokenizer = tiny_tokenizer(["<image>"])
    config = PaliGemmaConfig(
        text_config={
            "model_type": "gemma" if kind == "paligemma" else "gemma2",
            **_text_sizes(len(tokenizer)),
            "head_dim": 8,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "vision_use_head": False,
        },
        projection_dim=32,
        hidden_size=32,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    processor.image_seq_length = 16
    return PaliGemmaForConditionalGeneration(config), processor, tokenizer
