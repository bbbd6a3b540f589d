"""A trained head on the disk: head, wording table, and thresholds that were chosen on validation.

    OUT/checkpoint-000300.pt     {"policy": weights, "shape": {...}, "facts": {...}}

Read with `weights_only=True`: no code in a checkpoint is ever run.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from foveate.errors import FoveateError
from foveate.models.common.pt_files import read_weights
from foveate.util.files import draft
from foveate.vision_value.head import HeadShape, ValueHead


@dataclass(frozen=True)
class TrainedHead:
    """A head, and what was learned beside it."""

    head: ValueHead
    path: str
    lookup: Mapping[str, tuple[float, float, float]] | None = None
    """Mean gains per wording of the training questions."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`model` (fingerprint), `seed`, `lambda_cost`, `mean_gains`; `thresholds` and `cascades` chosen on validation."""


def save_head(folder: Path, step: int, trained: TrainedHead) -> Path:
    """Write `folder/checkpoint-STEP.pt`, whole or not at all."""
    final = folder / f"checkpoint-{step:06d}.pt"
    payload = {
        "policy": {name: tensor.detach().cpu() for name, tensor in trained.head.state_dict().items()},
        "shape": dataclasses.asdict(trained.head.shape),
        "lookup": {key: list(gains) for key, gains in (trained.lookup or {}).items()},
        "facts": dict(trained.facts),
        "step": step,
    }
    with draft(final) as begun:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(payload, begun)
    return final


def newest_checkpoint(folder: Path) -> Path | None:
    """The `checkpoint-*.pt` that the folder's `summary.json` calls finished; without one that of the most steps.

    A shorter training in the same folder leaves longer ones' files there.
    """
    try:
        finished = folder / json.loads((folder / "summary.json").read_text())["checkpoint"]
        if finished.is_file():
            return finished
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = [path for path in folder.glob("checkpoint-*.pt") if re.search(r"\d+", path.stem)]
    return max(found, key=lambda path: int(re.findall(r"\d+", path.stem)[-1]), default=None)


def load_head(path: str | Path) -> TrainedHead:
    """Open a `checkpoint-*.pt`, or of a folder of them the newest.

    Raises:
        FoveateError: there is none, it cannot be read, or it holds no head.
    """
    path = Path(path)
    file = newest_checkpoint(path) or path if path.is_dir() else path
    if not file.is_file():
        raise FoveateError(
            f"{path}: expected a checkpoint-*.pt or a folder of them; `foveate train value` writes one into its "
            "--output_dir"
        )
    content = read_weights(file)
    if not {"policy", "shape", "lookup", "facts"} <= content.keys():
        raise FoveateError(
            f"{file}: no head in it: expected the entries policy, shape, lookup and facts, as `foveate train value` "
            f"writes them; found {', '.join(map(str, list(content)[:6])) or 'nothing'}"
        )
    head = ValueHead(HeadShape(**content["shape"]))
    head.load_state_dict(content["policy"])
    lookup = {key: (gains[0], gains[1], gains[2]) for key, gains in content["lookup"].items()}
    return TrainedHead(head.eval(), str(path), lookup or None, content["facts"])
