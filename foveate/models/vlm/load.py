"""Open a checkpoint folder (or a name on the hub) as a `VLM`; LoRA adapters, plain training checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.errors import FoveateError, unknown
from foveate.models.vlm.budget import VisionBudget
from foveate.models.vlm.families import FAMILIES, Family
from foveate.models.vlm.model import VLM
from foveate.models.vlm.prompt import DEFAULT_TEMPLATE, PromptMaker, Template
from foveate.models.vlm.vision_attention import batch_equal_pictures
from foveate.util.files import read_text
from foveate.util.pictures import MAX_PIXELS
from foveate.util.shipped import VLMS, shipped

SETTINGS = "foveate.json"
"""Beside the weights: `prompt_template` and `vision_budget` that the model was trained with."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the language model (needs `pip install foveate[vlm]`)."""

    path: str = ""
    """Folder of a saved adapter to go on from; empty: a new one."""
    rank: int = 16
    """Rank of each matrix's update."""
    alpha: int = 32
    """Scale of the update, which is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of the adapter's input that is dropped in training, in [0, 1)."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the language model's matrices that are adapted."""


def load_vlm(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    budget: VisionBudget | None = None,
    prompt_template: str | None = None,
    lora: Lora | None = None,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
) -> VLM:
    """Load an image-text model.

    Args:
        path: a folder, the name of a shipped model (`tiny_qwen3vl`), or of a repository on the hub.
        budget, prompt_template: default those that the folder's `foveate.json` names, else the general ones.
        batch_size, max_pixels: as `VLM` has them.
    Raises:
        FoveateError: the folder is missing or incomplete, or the model is of a type that is not known here.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    folder = find_model(path)
    try:
        config = AutoConfig.from_pretrained(folder)
        if config.model_type not in FAMILIES:
            raise unknown("image-text model type", config.model_type, FAMILIES)
        tokenizer = _with_chat_template(AutoTokenizer.from_pretrained(folder), folder)
        processor = AutoImageProcessor.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPES[dtype])
    except (OSError, ValueError) as error:
        raise FoveateError(
            f"model {path}: cannot be loaded: {' '.join(str(error).split())[:400]}. Expected a transformers folder "
            "(config.json, model.safetensors, tokenizer.json, preprocessor_config.json), a shipped model "
            f"({', '.join(shipped(VLMS)) or 'none here'}) or a name on the hub"
        ) from error
    settings = _settings(folder)
    if budget is None:
        budget = VisionBudget(**settings.get("vision_budget", {}))
    template = prompt_template or settings.get("prompt_template") or DEFAULT_TEMPLATE
    model = model.to(device).eval()
    if lora is not None:
        model = add_lora(model, lora)
    return assemble(model, processor, tokenizer, budget, template, batch_size, max_pixels)


def _with_chat_template(tokenizer: Any, folder: str) -> Any:
    """Some published models keep the chat template in the file of their packaged processor, which is not used here."""
    from transformers.utils import cached_file

    if not tokenizer.chat_template:
        path = cached_file(folder, "chat_template.json", _raise_exceptions_for_missing_entries=False)
        if path:
            tokenizer.chat_template = json.loads(read_text(Path(path)))["chat_template"]
    return tokenizer


def assemble(
    model: Any,
    processor: Any,
    tokenizer: Any,
    budget: VisionBudget,
    template: str,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
) -> VLM:
    """A `VLM` of parts that are in memory."""
    config = model.config
    if config.model_type not in FAMILIES:
        raise unknown("image-text model type", config.model_type, FAMILIES)
    family: Family = FAMILIES[config.model_type](config, processor, tokenizer)
    if family.packs_pictures:
        batch_equal_pictures(model)
    prompts = PromptMaker(
        tokenizer, Template(template), family.image_token, marks=family.marks, image_first=family.image_first
    )
    return VLM(model, family, prompts, budget, batch_size=batch_size, max_pixels=max_pixels)


def save_vlm(vlm: VLM, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write a folder that `load_vlm` and transformers open: weights, tokenizer, processor, template and budget."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = vlm.model.state_dict()
    if dtype is not None:
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    vlm.model.save_pretrained(folder, state_dict=state)
    vlm.prompts.tokenizer.save_pretrained(folder)
    vlm.family.processor.save_pretrained(folder)
    settings = {"prompt_template": vlm.prompts.template.text, "vision_budget": asdict(vlm.budget)}
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def find_model(path: str | Path) -> str:
    """A folder as it is, a shipped model's folder, or a name on the hub."""
    text = str(path)
    if Path(text).is_dir():
        return text
    if text in shipped(VLMS):
        return str(VLMS / text)
    if text.startswith(("/", ".")) or text.count("/") != 1:
        raise (
            unknown("model", text, shipped(VLMS))
            if "/" not in text
            else FoveateError(
                f"model {text}: no such folder; give a folder, a shipped model ({', '.join(shipped(VLMS))}) or "
                "OWNER/NAME"
            )
        )
    return text


def _settings(folder: str) -> dict[str, Any]:
    path = Path(folder) / SETTINGS
    return json.loads(read_text(path)) if path.exists() else {}


def add_lora(model: Any, lora: Lora) -> Any:
    """The model with adapters on its language layers; all else is frozen."""
    try:
        import peft
    except ImportError as error:
        raise FoveateError("LoRA needs the package peft: pip install 'foveate[vlm]'") from error
    if lora.path:
        return peft.PeftModel.from_pretrained(model, lora.path, is_trainable=True).eval()
    prefix = next(name for name, module in model.named_modules() if module is model.get_decoder())
    names = "|".join(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"{prefix.replace('.', r'[.]')}[.].*[.]({names})",
    )
    return peft.get_peft_model(model, config).eval()
