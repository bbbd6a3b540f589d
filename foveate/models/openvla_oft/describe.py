"""An OpenVLA-OFT checkpoint in plain values: what `foveate inspect` prints."""

from __future__ import annotations

from typing import Any

from foveate.models.openvla_oft.detect import OFTInfo


def describe(info: OFTInfo) -> dict[str, Any]:
    """A checkpoint as plain values, in the order in which they are printed."""
    config, robot = info.config, info.robot
    return {
        "checkpoint": str(info.path),
        "format": "openvla-oft",
        "model": "openvla_oft",
        "parameters": info.parameters,
        "stored_dtype": max(info.dtypes, key=lambda dtype: info.dtypes[dtype]),
        "memory_bytes": {"float32": 4 * info.parameters, "bfloat16": 2 * info.parameters},
        "sizes": {"dino": vars(config.dino), "siglip": vars(config.siglip), "backbone": vars(config.llm)},
        "views": list(config.views),
        "visual_tokens_per_view": config.grid[0] * config.grid[1],
        "action_horizon": config.action_horizon,
        "model_action_dim": config.action_dim,
        "action_rows": config.action_rows,
        "pruner": info.pruner,
        "norm_stats": list(info.statistics),
        "tokenizer": str(info.tokenizer) if info.tokenizer else None,
        "components": {part: path.name for part, path in info.components.items()},
        "robot": None if robot is None else robot.name,
        "assumed": list(info.assumed),
        "missing": list(info.missing),
    }


def as_text(d: dict[str, Any]) -> str:
    """The description for people."""
    llm, towers = d["sizes"]["backbone"], d["sizes"]
    memory = ", ".join(f"{count / 2**30:,.1f} GiB in {dtype}" for dtype, count in d["memory_bytes"].items())
    lines = [
        f"{d['checkpoint']}: OpenVLA-OFT, L1 regression",
        f"  parameters     {d['parameters'] / 1e6:,.1f} M, {d['stored_dtype']}; {memory}",
        f"  towers         DINOv2 width {towers['dino']['width']}, SigLIP width {towers['siglip']['width']}",
        f"  backbone       {llm['depth']} layers, width {llm['width']}, {llm['num_heads']} heads, bidirectional",
        f"  views          {', '.join(d['views'])} ({d['visual_tokens_per_view']} visual tokens each)",
        f"  actions        {d['action_horizon']} steps of {d['model_action_dim']} numbers, in one pass",
        f"  pruner         {d['pruner'] or 'none'}",
        f"  statistics     {', '.join(d['norm_stats']) or 'none'}",
        f"  tokenizer      {d['tokenizer'] or 'not found'}",
        f"  robot          {d['robot'] or 'not known'}",
        *(f"  assumed        {line}" for line in d["assumed"]),
    ]
    lines += ["missing to run it:", *(f"  - {line}" for line in d["missing"])] if d["missing"] else []
    return "\n".join(lines if d["missing"] else [*lines, "nothing is missing to run it"])
