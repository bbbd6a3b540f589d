"""A π0 or π0.5 checkpoint in plain values: what `foveate inspect` prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foveate.errors import FoveateError
from foveate.models.common.normalize import load_norm_stats
from foveate.models.common.robots import RobotMapping
from foveate.models.pi0.detect import CheckpointInfo, stored_dtype
from foveate.models.pi0.processing import Processor
from foveate.models.pi0.weights import check_keys


def describe(info: CheckpointInfo) -> dict[str, Any]:
    """A checkpoint as plain values, in the order in which they are printed."""
    config, robot = info.config, info.robot
    problems = list(info.missing)
    if not problems:
        problems += _what_fails(lambda: Processor.from_info(info))
    if not info.undetermined:
        problems += _what_fails(lambda: check_keys(info.weights, info.keys, config))
    document: dict[str, Any] = {
        "checkpoint": str(info.path),
        "format": info.format,
        "model": info.model,
        "parameters": info.parameters,
        "file_bytes": sum(file.stat().st_size for file in {entry.file for entry in info.keys.stored.values()}),
        "stored_dtype": stored_dtype(info),
        "sizes": {
            "vision": vars(config.vision),
            "backbone": vars(config.llm),
            "action_expert": vars(config.expert),
            "vocabulary": config.vocab_size,
        },
        "views": list(config.views),
        "visual_tokens_per_view": config.vision.grid[0] * config.vision.grid[1],
        "max_token_len": config.max_token_len,
        "action_horizon": config.action_horizon,
        "model_action_dim": config.action_dim,
        "denoising_steps": config.num_steps,
        "pruner": info.pruner,
        "norm": info.norm,
        "norm_stats": _norm_stats(info),
        "tokenizer": str(info.tokenizer) if info.tokenizer else None,
        "resize": info.resize,
        "image_pad": info.image_pad,
        "clean_prompt": info.clean_prompt,
        "state_width": info.state_width,
        "robot": None if robot is None else robot.name,
        "observation": None if robot is None else _observation(robot),
        "action": None
        if robot is None
        else {
            "dim": robot.action_dim,
            "delta_entries": sum(robot.delta_mask),
            "conventions": dict(robot.conventions),
        },
        "renamed_keys": list(info.keys.renamed),
        "assumed": list(info.assumed),
        "missing": problems,
    }
    return document


def _observation(robot: RobotMapping) -> dict[str, Any]:
    cameras = {view: list(names) for view, names in robot.views.items()}
    return {
        "images": {view: names[0] for view, names in cameras.items() if names},
        "optional": list(robot.optional_views),
        "absent": [view for view, names in cameras.items() if not names],
        "also_accepted": {view: names[1:] for view, names in cameras.items() if len(names) > 1},
        "state": {name: size for name, size in robot.state},
        "state_dim": robot.state_dim,
        "prompt": robot.default_prompt or "an instruction",
    }


def _norm_stats(info: CheckpointInfo) -> dict[str, Any]:
    """Asset id -> key -> number of entries."""
    if info.format == "lerobot":
        norms = {"state": info.state_norm, "actions": info.action_norm}
        return {"lerobot": {key: f"{norm.stats.dim} ({norm.kind})" for key, norm in norms.items() if norm is not None}}
    found: dict[str, Any] = {}
    for asset_id in info.asset_ids:
        try:
            stats = load_norm_stats(info.path / "assets" / asset_id)
        except Exception as error:  # a damaged file is one line of the description, not its end
            found[asset_id] = {"error": str(error)}
            continue
        found[asset_id] = {key: value.dim for key, value in stats.items()}
    return found


def _what_fails(build: Callable[[], object]) -> list[str]:
    try:
        build()
    except FoveateError as error:
        return [str(error)]
    return []


def as_text(document: dict[str, Any]) -> str:
    """The description for people."""
    d = document
    names = {"pi0": "π0", "pi05": "π0.5"}
    lines = [
        f"{d['checkpoint']}: {names[d['model']]} in {d['format']}'s layout",
        f"  parameters     {d['parameters'] / 1e6:,.1f} M, {d['stored_dtype']}, {d['file_bytes'] / 2**20:,.1f} MiB",
    ]
    v = d["sizes"]["vision"]
    heads = f"{v['num_hidden_layers']} layers, width {v['hidden_size']}, {v['num_attention_heads']} heads"
    lines.append(f"  vision         {heads}, images of {v['image_size']} px in patches of {v['patch_size']} px")
    for title, part in (("backbone", "backbone"), ("expert", "action_expert")):
        g = d["sizes"][part]
        heads = f"{g['num_heads']} heads of {g['head_dim']}, {g['num_kv_heads']} for keys"
        lines.append(f"  {title:<14} {g['depth']} layers, width {g['width']}, {heads}, mlp {g['mlp_dim']}")
    observation, action = d["observation"], d["action"]
    lines += [
        f"  views          {', '.join(d['views'])} ({d['visual_tokens_per_view']} visual tokens each)",
        f"  prompt         up to {d['max_token_len']} tokens of a vocabulary of {d['sizes']['vocabulary']}",
        f"  actions        {d['action_horizon']} steps of {d['model_action_dim']} numbers",
        f"  denoising      {d['denoising_steps']} Euler steps",
        f"  pruner         {d['pruner'] or 'none'}",
        f"  normalisation  {d['norm']}; statistics: {_stats_text(d['norm_stats'])}",
        f"  tokenizer      {d['tokenizer'] or 'not found'}",
        f"  robot          {d['robot'] or 'not known'}",
    ]
    if observation:
        optional = [f"{view} (optional)" for view in observation["optional"]]
        absent = [f"{view} (absent: masked)" for view in observation["absent"]]
        images = [f"{name!r} -> {view}" for view, name in observation["images"].items()]
        parts = ", ".join(f"{name} ({size})" for name, size in observation["state"].items())
        lines += [
            f"    images       {'; '.join(images + optional + absent)}",
            f"    state        {observation['state_dim']} numbers: {parts}",
            f"    action       {action['dim']} numbers, {action['delta_entries']} of them relative to the state",
            f"    conventions  {_conventions_text(action['conventions'])}",
        ]
    lines += [f"  renamed        {line}" for line in d["renamed_keys"]]
    lines += [f"  assumed        {line}" for line in d["assumed"]]
    if d["missing"]:
        lines += ["missing to run it:", *(f"  - {line}" for line in d["missing"])]
    else:
        lines.append("nothing is missing to run it")
    return "\n".join(lines)


def _conventions_text(conventions: dict[str, Any]) -> str:
    if "action_space" not in conventions:
        return "not stored; a robot's YAML must declare them before an evaluation in a simulator"
    return ", ".join(f"{key} {value}" for key, value in conventions.items() if key != "action_dim")


def _stats_text(stats: dict[str, Any]) -> str:
    texts = [
        f"{asset} ({', '.join(f'{key} {value}' for key, value in group.items())})" for asset, group in stats.items()
    ]
    return "; ".join(texts) or "none"
