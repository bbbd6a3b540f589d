"""VLA-ADP (Pei et al. 2025, arXiv 2509.22093): prune by the words where the arm moves fast, look closely where not.

Patches are ranked by the first layer's text-image products; whether to prune at all is decided anew for each chunk of
actions, by how far the end effector has moved: coarse motion needs little to be seen, fine motion all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.pruning.base import ROBOT_STATE, FixedBudget, State, TokenPruner, at, patches_of, top, words_of
from foveate.pruning.inside import Inside
from foveate.types import KeepSet, Prefix, Selection, TokenLayout
from foveate.util.checks import one_of
from foveate.util.words import plural

Decision = Literal["adjacent", "average"]
POSITIONS = ("eef_position", "hand_position")
"""What robots call the position of their end effector, in metres."""
SESSION = "vla_adp"


@dataclass(frozen=True, kw_only=True)
class VLAADP(FixedBudget):
    """Prune by first-layer text-image scores, while the end effector moves fast."""

    split: tuple[float, ...] | None = None
    """Shares of the budget by view, as 0.4,0.6 (published, camera and wrist); null: every view has its own budget."""
    decision: Decision = "adjacent"
    """Fast against the extremes of the last displacements (`adjacent`), or against their running average."""
    window: int = 3
    """Displacements that `adjacent` compares, this one included; at least 3."""
    keep_state: bool = False
    """Whether `adjacent` stays as it was between the extremes, in place of pruning."""
    most_pruned: int | None = 3
    """Inferences pruned in a row, at most; null: no limit."""
    position: str | None = None
    """Part of the robot's state that holds the end effector's position; null: eef_position or hand_position."""
    gate: bool = True
    """Whether motion decides; false: every inference is pruned."""
    reference: bool = False
    """The published code's numbers: shares are rounded, what a view cannot hold is lost, and standing still prunes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("VLAADP decision", self.decision, get_args(Decision))
        if self.window < 3:
            raise FoveateError(f"VLAADP: window must be at least 3, got {self.window}")
        if self.most_pruned is not None and self.most_pruned < 1:
            raise FoveateError(f"VLAADP: most_pruned must be at least 1, or null, got {self.most_pruned}")
        if self.split is not None and (not self.split or min(self.split) < 0 or sum(self.split) <= 0):
            raise FoveateError(f"VLAADP: split must be shares of at least 0, not all 0, got {list(self.split)}")

    def build(self) -> VLAADPPruner:
        return VLAADPPruner(self)


class VLAADPPruner(TokenPruner):
    """A patch's score is the product of its key and the words' queries in the backbone's first layer, without rotation
    or softmax, mean over words and heads and divided by sqrt(head width). Per view the best stay.

    An inference is pruned where the end effector's displacement since the last one is at least the largest of those
    before (or their running average), not where it is below the smallest, and in between too, unless `keep_state`. An
    episode's first inferences see everything, and so does one after `most_pruned` pruned ones. An arm that stands still
    is not moving fast and sees everything. A chunk's path is not known to a policy, so displacements are net.

    `reference`: with 0 as the largest displacement standing still prunes; the budget is one share of all patches,
    rounded half to even, and split over the views by `split` (a second share is divided among the views from the second
    on), where a share above a view's patches is lost. One view's patches enter the published backbone in the order of
    their score; order says nothing here, since position ids travel with the tokens.
    """

    looks_at = frozenset({"attention"})

    def __init__(self, config: VLAADP) -> None:
        super().__init__()
        self.config, self.has_history = config, config.gate
        self.within_budget = not config.gate and config.split is None and not config.reference

    def select(
        self,
        prefix: Prefix,
        queries: Tensor | None = None,
        *,
        state: Sequence[State] | None = None,
        inside: Inside | None = None,
        **_: Any,
    ) -> Selection:
        valid = self.valid_patches(prefix)
        if inside is None or not inside.layers:
            raise FoveateError("VLAADP: needs the first layer of the backbone, and nothing shows it here")
        with torch.no_grad():
            scores = first_layer_scores(inside.layers[0], prefix)
            best = self._best(scores, valid, prefix.layout)
        pruned, moved = self._gate(len(valid), state)
        keep = torch.where(torch.tensor(pruned, device=valid.device)[:, None], best, valid)
        history = {
            "pruned": torch.tensor(pruned, device=valid.device),
            "displacement": torch.tensor(moved, device=valid.device),
        }
        choice = KeepSet(keep, prefix.layout, scores.masked_fill(~valid, 0.0), valid, history=history)
        return self.selection(prefix, choice)

    def _gate(self, rows: int, state: Sequence[State] | None) -> tuple[list[bool], list[float]]:
        """Whether each row is pruned, and how far its end effector went (m; NaN: not known)."""
        if not self.config.gate:
            return [True] * rows, [math.nan] * rows
        if state is None:
            raise FoveateError("VLAADP chooses by the arm's motion: pass each sample's session, or set gate to false")
        pruned, moved = [], []
        for session in state:
            gate = session.setdefault(SESSION, Gate(self.config))
            displacement = gate.arrive(position_of(session, self.config.position))
            pruned.append(gate.pruning)
            moved.append(displacement)
        return pruned, moved

    def _best(self, scores: Tensor, valid: Tensor, layout: TokenLayout) -> Tensor:
        keep = torch.zeros_like(valid)
        parts = list(layout.view_slices.values())
        for row in range(len(valid)):
            there = [int(valid[row, part].sum()) for part in parts]
            for part, count in zip(parts, self.config_counts(there), strict=True):
                keep[row, part] = top(scores[row, part], valid[row, part], count)
        return keep

    def config_counts(self, there: list[int]) -> list[int]:
        """Patches to keep of views with so many."""
        config = self.config
        if config.reference and config.keep_ratio == 1:
            return there
        if config.reference:
            return published_split(max(1, config.rounded(sum(there))), len(there), config.split)
        own = [config.of(count) for count in there]
        return own if config.split is None else divided(sum(own), there, _shares(config.split, len(there)))


def first_layer_scores(layer: torch.nn.Module, prefix: Prefix) -> Tensor:
    """float32 [B, P]: mean over words and heads of q . k / sqrt(head width), not rotated.

    Args:
        layer: the backbone's first, with `queries_keys`.
    """
    slots, there = words_of(prefix)
    q, _ = layer.queries_keys(at(prefix.embeds, slots), None)  # type: ignore[operator]
    _, k = layer.queries_keys(patches_of(prefix), None)  # type: ignore[operator]
    share = there / there.sum(-1, keepdim=True).clamp_min(1)
    asked = (q.float() * share[:, None, :, None]).sum(2)  # [B, H, K]: the mean word
    asked = asked.unflatten(1, (k.shape[1], -1)).mean(2)  # heads that share keys
    scores: Tensor = torch.einsum("bgk,bgpk->bp", asked, k.float()) / k.shape[1] / math.sqrt(k.shape[-1])
    return scores


def _shares(split: Sequence[float], views: int) -> list[float]:
    """One share per view: what is missing is divided from the last share on."""
    if len(split) > views:
        raise FoveateError(
            f"VLAADP: split has {len(split)} shares, and the policy has {plural(views, 'view')}; give one to "
            "each, or leave split out"
        )
    *first, last = split
    rest = views - len(first)
    shares = [*first, *[last / rest] * rest]
    return [share / sum(shares) for share in shares]


def divided(total: int, there: Sequence[int], shares: Sequence[float]) -> list[int]:
    """A total over views by shares, none above what a view has: what it cannot hold goes to the others.

    By largest remainders (Hamilton's method), the first view where they are equal.
    """
    counts, left = [0] * len(there), min(total, sum(there))
    while left:
        open_views = [v for v in range(len(there)) if counts[v] < there[v]]
        weight = sum(shares[v] for v in open_views)
        wanted = {v: left * (shares[v] / weight if weight else 1 / len(open_views)) for v in open_views}
        given = {v: min(int(wanted[v]), there[v] - counts[v]) for v in open_views}
        if not any(given.values()):
            by_rest = sorted(open_views, key=lambda v: -wanted[v])
            given = {v: int(v in by_rest[:left]) for v in open_views}
        for v, count in given.items():
            counts[v] += count
            left -= count
    return counts


def published_split(total: int, views: int, split: Sequence[float] | None) -> list[int]:
    """As published: shares rounded half to even, at least 1, and put right by ones, largest share first.

    Raises:
        FoveateError: fewer patches than views, over which the published code never returns.
    """
    if views == 1:
        return [total]
    if total < views:
        raise FoveateError(f"VLAADP: a budget of {total} for {views} views; give at least one patch to each")
    shares = [1 / views] * views if split is None else _shares(split, views)
    counts = [max(1, round(total * share)) for share in shares]
    order = sorted(range(views), key=lambda v: -shares[v])
    turn = 0
    while sum(counts) != total:
        view = order[turn % views]
        step = 1 if sum(counts) < total else -1
        if counts[view] + step >= 1:
            counts[view] += step
        turn += 1
    return counts


def position_of(session: State, part: str | None) -> np.ndarray:
    """float [3]: where the session's end effector is (m).

    Raises:
        FoveateError: nobody says, or the robot's state has no such part.
    """
    parts = session.get(ROBOT_STATE)
    if parts is None:
        raise FoveateError("VLAADP goes by the robot's state, which is not known here: run it by a Policy, or set gate")
    name = part or next((name for name in POSITIONS if name in parts), None)
    if name is None or name not in parts:
        wanted = f"{part!r}" if part else " or ".join(POSITIONS)
        raise FoveateError(
            f"VLAADP: expected {wanted} in the robot's state, which holds {', '.join(parts)}; name the end effector's "
            "position by position, or set gate to false"
        )
    return np.asarray(parts[name], np.float64)


@dataclass
class Gate:
    """Whether the next window of actions is pruned, out of the displacements of those before; one per session."""

    config: VLAADP
    pruning: bool = False
    """Of the window that begins now."""
    _in_a_row: int = 0
    _before: list[float] = field(default_factory=list)
    _average: float | None = None
    _position: np.ndarray | None = None

    _at_first: bool = False

    def __post_init__(self) -> None:
        self._in_a_row, self._at_first = int(self.pruning), self.pruning

    def arrive(self, position: np.ndarray) -> float:
        """A window has ended where the end effector is at `position` [3] (m); returns how far it came, NaN at first."""
        before, self._position = self._position, position
        if before is None:
            return math.nan
        displacement = float(np.linalg.norm(position - before))
        self.decide(displacement)
        return displacement

    def decide(self, displacement: float) -> None:
        """Take in how far a window went, and settle the next one."""
        fast = self._adjacent(displacement) if self.config.decision == "adjacent" else self._over_average(displacement)
        if displacement <= 0 and not self.config.reference:
            fast = False
        if fast and self.config.most_pruned is not None and self._in_a_row >= self.config.most_pruned:
            fast = False
        self.pruning, self._in_a_row = fast, self._in_a_row + 1 if fast else 0

    def _adjacent(self, displacement: float) -> bool:
        before, self._before = self._before, [*self._before, displacement][-(self.config.window - 1) :]
        if len(before) < self.config.window - 1:
            return self._at_first
        if displacement >= max(before):
            return True
        if displacement < min(before):
            return False
        return self.pruning if self.config.keep_state else True

    def _over_average(self, displacement: float) -> bool:
        average = displacement if self._average is None else self._average / 2 + displacement / 2
        self._average = average
        return displacement >= average
