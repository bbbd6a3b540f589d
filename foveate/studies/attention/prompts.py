"""One scene under several prompts: do the words steer the attention, and the actions?

    done = compare_prompts(PromptsConfig(policy="metaworld_tiny", image=("a.png", "b.png"), out="two",
                                         prompt=("push the puck", "open the drawer")))
    done.rows[0]["relative_l2"], done.action_rms["0-1"]

What is written:

    prompts.json  maps.npz                  distances per layer, pair and head; the maps of every prompt
    L5_prefix_max/prompt_0.jpg              the most active head under each prompt, on one scale
    L5_prefix_max/difference_0_1.jpg        the second less the first
    L5_prefix_heads/head_03/                the same of every head
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foveate.attention.maps import activity, compare, difference, save_maps
from foveate.errors import FoveateError
from foveate.policy import Policy
from foveate.studies.attention.pictures import grids
from foveate.studies.attention.scene import SceneConfig, layers_of, open_scene, shared_noise, sheet_of
from foveate.types import ActionChunk, AttentionMaps, AttentionRequest, Observation, Phase
from foveate.util.checks import instruction
from foveate.util.files import alone_in, nan_to_null, write_json
from foveate.util.progress import SILENT, Reporter
from foveate.util.run_folder import write_run_files
from foveate.viz.attention import Sheet, save_jpeg

CONTRAST = "coolwarm"
"""Colour map of differences: blue less, red more."""


@dataclass(frozen=True, kw_only=True)
class PromptsConfig(SceneConfig):
    """Show one scene under several prompts, and measure how far the maps and the actions move."""

    prompt: tuple[str, ...] = ()
    """The instructions, two or more, repeatable."""
    heads: tuple[int, ...] = ()
    """Heads to capture; without any, all."""


@dataclass(frozen=True)
class PromptsCompared:
    """What each prompt gave, and how far they lie apart."""

    folder: Path
    prompts: tuple[str, ...]
    chunks: list[ActionChunk]
    maps: list[dict[Phase, AttentionMaps]]
    rows: list[dict[str, Any]]
    """`phase, layer, prompts` (a pair), distances of `Comparison` as means over heads, `farthest_head`, `heads`."""
    action_rms: dict[str, float]
    """`0-1` -> RMS difference of the actions of these prompts, from the same noise."""


@alone_in(lambda config: Path(config.out), "comparing prompts")
def compare_prompts(config: PromptsConfig, report: Reporter = SILENT, policy: Policy | None = None) -> PromptsCompared:
    """Infer once per prompt, all from the same noise; write maps, pictures and distances.

    Args:
        policy: loaded as `config` says; None: it is loaded.
    Raises:
        FoveateError: fewer than two prompts, or a picture, layer or head that is not there.
    """
    if len(config.prompt) < 2:
        raise FoveateError(f"--prompt: expected two or more instructions to compare, got {len(config.prompt)}")
    for prompt in config.prompt:
        instruction("--prompt", prompt)
    policy, first = open_scene(config, config.prompt[0], report, policy)
    observations = [replace(first, prompt=prompt) for prompt in config.prompt]
    request = AttentionRequest(
        layers_of(config.layers, policy.spec.depth), phases=config.phases, heads=config.heads or None
    )
    answers = policy.attend(observations, request, shared_noise(policy, config.seed, len(observations)))
    chunks, maps = [chunk for chunk, _ in answers], [found for _, found in answers]
    out = Path(config.out)
    write_run_files(out, config, config.seed)
    save_maps(out / "maps.npz", {f"{phase}/{i}": m for i, found in enumerate(maps) for phase, m in found.items()})
    pairs = list(itertools.combinations(range(len(maps)), 2))
    _draw(config, policy, observations, maps, pairs)
    actions = np.stack([chunk.actions for chunk in chunks])
    moved = {f"{i}-{j}": float(np.sqrt(((actions[i] - actions[j]) ** 2).mean())) for i, j in pairs}
    done = PromptsCompared(out, config.prompt, chunks, maps, _rows(maps, pairs), moved)
    document = {"prompts": list(config.prompt), "rows": done.rows, "action_rms": moved}
    write_json(out / "prompts.json", {**document, "actions": actions.round(6).tolist()})
    return done


def _rows(found: Sequence[Mapping[Phase, AttentionMaps]], pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Per phase, pair of prompts and layer: the distances of `Comparison`, head by head and their mean."""
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
    config: PromptsConfig,
    policy: Policy,
    observations: Sequence[Observation],
    found: Sequence[Mapping[Phase, AttentionMaps]],
    pairs: Sequence[tuple[int, int]],
) -> None:
    """The pictures that the module names; the most active head is that of all prompts together, so that it is one."""
    scenes = _Scenes(
        [sheet_of(policy, o, o.prompt, config) for o in observations],
        {
            (i, j): sheet_of(
                policy,
                observations[0],
                f"'{observations[j].prompt}' minus '{observations[i].prompt}'",
                replace(config, colormap=CONTRAST),
            )
            for i, j in pairs
        },
        config.quality,
    )
    for phase, first in found[0].items():
        maps = [each[phase] for each in found]
        # `activity` is one of `ACTIVITIES`
        best = np.sum([activity(m, config.activity) for m in maps], 0).argmax(-1)  # type: ignore[arg-type]
        gaps = {(i, j): difference(maps[j], maps[i]) for i, j in pairs}
        for at, layer in enumerate(first.layers):
            for h, head in enumerate(first.heads):
                folders = [Path(config.out) / f"L{layer}_{phase}_heads" / f"head_{head:02d}"] if config.detail else []
                folders += [Path(config.out) / f"L{layer}_{phase}_max"] if h == best[at] else []
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
