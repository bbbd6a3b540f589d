"""lerobot's own π0 and π0.5 in a size of ours, with our weights, out of its source: `lerobot/` of version 0.5.1.

The published sizes stand as numbers in its code, so that they are replaced in the text before it is run; every
replacement has to be found. Its configuration, hub and robot packages, which a training step does not use, are left
out.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.models.pi0.model import Pi0
from foveate.models.pi0.weights import TIED_EMBEDDING, openpi_state_dict


def build(model: Pi0, source: Path) -> nn.Module:
    """A `PI0Pytorch` or `PI05Pytorch` of the size and with the weights of a model of ours, in float32."""
    config, package = model.config, source / "lerobot"
    name = "pi05" if config.pi05 else "pi0"
    vision = dataclasses.asdict(config.vision) | {"vision_use_head": False}
    _leave_out(package)
    text = (package / "policies" / name / f"modeling_{name}.py").read_text()
    sizes = {
        'CONFIG_MAPPING["paligemma"]()': f'CONFIG_MAPPING["paligemma"](vision_config={vision!r}, '
        f"projection_dim={config.llm.width})",
        "vlm_config_hf.vision_config.intermediate_size = 4304": "pass",
        "vlm_config_hf.vision_config.projection_dim = 2048": "pass",
        "257152": str(config.vocab_size),
        # Of transformers 5.23 features come as the backbone takes them; 5.3, for which this was written, divided them.
        " * self.paligemma.config.text_config.hidden_size**0.5": "",
    }
    for there, instead in sizes.items():
        assert there in text, f"lerobot's source has no {there}; version 0.5.1 has"
        text = text.replace(there, instead)
    module = types.ModuleType(f"lerobot.policies.{name}.modeling_{name}")
    sys.modules[module.__name__] = module
    exec(compile(text, f"modeling_{name}.py", "exec"), module.__dict__)  # its text, with our sizes
    stacks = {"gemma_2b": config.llm, "gemma_300m": config.expert}
    module.get_gemma_config = lambda name: module.GemmaConfig(**dataclasses.asdict(stacks[name]))  # type: ignore[attr-defined]
    peer: nn.Module = vars(module)[f"{name.upper()}Pytorch"](
        types.SimpleNamespace(
            paligemma_variant="gemma_2b",
            action_expert_variant="gemma_300m",
            image_resolution=(config.vision.image_size,) * 2,
            dtype="float32",
            freeze_vision_encoder=False,
            train_expert_only=False,
            max_action_dim=config.action_dim,
            max_state_dim=config.action_dim,
            compile_model=False,
            chunk_size=config.action_horizon,
            min_period=4e-3,
            max_period=4.0,
            rtc_config=None,
        )
    )
    state = openpi_state_dict(model)
    state[TIED_EMBEDDING[1]] = state[TIED_EMBEDDING[0]]
    # transformers has left out a level of SigLIP's names since lerobot was written.
    state = {name.replace("vision_tower.vision_model.", "vision_tower."): value for name, value in state.items()}
    missing, unexpected = peer.load_state_dict(state, strict=False)
    assert not unexpected and all("lm_head" in name or "inv_freq" in name for name in missing), (missing, unexpected)
    # The expert's head, which nothing reads, has no gradient; neither has that of the backbone.
    return peer


def _leave_out(package: Path) -> None:
    """Packages whose `__init__` is not run, and stand-ins for what a training step does not use."""
    for name in ("lerobot", "lerobot.policies", "lerobot.policies.pi0", "lerobot.policies.pi05", "lerobot.utils"):
        module = types.ModuleType(name)
        module.__path__ = [str(package.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    unused: dict[str, dict[str, Any]] = {
        "draccus": {},
        "draccus.choice_types": {"ChoiceRegistry": object},
        "lerobot.configs": {},
        "lerobot.configs.policies": {"PreTrainedConfig": object},
        "lerobot.policies.pretrained": {"PreTrainedPolicy": nn.Module, "T": Any},
        "lerobot.policies.rtc": {},
        "lerobot.policies.rtc.modeling_rtc": {"RTCProcessor": object},
        "lerobot.policies.pi0.configuration_pi0": {"DEFAULT_IMAGE_SIZE": 224, "PI0Config": object},
        "lerobot.policies.pi05.configuration_pi05": {"DEFAULT_IMAGE_SIZE": 224, "PI05Config": object},
    }
    for name, values in unused.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        sys.modules[name] = module


def loss(peer: nn.Module, batch: Any) -> torch.Tensor:
    """lerobot's loss of a `FlowBatch` with one flow sample; all cameras that are given go through the tower."""
    inputs = batch.inputs
    state = () if "PI05" in type(peer).__name__ else (inputs.state,)
    images, masks = list(inputs.images.unbind(1)), list(inputs.image_masks.unbind(1))
    given = (images, masks, inputs.tokens, inputs.token_masks, *state, batch.actions)
    error: torch.Tensor = peer(*given, noise=batch.noise[:, 0], time=batch.time[:, 0])
    return error.mean()
