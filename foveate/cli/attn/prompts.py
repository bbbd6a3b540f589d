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

from foveate.cli.attn.options import load_on_tree
from foveate.cli.attn.scene import (
    SceneConfig,
    begin,
    layers_of,
    noise_for,
    observe,
    parse_scene,
    print_table,
    sheet_of,
)
from foveate.errors import FoveateError
from foveate.util.files import nan_to_null, write_json

if TYPE_CHECKING:
    from foveate.policy import Policy
    from foveate.studies.attention.pictures import Drawing
    from foveate.types import AttentionMaps, Observation, Phase
    from foveate.viz.attention import Sheet

CONTRAST = "coolwarm"
"""Colour map of differences: blue less, red more."""


@dataclass(frozen=True, kw_only=True)
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
    look, console = config.drawing((), ()), Console()
    policy = load_on_tree(config) if config.episode else config.load()
    first = observe(config, config.prompt[0], policy, console)
    observations = [replace(first, prompt=prompt) for prompt in config.prompt]
    request = AttentionRequest(layers=layers_of(config.layers, policy.spec.depth), phases=config.phases)
    found = policy.attend(observations, request, noise_for(config, policy, len(observations)))
    out = begin(config)
    save_maps(out / "maps.npz", {f"{phase}/{i}": m for i, (_, maps) in enumerate(found) for phase, m in maps.items()})
    pairs = list(itertools.combinations(range(len(found)), 2))
    rows = _rows([maps for _, maps in found], pairs)
    chunks = np.stack([chunk.actions for chunk, _ in found])
    moved = {f"{i}-{j}": float(np.sqrt(((chunks[i] - chunks[j]) ** 2).mean())) for i, j in pairs}
    _draw(policy, observations, [maps for _, maps in found], out, look)
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
                row |= {name: nan_to_null(_mean(values), 6) for name, values in heads.items()}
                row["farthest_head"] = first.heads[int(heads["relative_l2"].argmax())]
                row["heads"] = {name: nan_to_null(values, 6) for name, values in heads.items()}
                rows.append(row)
    return rows


def _draw(
    policy: Policy,
    observations: Sequence[Observation],
    found: Sequence[Mapping[Phase, AttentionMaps]],
    out: Path,
    look: Drawing,
) -> None:
    """The pictures that the module names; the most active head is that of all prompts together, so that it is one."""
    from foveate.attention.maps import activity, difference
    from foveate.studies.attention.frame_pictures import grids

    pairs = list(itertools.combinations(range(len(found)), 2))
    scenes = _Scenes(
        [sheet_of(policy, o, o.prompt, look.style) for o in observations],
        {
            (i, j): sheet_of(
                policy,
                observations[0],
                f"'{observations[j].prompt}' minus '{observations[i].prompt}'",
                replace(look.style, colormap=CONTRAST),
            )
            for i, j in pairs
        },
        look.quality,
    )
    for phase, first in found[0].items():
        maps = [each[phase] for each in found]
        best = np.sum([activity(m, look.activity) for m in maps], 0).argmax(-1)
        gaps = {(i, j): difference(maps[j], maps[i]) for i, j in pairs}
        for at, layer in enumerate(first.layers):
            for h, head in enumerate(first.heads):
                folders = [out / f"L{layer}_{phase}_heads" / f"head_{head:02d}"] if look.detail else []
                folders += [out / f"L{layer}_{phase}_max"] if h == best[at] else []
                if folders:
                    here = [grids(m, m.maps[at, h]) for m in maps]
                    moved = {
                        pair: grids(replace(first, valid=np.isfinite(gap[at, h])), gap[at, h])
                        for pair, gap in gaps.items()
                    }
                    scenes.draw(folders, f"{phase} L{layer} H{head}", here, moved)


@dataclass
class _Scenes:
    """Sheets of one moment: one for each prompt, one for each pair of prompts."""

    prompts: Sequence[Sheet]
    pairs: Mapping[tuple[int, int], Sheet]
    quality: int

    def draw(
        self,
        folders: Sequence[Path],
        label: str,
        maps: Sequence[Mapping[str, np.ndarray]],
        gaps: Mapping[tuple[int, int], Mapping[str, np.ndarray]],
    ) -> None:
        """One head: its maps on one scale from 0, its differences on a scale of their own around 0."""
        from foveate.viz.attention import save_jpeg

        top = max(_largest(views) for views in maps)
        pictures = {f"prompt_{i}.jpg": sheet.draw(maps[i], label, (0.0, top)) for i, sheet in enumerate(self.prompts)}
        for (i, j), sheet in self.pairs.items():
            most = _largest(gaps[i, j])
            pictures[f"difference_{i}_{j}.jpg"] = sheet.draw(gaps[i, j], label, (-most, most))
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            for name, picture in pictures.items():
                save_jpeg(folder / name, picture, self.quality)


def _largest(views: Mapping[str, np.ndarray]) -> float:
    """Absolute value; 1 where there is none."""
    values = np.concatenate([np.abs(grid[np.isfinite(grid)]) for grid in views.values()])
    return float(values.max(initial=0.0)) or 1.0


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
