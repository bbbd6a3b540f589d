"""Cases of the golden group `pruning`, and what their comparisons share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from foveate.golden.report import EXACT, Report, Tolerance
from foveate.pruning.base import at
from foveate.pruning.inside import Inside
from foveate.types import Prefix, Span, TokenLayout

TIE = 1e-5
"""Two numbers that are nearer than this may change places."""
NUMBERS = Tolerance(1e-5, 1e-5)


@dataclass(frozen=True)
class Case:
    """One input and its runs."""

    method: str
    name: str
    variant: str
    params: Mapping[str, Any]
    raises: Mapping[str, str]
    ambiguous: bool
    tensors: Mapping[str, Tensor]

    def runs(self) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
        """Name, facts, and whether indices count, of each run that the reference could do."""
        for name, facts in self.params.get("runs", {}).items():
            if name not in self.raises:
                yield name, facts, not self.ambiguous and self.apart(facts)

    @staticmethod
    def apart(facts: Mapping[str, Any]) -> bool:
        """Whether no gap of a run decides by rounding."""
        gaps = [value for key, value in facts.items() if key.endswith("gap") and value is not None]
        return all(gap >= TIE for gap in gaps)

    def numbers(
        self, report: Report, name: str, ours: Tensor, tolerance: Tolerance = NUMBERS, *, against: Tensor | None = None
    ) -> None:
        """Compare with the tensor of this name, or what is made of it, where it is finite."""
        if against is None and name not in self.tensors:  # not stored with this case
            return
        golden = self.tensors[name] if against is None else against
        finite = torch.isfinite(golden)
        group = name.rpartition(".")[2]
        if ours.shape == golden.shape and not bool(finite.any()):
            report.exclude(f"pruning {self.method}", group, str(tolerance), golden.numel())
            return
        report.compare(
            f"pruning {self.method}",
            f"{self.name}/{name}",
            ours,
            golden,
            tolerance,
            valid=None if bool(finite.all()) or ours.shape != golden.shape else finite.cpu(),
            group=group,
        )

    def indices(self, report: Report, name: str, ours: Tensor, count: bool) -> None:
        """Compare choices exactly; where they do not count, their number."""
        if name not in self.tensors:
            return
        golden, group = self.tensors[name], name.rpartition(".")[2]
        if count:
            report.compare(f"pruning {self.method}", f"{self.name}/{name}", ours, golden, EXACT, group=group)
            return
        report.exclude(f"pruning {self.method}", group, str(EXACT), golden.numel())
        found, distinct = ([len(row.unique()) for row in torch.atleast_2d(x).flatten(0, -2)] for x in (ours, golden))
        report.exact(
            f"pruning {self.method}",
            f"{group}: how many",
            found == distinct,
            f"{self.name}/{name}: {found} by row, golden has {distinct}",
        )


def cases(folder: Path, device: str, report: Report) -> Iterator[Case]:
    """All cases of a folder, in the order of its index; a file that is not there is reported."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    files: dict[str, dict[str, Tensor]] = {}
    for method, about in index["methods"].items():
        if not (folder / about["file"]).exists():
            report.skip(f"pruning {method}", "*", "absent", f"{about['file']} is not in the folder")
    for facts in index["cases"]:
        path = folder / index["methods"][facts["method"]]["file"]
        if not path.exists():
            continue
        data = files.setdefault(path.name, load_file(path, device))
        start = facts["name"] + "/"
        tensors = {key.removeprefix(start): value for key, value in data.items() if key.startswith(start)}
        if shared := facts["params"].get("weights"):  # another case's
            start = f"{shared}/"
            tensors |= {f"weights.{k.removeprefix(start)}": v for k, v in data.items() if k.startswith(start)}
        yield Case(
            facts["method"],
            facts["name"],
            facts["variant"],
            facts["params"],
            facts["raises"] or {},
            bool(facts["ambiguous"]),
            tensors,
        )


def decided_alike(ours: Tensor, golden: Tensor) -> Tensor:
    """bool [..., n]: which of two orders of choice chose from the same rest, that is up to the first that differs."""
    other = (ours != golden).long()
    return other.cumsum(-1) - other == 0


def prefix_of(tokens: Tensor, start: int, patches: int) -> Prefix:
    """A whole sequence [B, N, D]: tokens before the picture, its patches, and text; all of it is there."""
    stop, length = start + patches, tokens.shape[1]
    spans = [Span("bos", "text", 0, start)] if start else []
    spans.append(Span("image", "image", start, stop))
    if length > stop:
        spans.append(Span("text", "text", stop, length))
    mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    return Prefix(tokens, mask, mask.cumsum(1) - 1, TokenLayout(tuple(spans)), full=True)


@dataclass(frozen=True)
class GivenAttention:
    """An `Attention` whose whole matrix is known."""

    keys: Tensor
    probabilities: Tensor
    """[B, H, N, N]; empty where a method does not ask."""

    def rows(self, slots: Tensor | None = None) -> Tensor:
        weights = self.probabilities
        if slots is None:
            return weights
        return torch.stack([at(weights[:, head], slots) for head in range(weights.shape[1])], 1)


def inside(attention: GivenAttention, **more: Any) -> Inside:
    """What a method sees behind a layer."""
    return Inside(number=0, attention=attention, **more)
