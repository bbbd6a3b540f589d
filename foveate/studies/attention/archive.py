"""The attention maps of one episode in one compressed file, from which pictures are drawn again without the model.

    archive.save(folder / MAPS)
    archive = EpisodeMaps.load(folder / MAPS)
    maps = archive.at(8, "prefix")                    # AttentionMaps of keyframe 8

A file `maps.npz` holds `<phase>/maps` float16 [keyframe, layer, head, view, rows, columns], `<phase>/valid` bool
[keyframe, view, rows, columns], and `about`, a JSON text with everything else. NumPy alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.attention.maps import rank_heads
from foveate.errors import FoveateError
from foveate.types import AttentionMaps, Phase
from foveate.util.files import draft

MAPS = "maps.npz"
HEADS = "heads.json"


@dataclass(frozen=True)
class About:
    """An episode, and how its maps came to be."""

    episode: str
    outcome: str
    instruction: str
    total_frames: int
    keyframes: tuple[int, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    views: Mapping[str, str]
    """View, as the policy's observation names it -> camera of the episode folder."""
    model_hw: tuple[int, int]
    """The model's input, into which each picture is resized with padding."""
    policy: str
    seed: int
    crop: float | None = None
    """Side of the middle of a picture that the model sees, as a share; None: all of it."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> About:
        values: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(text).items()}
        return cls(**values)


@dataclass
class EpisodeMaps:
    """The maps of one episode."""

    about: About
    maps: dict[Phase, np.ndarray] = field(default_factory=dict)
    """float16 [keyframe, layer, head, view, rows, columns]."""
    valid: dict[Phase, np.ndarray] = field(default_factory=dict)
    """bool [keyframe, view, rows, columns]: patches that were there and kept."""

    @classmethod
    def gather(cls, about: About, frames: Sequence[Mapping[Phase, AttentionMaps]]) -> EpisodeMaps:
        """From one `AttentionMaps` per keyframe and phase, their views already named as in `about.views`."""
        phases: tuple[Phase, ...] = tuple(frames[0]) if frames else ()
        return cls(
            about,
            {phase: np.stack([frame[phase].maps for frame in frames]) for phase in phases},
            {phase: np.stack([frame[phase].valid for frame in frames]) for phase in phases},
        )

    def at(self, keyframe: int, phase: Phase) -> AttentionMaps:
        """The maps of the inference at this frame."""
        if phase not in self.maps:
            raise FoveateError(
                f"episode {self.about.episode}: no {phase} maps are stored, only {', '.join(self.maps)}; "
                f"run `foveate attn episodes` with --phases {','.join(self.maps)},{phase}"
            )
        i = self.about.keyframes.index(keyframe)
        views = tuple(self.about.views)
        return AttentionMaps(
            phase, self.about.layers, self.about.heads, views, self.maps[phase][i], self.valid[phase][i]
        )

    def most(self, phase: Phase, layers: Sequence[int] = (), heads: Sequence[int] = ()) -> dict[int, float]:
        """Layer -> the largest value on a patch that was there, over all keyframes and these heads; empty: all."""
        columns = [self.about.heads.index(head) for head in heads or self.about.heads]
        there = self.valid[phase][:, None]  # [keyframe, 1, view, rows, columns]
        return {
            layer: float(np.where(there, self.maps[phase][:, self.about.layers.index(layer)][:, columns], 0).max())
            for layer in layers or self.about.layers
        }

    def most_of_mean(self, phase: Phase, layer: int) -> float:
        """As `most`, of the mean over the heads."""
        mean = self.maps[phase][:, self.about.layers.index(layer)].astype(np.float32).mean(1)
        return float(np.where(self.valid[phase], mean, 0).max())

    def save(self, path: Path) -> None:
        arrays: dict[str, Any] = {f"{phase}/maps": values for phase, values in self.maps.items()}
        arrays |= {f"{phase}/valid": values for phase, values in self.valid.items()}
        with draft(path, "the maps") as begun, begun.open("wb") as file:
            np.savez_compressed(file, about=np.array(self.about.to_json()), **arrays)

    @classmethod
    def load(cls, path: Path) -> EpisodeMaps:
        try:
            with np.load(path) as file:
                phases = [key.partition("/")[0] for key in file.files if key.endswith("/maps")]
                return cls(
                    About.from_json(str(file["about"])),
                    {phase: file[f"{phase}/maps"] for phase in phases},  # type: ignore[misc]  # keys are phases
                    {phase: file[f"{phase}/valid"] for phase in phases},  # type: ignore[misc]
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise FoveateError(f"{path}: not a file of an episode's maps that foveate wrote ({error})") from error

    @staticmethod
    def about_in(path: Path) -> About:
        """What `load` gives beside the maps, without reading them."""
        try:
            with np.load(path) as file:
                return About.from_json(str(file["about"]))
        except Exception as error:  # zip files and JSON that are damaged raise many things
            raise FoveateError(f"{path}: not a file of an episode's maps that foveate wrote ({error})") from error

    def ranking(self) -> dict[str, list[dict[str, Any]]]:
        """Phase -> heads, the most active one first: layer, head, activity (variance of its map, mean over the
        keyframes) and first (share of keyframes in which it leads its layer)."""
        frames = self.about.keyframes
        return {phase: [asdict(rank) for rank in rank_heads(self.at(f, phase) for f in frames)] for phase in self.maps}


Held = tuple[Collection[int], Collection[int]]
"""Layers and heads."""


def held_in(path: Path) -> Held | None:
    """What stored maps hold; None where they cannot be read, which is told when it is their turn."""
    try:
        about = EpisodeMaps.about_in(path)
    except FoveateError:
        return None
    return about.layers, about.heads


def check_held(held: Held | None, layers: Sequence[int], heads: Sequence[int], key: str) -> None:
    """Raises FoveateError where an episode does not hold what is asked for; None holds all."""
    for kind, wanted, known in zip(("layer", "head"), (layers, heads), held or (layers, heads), strict=True):
        for number in wanted:
            if number not in known:
                raise FoveateError(
                    f"episode {key}: {kind} {number}: the maps hold {len(known)} {kind}s, "
                    f"{', '.join(map(str, known))}; choose among them with --{kind}s"
                )
