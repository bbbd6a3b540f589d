"""`foveate attn prompts`: one scene under several prompts, to see whether the words steer the eyes.

foveate attn prompts --policy pi05_droid --episode DIR --prompt "take the red cube" "take the blue cube" --out two

prompts.json  maps.npz                  distances per layer, pair and head; the maps of every prompt
L5_prefix_H3/prompt_0.jpg               the most active head under each prompt, on one scale
L5_prefix_H3/difference_0_1.jpg         the second less the first
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.cli.attn_scene import (
    SceneConfig,
    begin,
    layers_of,
    load,
    noise_for,
    observe,
    parse_scene,
    print_table,
    sheet_of,
    write_json,
)
from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.policy import Policy
    from foveate.types import AttentionMaps, Observation, Phase

CONTRAST = "coolwarm"
"""Colour map of differences: blue less, red more."""


@dataclass(frozen=True)
class PromptsConfig(SceneConfig):
    """Show one scene under several prompts, and measure how far the maps and the actions move."""

    prompt: tuple[str, ...] = ()
    """The instructions, two or more, repeatable."""


def prompts(argv: list[str]) -> int:
    """The verb: one scene under several prompts."""
    from rich.console import Console

    from foveate.attention.maps import save_maps
    from foveate.types import AttentionRequest

    config: PromptsConfig = parse_scene(PromptsConfig, argv, "prompts", several=("image", "prompt"))
    if len(config.prompt) < 2:
        raise FoveateError(f"--prompt: expected two or more instructions to compare, got {len(config.prompt)}")
    console = Console()
    policy = load(config)
    first = observe(config, config.prompt[0], policy, console)
    observations = [replace(first, prompt=prompt) for prompt in config.prompt]
    request = AttentionRequest(layers=layers_of(config, policy), phases=config.phases)
    found = policy.attend(observations, request, noise_for(config, policy, len(observations)))
    out = begin(config)
    save_maps(out / "maps.npz", {f"{phase}/{i}": m for i, (_, maps) in enumerate(found) for phase, m in maps.items()})
    pairs = list(itertools.combinations(range(len(found)), 2))
    rows = _rows([maps for _, maps in found], pairs)
    chunks = np.stack([chunk.actions for chunk, _ in found])
    moved = {f"{i}-{j}": float(np.sqrt(((chunks[i] - chunks[j]) ** 2).mean())) for i, j in pairs}
    _draw_prompts(config, policy, observations, [maps for _, maps in found], out)
    document = {"prompts": list(config.prompt), "rows": rows, "action_rms": moved, "actions": chunks.round(6).tolist()}
    write_json(out / "prompts.json", document)
    print_table(
        console,
        "do the words steer the eyes",
        ["phase", "layer", "prompts", "L2", "relative L2", "correlation", "farthest head"],
        [
            [r["phase"], r["layer"], "-".join(map(str, r["prompts"])), _text(r["l2"]), _text(r["relative_l2"]),
             _text(r["correlation"]), r["farthest_head"]]
            for r in rows
        ],
    )  # fmt: skip
    for i, prompt in enumerate(config.prompt):
        console.print(f"{i}: {prompt}", highlight=False)
    console.print("means over heads; relative L2: 0 the same map, 1.41 no overlap")
    for pair, value in moved.items():
        console.print(f"actions {pair}: RMS difference {value:.4g} under the same noise", highlight=False)
    console.print(f"pictures, prompts.json and maps.npz: {out}", soft_wrap=True)
    return 0


def _rows(found: Sequence[Mapping[Phase, AttentionMaps]], pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Per phase, pair of prompts and layer: the distances of `Comparison`, head by head and their mean."""
    from foveate.attention.maps import compare

    rows = []
    for phase, first in found[0].items():
        for i, j in pairs:
            gap = asdict(compare(found[i][phase], found[j][phase]))
            for at, layer in enumerate(first.layers):
                heads = {name: values[at] for name, values in gap.items()}
                row: dict[str, Any] = {"phase": phase, "layer": layer, "prompts": [i, j]}
                row |= {name: _number(_mean(values)) for name, values in heads.items()}
                row["farthest_head"] = first.heads[int(heads["relative_l2"].argmax())]
                row["heads"] = {name: [_number(value) for value in values] for name, values in heads.items()}
                rows.append(row)
    return rows


def _draw_prompts(
    config: SceneConfig,
    policy: Policy,
    observations: Sequence[Observation],
    found: Sequence[Mapping[Phase, AttentionMaps]],
    out: Path,
) -> None:
    """`L5_prefix_H3/prompt_0.jpg` on one scale, `difference_0_1.jpg` (second less first) beside them.

    The head is the one that is most active over all prompts: one head, so that pictures may be compared.
    """
    from foveate.attention.maps import activity, difference
    from foveate.viz.attention import save_jpeg
    from foveate.viz.attention_frame import grids

    sheets = [sheet_of(config, policy, observation, observation.prompt) for observation in observations]
    pairs = list(itertools.combinations(range(len(found)), 2))
    titles = {(i, j): f"'{observations[j].prompt}' minus '{observations[i].prompt}'" for i, j in pairs}
    contrast = {pair: sheet_of(config, policy, observations[0], title, CONTRAST) for pair, title in titles.items()}
    for phase, first in found[0].items():
        active = np.sum([activity(maps[phase], config.activity) for maps in found], 0).argmax(-1)
        gaps = {(i, j): difference(found[j][phase], found[i][phase]) for i, j in pairs}
        for at, (layer, h) in enumerate(zip(first.layers, active.tolist(), strict=True)):
            folder = out / f"L{layer}_{phase}_H{first.heads[h]}"
            folder.mkdir(parents=True, exist_ok=True)
            label = f"{phase} L{layer} H{first.heads[h]}"
            top = max(float(maps[phase].maps[at, h].max()) for maps in found)
            for i, (sheet, maps) in enumerate(zip(sheets, found, strict=True)):
                picture = sheet.draw(grids(maps[phase], maps[phase].maps[at, h]), label, (0.0, top))
                save_jpeg(folder / f"prompt_{i}.jpg", picture, config.quality)
            for (i, j), gap in gaps.items():
                values = gap[at, h]
                most = float(np.nanmax(np.abs(values))) or 1.0
                both = replace(first, valid=np.isfinite(values))
                picture = contrast[i, j].draw(grids(both, values), label, (-most, most))
                save_jpeg(folder / f"difference_{i}_{j}.jpg", picture, config.quality)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _number(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return round(float(value), 6) if np.isfinite(value) else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
