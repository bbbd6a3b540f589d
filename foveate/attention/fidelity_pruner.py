"""The same test for a pruner: are the patches that it keeps the ones that the actions hang on?

Patches are really dropped, not painted over. The reference is the inference with all patches; against it stand

    drop_kept       without the patches that the pruner keeps
    random_kept     without as many patches at random
    drop_dropped    without the patches that the pruner drops: what the pruned policy does
    random_dropped  without as many patches at random
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foveate.attention.fidelity import METRICS, Row, group_of, measure
from foveate.errors import FoveateError
from foveate.util.stats import bootstrap_mean

Keep = Callable[[np.ndarray], list[np.ndarray]]
"""Masks bool [n, P] -> n action chunks [H, A] of one frame, each with just those patches kept and the same noise."""
KINDS = ("drop_kept", "random_kept", "drop_dropped", "random_dropped")


def study_pruner(keep: Keep, kept: np.ndarray, valid: np.ndarray, draws: int, seed: Sequence[int]) -> Row:
    """One frame.

    Args:
        kept, valid: bool [P], patches that the pruner keeps, and all that are there.
    Returns:
        `kept, patches`, and each of `KINDS` as `measure` gives it.
    Raises:
        FoveateError: the pruner keeps all or nothing, so that nothing is compared.
    """
    there = np.flatnonzero(valid)
    count = int(kept.sum())
    if not 0 < count < len(there):
        raise FoveateError(
            f"the pruner keeps {count} of {len(there)} patches: expected some and not all, or there is nothing to "
            "compare; choose a smaller --pruner.keep_ratio"
        )
    rng = np.random.default_rng([*seed, 77])
    masks = [valid, valid & ~kept, kept]
    for removed in (count, len(there) - count):
        for _ in range(draws):
            mask = valid.copy()
            mask[rng.permutation(there)[:removed]] = False
            masks.append(mask)
    actions = np.stack(keep(np.stack(masks)))
    parts = (actions[1:2], actions[3 : 3 + draws], actions[2:3], actions[3 + draws :])
    measured = {kind: measure(actions[0], part) for kind, part in zip(KINDS, parts, strict=True)}
    return {"kept": count, "patches": len(there), **measured}


def summarise_pruner(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean and `ci95` of each kind, and of `kept_matters` (drop_kept - random_kept: above 0 for a pruner that keeps
    what matters) and `dropped_matters` (drop_dropped - random_dropped: below 0 for one that drops what does not)."""
    groups = group_of(rows)
    metrics: dict[str, Any] = {}
    for metric in METRICS:
        values = {kind: np.array([row[kind][metric] for row in rows]) for kind in KINDS}
        values["kept_matters"] = values["drop_kept"] - values["random_kept"]
        values["dropped_matters"] = values["drop_dropped"] - values["random_dropped"]
        metrics[metric] = {}
        for kind, v in values.items():
            low, high = bootstrap_mean(v, groups)
            metrics[metric][kind] = {"mean": float(np.nanmean(v)), "ci95": [float(low), float(high)]}
    kept, patches = (float(np.mean([row[name] for row in rows])) for name in ("kept", "patches"))
    return {"frames": len(rows), "kept": kept, "patches": patches, "metrics": metrics}
