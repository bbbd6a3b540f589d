"""What a comparison with golden numbers found: tolerances, rows, the table, the exit status. No model, no files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from foveate.util.files import write_text
from foveate.util.words import plural

Status = Literal["ok", "MISS", "excluded", "absent", "not compared"]
Kind = Literal["hidden", "loss", "action", "gradient", "gradient norm", "pruner", "image"]


@dataclass(frozen=True)
class Tolerance:
    """|ours - golden| <= atol + rtol * |golden|, for every element."""

    atol: float
    rtol: float = 0.0

    def __str__(self) -> str:
        return (
            "exact" if self.atol == self.rtol == 0 else f"{self.atol:g}" + (f" + {self.rtol:g}|x|" if self.rtol else "")
        )


# The one table of tolerances: dtype -> kind of number. It holds for every device: TF32 is off while we compare.
#
# float32: the reference differs from itself by up to 8e-5 in hidden states and 2.2e-5 in v_t when only its kernels
# change (1 thread, oneDNN off: pi0_fp_noise.json). Gradients of the tiny model differ by 4.4e-6 in the same way,
# at magnitudes of 0.1 to 0.8: 2e-5 is five times that. The norm of a gradient averages its rounding out: 1e-4 of it.
#
# bfloat16: one rounding is 2^-9 of a number. On the tiny models the reference's bfloat16 run is off its own float32
# run by at most 0.27 in hidden states and keys (largest value 5.7), 0.086 in v_t and actions (4.1), 0.66 in the loss
# (27). Two correct implementations round in different places; ours must not be further from the reference than
# the reference is from float32. Measured: 0.095, 0.067, 0.28. The pruner's scores are a few units large and the
# reference rounds four times on the way to them, ours not at all: 4 * 2^-8 of them, measured 0.023.
TOLERANCES: dict[str, dict[Kind, Tolerance]] = {
    "float32": {
        "hidden": Tolerance(2e-4, 1e-4),
        "loss": Tolerance(2e-4, 1e-4),
        "action": Tolerance(5e-5),
        "gradient": Tolerance(2e-5, 1e-4),
        "gradient norm": Tolerance(1e-6, 1e-4),
        "pruner": Tolerance(2e-5, 1e-5),
        "image": Tolerance(2e-6),
    },
    "bfloat16": {
        "hidden": Tolerance(0.27),
        "loss": Tolerance(0.66),
        "action": Tolerance(0.086),
        "pruner": Tolerance(0.02, 0.02),
    },
}
EXACT = Tolerance(0.0)
"""Masks, positions, times, keys: not a bit off, in any dtype."""
FREQUENCY = Tolerance(0.0, 1e-6)
"""Rotary frequencies: the power function differs by an ulp from processor to processor."""
FLOAT64 = Tolerance(1e-12)
"""The time embedding, which both sides form in float64."""


@dataclass
class Row:
    """One line: a group of tensors of one case."""

    case: str
    group: str
    status: Status
    tensors: int = 0
    error: float = 0.0
    """The largest absolute difference among the tensors of the group."""
    tolerance: str = ""
    excluded: int = 0
    """Rows of tensors that do not count (padding), over the whole group."""
    note: str = ""
    """The tensor that misses, or why nothing was compared."""


def group_of(name: str) -> str:
    """`prefix.layer3.k_cache` -> `prefix.layer*.k_cache`: layers share a line, and so do all gradients."""
    name = re.sub(r"^train\.grad\..*", "train.grad.*", name)
    return re.sub(r"\blayer\d+\b", "layer*", name)


@dataclass
class Report:
    """All rows, in the order in which they came."""

    rows: list[Row] = field(default_factory=list)

    def compare(
        self,
        case: str,
        name: str,
        ours: Tensor,
        golden: Tensor,
        tolerance: Tolerance,
        *,
        valid: Tensor | None = None,
        group: str | None = None,
    ) -> None:
        """Hold one tensor against its golden twin and fold it into the row of its group.

        Args:
            valid: bool, indexes the leading axes of both: the rows that count.
        """
        row = self._row(case, group or group_of(name), str(tolerance))
        row.tensors += 1
        ours, golden = ours.detach().cpu(), golden.cpu()
        if ours.shape != golden.shape:
            row.status, row.error = "MISS", float("inf")
            row.note = f"{name}: shape {tuple(ours.shape)}, golden has {tuple(golden.shape)}"
            return
        if valid is not None:
            row.excluded += int((~valid).sum())
            ours, golden = ours[valid], golden[valid]
        if ours.numel() == 0:
            return
        difference = (ours.double() - golden.double()).abs()
        # Written so that a NaN fails.
        inside = difference <= tolerance.atol + tolerance.rtol * golden.double().abs()
        worst = difference.nan_to_num(nan=float("inf")).max().item()
        if not bool(inside.all()):
            if row.status != "MISS" or worst > row.error:
                row.note = f"{name}: {int((~inside).sum())} of {plural(inside.numel(), 'element')}"
            row.status = "MISS"
        row.error = max(row.error, worst)

    def exact(self, case: str, name: str, equal: bool, note: str = "") -> None:
        """Record a check that is not about numbers: keys, dtypes, flags."""
        row = self._row(case, name, "exact")
        row.tensors += 1
        if not equal:
            row.status, row.error, row.note = "MISS", float("inf"), note

    def exclude(self, case: str, group: str, tolerance: str, rows: int) -> None:
        """Record rows that do not count, of a tensor of which none does."""
        row = self._row(case, group, tolerance, new="excluded")
        row.excluded += rows

    def skip(self, case: str, group: str, status: Literal["absent", "not compared"], note: str) -> None:
        self.rows.append(Row(case, group, status, note=note))

    def _row(self, case: str, group: str, tolerance: str, new: Status = "ok") -> Row:
        for row in reversed(self.rows):
            if (row.case, row.group, row.tolerance) == (case, group, tolerance):
                if row.status == "excluded":
                    row.status = new
                return row
        self.rows.append(Row(case, group, new, tolerance=tolerance))
        return self.rows[-1]

    def misses(self) -> Iterator[Row]:
        return (row for row in self.rows if row.status == "MISS")

    def exit_status(self) -> int:
        """1: something missed. 2: something that is there was not compared, or there was nothing. 0: all agree."""
        states = {row.status for row in self.rows}
        if "MISS" in states:
            return 1
        return 0 if "not compared" not in states and "ok" in states else 2

    def print(self, console: Console) -> None:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("case", "group", "tensors", "largest error", "tolerance", "rows excluded", ""):
            table.add_column(
                heading, justify="right" if heading in ("tensors", "largest error", "rows excluded") else "left"
            )
        colours = {"ok": "green", "MISS": "bold red", "excluded": "dim", "absent": "dim", "not compared": "yellow"}
        for row in self.rows:
            state = Text.assemble((row.status, colours[row.status]), f" {row.note}" if row.note else "")
            numbers = (str(row.tensors), f"{row.error:.2e}", row.tolerance) if row.tensors else ("", "", "")
            table.add_row(row.case, row.group, *numbers, str(row.excluded) if row.excluded else "", state)
        console.print(table)
        counts = {state: sum(row.status == state for row in self.rows) for state in colours}
        tensors = sum(row.tensors for row in self.rows)
        console.print(
            f"{plural(tensors, 'tensor')}: "
            + ", ".join(f"{plural(n, 'group')} {state}" for state, n in counts.items() if n)
        )

    def write_json(self, path: Path, **about: str) -> None:
        """The rows as one document, with what was compared (`about`)."""
        document = {
            **about,
            "torch": torch.__version__,
            "exit_status": self.exit_status(),
            "rows": [asdict(r) for r in self.rows],
        }
        write_text(path, json.dumps(_finite(document), indent=1) + "\n", shared=True)


def _finite(value: object) -> object:
    """JSON has no infinity: write it as text."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list) else value
