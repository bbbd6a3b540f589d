"""Where one inference looked, head by head.

    done = attend_frame(FrameConfig(policy="metaworld_tiny", image=("a.png", "b.png"), prompt="push", out="look"))
    done.rows[0]["mass"]                        # share of the attention that each view gets

What is written:

    prefix_L5_attn_vis_max.jpg  L5_prefix_heads/head_07.jpg     of each layer the most active head, and every head
    suffix_L5_attn_vis_max.jpg  L5_suffix_heads/head_07.jpg     the same of the actions
    L5_token_bowl.jpg           `tokens`: where a word looks    L5_suffix_steps/step_03.jpg  `steps` each
    maps.npz  frame.json        float16 maps in the model's patch grid; the table, the actions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foveate.attention.maps import averaged, mass_per_view, of_words, save_maps
from foveate.errors import FoveateError
from foveate.policy import Policy
from foveate.studies.attention.pictures import draw_phase, draw_steps, draw_words
from foveate.studies.attention.scene import SceneConfig, layers_of, open_scene, shared_noise, sheet_of
from foveate.types import ActionChunk, AttentionMaps, AttentionRequest, Phase
from foveate.util.checks import instruction
from foveate.util.files import alone_in, write_json
from foveate.util.progress import SILENT, Reporter
from foveate.util.run_folder import write_run_files


@dataclass(frozen=True, kw_only=True)
class FrameConfig(SceneConfig):
    """Draw where one inference looked: the most active head of every layer, and every head apart."""

    prompt: str | None = None
    """The instruction; an episode brings its own."""
    heads: tuple[int, ...] | None = None  # type: ignore[assignment]  # None: files of earlier runs say so
    """Heads to capture; without any, all."""
    tokens: tuple[str, ...] = ()
    """Words of the prompt, as `red,bowl`: draw which region each of them looks at."""
    steps: Literal["mean", "each"] = "mean"
    """Denoising steps of the suffix: `mean`, or `each` for a picture per step too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None or not self.episode:
            instruction("--prompt", self.prompt)
        if self.tokens and "prefix" not in self.phases:
            raise FoveateError("--tokens asks where words look, which is the prefix: add prefix to --phases")


@dataclass(frozen=True)
class FrameAttention:
    """What one inference did, and where it looked."""

    folder: Path
    prompt: str
    chunk: ActionChunk
    maps: dict[Phase, AttentionMaps]
    """With a leading axis for steps or tokens, where these were asked for."""
    words: dict[str, AttentionMaps]
    """Word -> where it looks."""
    rows: list[dict[str, Any]]
    """`phase, layer, most_active_head, mass`: view -> share of the attention of text or actions, mean over heads."""


@alone_in(lambda config: Path(config.out), "computing attention")
def attend_frame(config: FrameConfig, report: Reporter = SILENT, policy: Policy | None = None) -> FrameAttention:
    """Infer once; write maps, pictures and table.

    Args:
        policy: loaded as `config` says; None: it is loaded.
    Raises:
        FoveateError: a picture, layer, head or word that is not there; no picture is drawn then.
    """
    policy, observation = open_scene(config, config.prompt, report, policy)
    request = AttentionRequest(
        layers=layers_of(config.layers, policy.spec.depth),
        phases=config.phases,
        heads=config.heads or None,
        steps=config.steps,
        tokens=bool(config.tokens),
    )
    [(chunk, maps)] = policy.attend([observation], request, shared_noise(policy, config.seed, 1))
    words = of_words(maps["prefix"], config.tokens) if config.tokens else {}
    out = Path(config.out)
    write_run_files(out, config, config.seed)
    sheet = sheet_of(policy, observation, observation.prompt, config)
    best = {phase: draw_phase(out, sheet, found, config) for phase, found in maps.items()}
    draw_words(out, sheet, words, config)
    if config.steps == "each" and "suffix" in maps:
        draw_steps(out, sheet, maps["suffix"], best["suffix"], config)
    kept: dict[str, AttentionMaps] = dict(maps.items())
    if words:
        kept |= {"prefix": averaged(maps["prefix"]), "tokens": maps["prefix"]}
    save_maps(out / "maps.npz", kept)
    done = FrameAttention(out, observation.prompt, chunk, maps, words, _rows(maps, best))
    document = {
        "prompt": done.prompt,
        "activity": config.activity,
        "rows": done.rows,
        "words": list(words),
        "actions": np.round(chunk.actions, 6).tolist(),
        "timings_ms": chunk.timings_ms,
    }
    write_json(out / "frame.json", document)
    return done


def _rows(found: Mapping[Phase, AttentionMaps], best: Mapping[Phase, Mapping[int, int]]) -> list[dict[str, Any]]:
    rows = []
    for phase, maps in found.items():
        for layer, share in zip(maps.layers, mass_per_view(averaged(maps)).mean(1).tolist(), strict=True):
            mass = {view: round(value, 4) for view, value in zip(maps.views, share, strict=True)}
            rows.append({"phase": phase, "layer": layer, "most_active_head": best[phase][layer], "mass": mass})
    return rows
