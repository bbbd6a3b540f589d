"""The golden group `openvla_oft/`: a tiny policy of the reference, plain and with LightVLA.

Every stage of the preprocessing starts from the reference's result of the stage before. What does not count, and why:
- `*_causal_for_contrast` is what a causal model gives: ours must differ from it, and the tests hold that;
- the padding of a shorter prompt stands behind the stop token there and before the prompt here: rows are compared
  token by token, in the order of what is real.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from foveate.envs.libero import axis_angle
from foveate.golden.lightvla import watch_norms
from foveate.golden.report import EXACT, TOLERANCES, Report, Tolerance
from foveate.models.base import ModelInputs, ModelOptions, pack
from foveate.models.common.robots import RobotMapping
from foveate.models.openvla_oft.config import OFTConfig
from foveate.models.openvla_oft.detect import OFTInfo, detect
from foveate.models.openvla_oft.images import centre_crop, jpeg_round_trip, lanczos
from foveate.models.openvla_oft.lora import merge_lora
from foveate.models.openvla_oft.model import STOP, OpenVLAOFT
from foveate.models.openvla_oft.processing import EMPTY, pad_prompts
from foveate.models.openvla_oft.weights import load_weights, places_of
from foveate.pruning import LightVLA
from foveate.pruning.lightvla import LightVLAPruner
from foveate.types import Prefix, Selection
from foveate.util.attention import attention_rows

HEADS = 4
"""Heads of the golden checkpoint's towers, which none of its files tells."""
NUMBERS = TOLERANCES["float32"]
LEVEL = Tolerance(1.0)
"""One grey level: a handful of pixels in a hundred thousand round to the other side."""
ENDS = {"BOUNDS": ("min", "max"), "BOUNDS_Q99": ("q01", "q99")}


def run(folder: Path, report: Report, *, device: str) -> None:
    """Compare with the float32 run; the reference's bfloat16 run is for orientation."""
    info = detect(folder / "checkpoint", ModelOptions(device=device))
    if info is None:
        report.skip("openvla_oft", "*", "not compared", "there is no checkpoint of OpenVLA-OFT in the folder")
        return
    config = with_heads(info.config)
    model = load_weights(info.path, info.weights, config, device)
    for name, check in (
        ("outputs_fp32.safetensors", lambda data: _evaluation(folder, report, model, info, data, device)),
        ("train_b1.safetensors", lambda data: _training(folder, report, model, data, "train_b1", device)),
        ("train_b2_padded.safetensors", lambda data: _training(folder, report, model, data, "train_b2_padded", device)),
        ("preprocess.safetensors", lambda data: _preprocess(report, config, info, data)),
        ("lora_merge.safetensors", lambda data: _lora(report, data)),
    ):
        if (folder / name).exists():
            check(load_file(folder / name, device))
        else:
            report.skip("openvla_oft", name, "absent", f"{name} is not in the folder")


def with_heads(config: OFTConfig) -> OFTConfig:
    """The sizes of a golden checkpoint with the heads that its towers have."""
    dino, siglip = (
        dataclasses.replace(tower, num_heads=tower.num_heads if tower.num_heads > 1 else HEADS)
        for tower in (config.dino, config.siglip)
    )
    return dataclasses.replace(config, dino=dino, siglip=siglip)


def _inputs(pixel_values: Tensor, prompts: list[list[int]], proprio: Tensor) -> ModelInputs:
    """pixel_values [B, 12, H, W]: of each view DINO's three channels, then SigLIP's, which are the picture itself."""
    images = torch.stack((pixel_values[:, 3:6], pixel_values[:, 9:12]), 1)
    tokens, masks = (value.to(images.device) for value in pad_prompts(prompts))
    present = torch.ones(images.shape[:2], dtype=torch.bool, device=images.device)
    return ModelInputs(images, present, tokens, masks, proprio)


def _prompt(ids: list[int]) -> list[int]:
    return ids if ids[-1] == EMPTY else [*ids, EMPTY]


def _pruner(training: bool) -> LightVLAPruner:
    config = LightVLA(train_form="paper", store_raw_score=True)
    return LightVLAPruner(config).train(training)


def _evaluation(
    folder: Path, report: Report, model: OpenVLAOFT, info: OFTInfo, golden: dict[str, Tensor], device: str
) -> None:
    given = load_file(folder / "inputs.safetensors", device)
    prompts = json.loads((folder / "index.json").read_text(encoding="utf-8"))["prompt_ids"]
    inputs = _inputs(given["pixel_values"], [_prompt(given["input_ids"][0].tolist())], given["proprio"])
    ours: dict[str, Tensor] = {}
    with torch.no_grad():
        whole = _record_towers(model, inputs, ours)
        words = inputs.tokens.new_tensor([[1] * model.config.placeholders + [STOP]])
        ours["input_ids_extended"] = torch.cat((inputs.tokens, words), 1)
        ours["text_attention_mask_extended"] = torch.ones_like(ours["input_ids_extended"], dtype=torch.bool)
        ours |= {"embeddings": whole.embeds, "position_ids": whole.position_ids, "attention_mask": whole.mask}
        state = whole.layout.spans[len(model.spec.views) + 1]
        ours["proprio_token"] = whole.embeds[:, state.start]
        with watch_norms() as norms:
            selection = _pruner(training=False).select(whole)
        keep = selection.keep
        assert keep.raw_score is not None
        ours |= {
            "pruner.query": norms[2][:, 0],
            "pruner.score": keep.raw_score,
            "pruner.argmax": keep.raw_score.argmax(-1),
            "pruner.keep_mask": keep.keep_mask,
        }
        for name, prefix in (("unpruned", pack(whole)), ("pruned", pack(selection.apply(whole)))):
            ours |= {f"{name}.{key}": value for key, value in _pass(model, inputs, prefix, info).items()}
        second = _inputs(given["pixel_values"], [_prompt(prompts[1])], given["proprio"])
        other = model.embed_prefix(second)
        selection = _pruner(training=False).select(other)
        ours["prompt2.keep_mask"] = selection.keep.keep_mask
        passed = _pass(model, second, pack(selection.apply(other)), info)
        ours |= {f"prompt2.pruned.{key}": value for key, value in passed.items()}
        ours["prompt2.pruned.last_hidden"] = passed[f"hidden_states.{model.spec.depth}"]
    for name, value in golden.items():
        if name.endswith("causal_for_contrast"):
            report.exclude("openvla_oft", name, "must differ", value.shape[1])
        elif name in ours:
            report.compare("openvla_oft", name, ours[name], value, _tolerance(name), group=name)
        else:
            report.skip("openvla_oft", name, "not compared", "this version does not produce it")


def _tolerance(name: str) -> Tolerance:
    if name.endswith(("ids_extended", "mask_extended", "position_ids", "attention_mask", "argmax", "keep_mask")):
        return EXACT
    if name.startswith("pruner."):
        return NUMBERS["pruner"]
    return NUMBERS["action"] if "actions" in name else NUMBERS["hidden"]


def _record_towers(model: OpenVLAOFT, inputs: ModelInputs, ours: dict[str, Tensor]) -> Prefix:
    """The embedded sequence; what the towers and the projector gave goes into `ours`."""
    views = len(model.spec.views)
    with ExitStack() as stack:

        def keep(module: nn.Module, name: str) -> None:
            call = lambda _, args, out: ours.__setitem__(name, out)  # noqa: E731
            stack.callback(module.register_forward_hook(call).remove)

        keep(model.dino, "dino_patches")
        keep(model.siglip, "siglip_patches")
        keep(model.projector, "projected_patches")
        prefix = model.embed_prefix(inputs)
    fused = torch.cat((ours["dino_patches"], ours["siglip_patches"]), -1)
    ours["fused_patches"] = fused.flatten(0, 1)[None]
    ours["projected_patches"] = ours["projected_patches"].flatten(0, 1)[None]
    for name in ("dino_patches", "siglip_patches"):
        ours[name] = ours[name].unflatten(0, (-1, views))
    return prefix


def _pass(model: OpenVLAOFT, inputs: ModelInputs, prefix: Prefix, info: OFTInfo) -> dict[str, Tensor]:
    """Hidden states, attention on the pictures, and actions of one packed sequence."""
    out: dict[str, Tensor] = {
        "tokens": prefix.embeds,
        "position_ids": prefix.position_ids,
        "attention_mask": prefix.mask,
    }
    assert prefix.source is not None
    is_patch = torch.isin(prefix.source[0], torch.as_tensor(prefix.layout.patch_index, device=prefix.mask.device))
    columns = is_patch.nonzero().squeeze(-1)
    mass: list[Tensor] = []

    def watch(layer: int, q: Tensor, k: Tensor, mask: Tensor | None) -> None:
        rows = attention_rows(q[:, :, int(columns.max()) + 1 :], k, mask)[..., columns]
        out[f"attn_task_to_vision.{layer}"] = rows
        mass.append(rows.sum(-1).mean(1))

    with ExitStack() as stack:
        for number, layer in enumerate(model.llm.layers):
            name = f"hidden_states.{number}"
            call = lambda _, args, name=name: out.__setitem__(name, args[0])  # noqa: E731
            stack.callback(layer.register_forward_pre_hook(call).remove)
            attention: Any = layer.self_attn
            attention.observer = lambda q, k, mask, number=number: watch(number, q, k, mask)
            stack.callback(setattr, attention, "observer", None)
        before = lambda _, args: out.__setitem__("last_layer_before_norm", args[0])  # noqa: E731
        stack.callback(model.llm.norm.register_forward_pre_hook(before).remove)
        cache = model.prefill(prefix)
    assert cache.last_hidden is not None
    out[f"hidden_states.{model.spec.depth}"] = cache.last_hidden
    out["attn_row_sums_vision_mass.mean_heads"] = torch.stack(mass, 1)
    own = model.config
    for label, rows in (("oft", "trained"), ("lightvla", "lightvla")):
        model.config = dataclasses.replace(own, action_rows=rows)  # type: ignore[arg-type]
        out[f"action_hidden.{label}"] = model.action_hidden(cache)
        actions = model.decode(cache, inputs, None)[0]
        out[f"normalized_actions.{label}"] = actions
        for bounds, ends in ENDS.items():
            _, norm = info.norms(None, ends)
            out[f"actions.{label}.{bounds}"] = torch.from_numpy(norm.unnormalize(actions.cpu().numpy())).double()
    model.config = own
    return out


def training_inputs(folder: Path, golden: dict[str, Tensor], device: str = "cpu") -> ModelInputs:
    """What one of the training cases feeds; the second sample has the first one's pictures, swapped."""
    pixels = load_file(folder / "inputs.safetensors", device)["pixel_values"]
    swapped = torch.cat((pixels[:, 6:], pixels[:, :6]), 1)
    prompts = []
    for ids, mask, labels in zip(golden["input_ids"], golden["attention_mask"], golden["labels"], strict=True):
        real, is_label = mask.bool(), labels != -100
        prompts.append(_prompt(ids[real & ~is_label].tolist()))
    return _inputs(torch.cat((pixels, swapped))[: len(prompts)], prompts, golden["proprio"])


def _training(
    folder: Path, report: Report, model: OpenVLAOFT, golden: dict[str, Tensor], case: str, device: str
) -> None:
    """Losses and gradients, plain and with LightVLA's training form. The reference lets a padded prompt's padding ask
    as if it were words (of zeros), and so does this comparison."""
    inputs = training_inputs(folder, golden, device)
    norms = json.loads((folder / "grad_norms.json").read_text(encoding="utf-8"))
    patches = len(model.spec.views) * model.spec.grids[0][0] * model.spec.grids[0][1]
    for kind in ("unpruned", "pruned"):
        model.zero_grad(set_to_none=True)
        seen: dict[str, Tensor] = {}

        def select(prefix: Prefix, seen: dict[str, Tensor] = seen) -> Selection:
            words = slice(prefix.layout.num_patches + 2, None)
            tokens, asking = prefix.embeds.clone(), prefix.mask.clone()
            tokens[:, words] = tokens[:, words].masked_fill(~prefix.mask[:, words, None], 0.0)
            asking[:, words] = True
            chosen = _pruner(training=True).select(dataclasses.replace(prefix, embeds=tokens, mask=asking))
            embeds, positions, scores = chosen.embeds, chosen.position_ids, chosen.keep.raw_score
            assert embeds is not None and positions is not None and scores is not None
            chosen = dataclasses.replace(chosen, mask=chosen.mask & prefix.mask)
            order = torch.argsort(~prefix.mask, dim=-1, stable=True)
            seen["indices"] = scores.argmax(-1)
            seen["slots"] = embeds[:, 1 : 1 + patches].detach()
            seen["slots_position_ids"] = positions.gather(1, order)
            seen["attention_mask"] = chosen.mask.gather(1, order)
            return chosen

        recorded: dict[str, Tensor] = {}
        call = lambda _, args, out, recorded=recorded: recorded.__setitem__("hidden", out)  # noqa: E731
        hook = model.llm.norm.register_forward_hook(call)
        error = model(inputs, golden["gt_actions"], select if kind == "pruned" else None)
        hook.remove()
        error.mean().backward()
        with torch.no_grad():
            mask = model.embed_prefix(inputs).mask
        order = torch.argsort(~mask, dim=-1, stable=True)
        hidden = recorded["hidden"].detach()
        ours = {
            "last_hidden": hidden.gather(1, order[..., None].expand_as(hidden)),
            "loss": error.mean().detach()[None],
            **{key: value for key, value in seen.items() if kind == "pruned"},
        }
        padding = ~mask.gather(1, order)
        for key, value in ours.items():
            name = f"{kind}.{key}"
            if name not in golden:
                continue
            tolerance = {"loss": NUMBERS["loss"], "last_hidden": NUMBERS["hidden"], "slots": NUMBERS["hidden"]}
            valid = ~padding.cpu() if key in ("last_hidden", "slots_position_ids") else None
            theirs = golden[name]
            report.compare(case, name, value, theirs, tolerance.get(key, EXACT), valid=valid, group=name)
        for key, gradient in gradients(model).items():
            name = f"{kind}.grad.{key}"
            if name in golden:
                report.compare(case, name, gradient, golden[name], NUMBERS["gradient"], group=f"{kind}.grad.*")
            expected = norms[f"{case}.{kind}"].get(key)
            if expected is not None:
                report.compare(
                    case,
                    f"{kind}.norm.{key}",
                    gradient.norm()[None],
                    torch.tensor([expected], device=gradient.device),
                    NUMBERS["gradient norm"],
                    group=f"{kind}.gradient norms",
                )


def gradients(model: OpenVLAOFT) -> dict[str, Tensor]:
    """Every parameter's gradient under the reference's names, fused ones in their parts."""
    before = {"model": "vla.", "head": "action_head.", "proprio": "proprio_projector."}
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        places = places_of(name)
        counts = [len(parameter) // len(places)] * len(places)
        if name.endswith("registers"):
            counts = [1, len(parameter) - 1]
        pieces = parameter.grad.split(counts)
        found |= {before[place.part] + place.key: piece for place, piece in zip(places, pieces, strict=True)}
    return found


def _preprocess(report: Report, config: OFTConfig, info: OFTInfo, golden: dict[str, Tensor]) -> None:
    case, side = "openvla_oft preprocess", config.image_size
    array = {name: value.cpu().numpy() for name, value in golden.items()}

    def compare(name: str, ours: np.ndarray, tolerance: Tolerance) -> None:
        report.compare(case, name, torch.from_numpy(np.ascontiguousarray(ours)), golden[name].cpu(), tolerance)

    pixels = []
    for camera in ("agentview", "wrist"):
        compare(f"{camera}.rotated", array[f"{camera}.raw_sim"][::-1, ::-1], EXACT)
        compare(f"{camera}.jpeg_roundtrip", jpeg_round_trip(array[f"{camera}.rotated"]), EXACT)
        compare(f"{camera}.resized224", lanczos(array[f"{camera}.jpeg_roundtrip"], side), LEVEL)
        compare(f"{camera}.center_crop", centre_crop(array[f"{camera}.resized224"]), LEVEL)
        shown = torch.from_numpy(array[f"{camera}.center_crop"]).movedim(-1, 0).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (config.dino_mean, config.dino_std))
        pixels += [(shown - mean) / std, shown * 2 - 1]
    compare("pixel_values", torch.cat(pixels)[None].numpy(), NUMBERS["image"])
    angles = np.stack([axis_angle(quaternion) for quaternion in array["quat_xyzw"]])
    compare("axis_angle", angles, NUMBERS["image"])
    robot = RobotMapping.load("libero_oft")
    acted = robot.from_model_actions(array["gripper.policy_action"], np.zeros(robot.state_dim))
    compare("gripper.env_action", acted.astype(np.float64), NUMBERS["image"])
    for bounds, ends in ENDS.items():
        state_norm, _ = info.norms(None, ends)
        state = np.clip(state_norm.normalize(array["proprio.raw_state"]), -1, 1).astype(np.float64)
        compare(f"proprio.normalized_{bounds}", state, NUMBERS["image"])


def _lora(report: Report, golden: dict[str, Tensor]) -> None:
    for name in sorted(golden):
        if name.endswith(".merged"):
            module = name.removesuffix(".merged")
            ours = merge_lora(golden[f"{module}.base"], golden[f"{module}.lora_A"], golden[f"{module}.lora_B"], 0.5)
            report.compare("openvla_oft lora", name, ours, golden[name], EXACT, group="merged")
