"""`foveate attn frame`: where one inference looked, head by head.

foveate attn frame --policy metaworld_tiny --image corner=a.png gripperPOV=b.png --prompt "push the puck" --out look
foveate attn frame --policy pi05_droid --episode success/2025-12-10/2025-12-10_10-11-12 --frame 8 --out look

prefix_L5_attn_vis_max.jpg  L5_prefix_heads/head_07.jpg     of each layer the most active head, and every head
suffix_L5_attn_vis_max.jpg  L5_suffix_heads/head_07.jpg     the same of the actions
L5_token_bowl.jpg           --tokens: where a word looks    L5_suffix_steps/step_03.jpg  --steps each
maps.npz  frame.json        float16 maps in the model's patch grid; the table, the actions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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
from foveate.util.files import write_json

if TYPE_CHECKING:
    from foveate.types import AttentionMaps, Phase


@dataclass(frozen=True, kw_only=True)
class FrameConfig(SceneConfig):
    """Draw where one inference looked: the most active head of every layer, and every head apart."""

    prompt: str | None = None
    """The instruction; an episode brings its own."""
    heads: tuple[int, ...] | None = None
    """Heads to capture; without any, all."""
    tokens: tuple[str, ...] = ()
    """Words of the prompt, as `red,bowl`: draw which region each of them looks at."""
    steps: Literal["mean", "each"] = "mean"
    """Denoising steps of the suffix: `mean`, or `each` for a picture per step too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.prompt or self.episode):
            raise FoveateError("--prompt: which instruction? Only an --episode brings one")
        if self.tokens and "prefix" not in self.phases:
            raise FoveateError("--tokens asks where words look, which is the prefix: add prefix to --phases")


def frame(argv: list[str]) -> int:
    """The verb: maps and pictures of one inference."""
    from rich.console import Console

    from foveate.attention.maps import averaged, of_words, save_maps
    from foveate.studies.attention.frame_pictures import draw_phase, draw_steps, draw_words
    from foveate.types import AttentionRequest

    config: FrameConfig = parse_scene(FrameConfig, argv, "frame", several=("image",))
    look, console = config.drawing((), ()), Console()
    policy = load_on_tree(config) if config.episode else config.load()
    observation = observe(config, config.prompt, policy, console)
    request = AttentionRequest(
        layers=layers_of(config.layers, policy.spec.depth),
        phases=config.phases,
        heads=config.heads,
        steps=config.steps,
        tokens=bool(config.tokens),
    )
    chunk, maps = policy.attend([observation], request, noise_for(config, policy, 1))[0]
    words = of_words(maps["prefix"], config.tokens) if config.tokens else {}
    out = begin(config)
    sheet = sheet_of(policy, observation, observation.prompt, look.style)
    best = {
        phase: draw_phase(out, sheet, m, by=look.activity, heads=look.detail, quality=look.quality)
        for phase, m in maps.items()
    }
    draw_words(out, sheet, words, by=look.activity, quality=look.quality)
    if config.steps == "each" and "suffix" in maps:
        draw_steps(out, sheet, maps["suffix"], best["suffix"], quality=look.quality)
    kept: dict[str, AttentionMaps] = dict(maps.items())
    if words:
        kept |= {"prefix": averaged(maps["prefix"]), "tokens": maps["prefix"]}
    save_maps(out / "maps.npz", kept)
    rows = _rows(maps, best)
    write_json(
        out / "frame.json",
        {
            "prompt": observation.prompt,
            "activity": look.activity,
            "rows": rows,
            "words": list(words),
            "actions": np.round(chunk.actions, 6).tolist(),
            "timings_ms": chunk.timings_ms,
        },
    )
    views = list(rows[0]["mass"])
    print_table(
        console,
        f"where it looked: {observation.prompt}",
        ["phase", "layer", "most active head", *(f"on {view}" for view in views)],
        [[r["phase"], r["layer"], r["most_active_head"], *(f"{r['mass'][v]:.1%}" for v in views)] for r in rows],
    )
    console.print("shares: of the attention of text or actions, mean over heads; the rest lies on text and actions")
    console.print(f"pictures and maps.npz: {out}", soft_wrap=True)
    return 0


def _rows(found: Mapping[Phase, AttentionMaps], best: Mapping[Phase, Mapping[int, int]]) -> list[dict[str, Any]]:
    """Per phase and layer: the most active head, and the share of attention that each view gets, mean over heads."""
    from foveate.attention.maps import averaged, mass_per_view

    rows = []
    for phase, maps in found.items():
        for layer, share in zip(maps.layers, mass_per_view(averaged(maps)).mean(1).tolist(), strict=True):
            mass = {view: round(value, 4) for view, value in zip(maps.views, share, strict=True)}
            rows.append({"phase": phase, "layer": layer, "most_active_head": best[phase][layer], "mass": mass})
    return rows
