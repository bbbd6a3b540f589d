"""Watches what the pruner keeps, during a run or in the dumps of an old one, for warnings in log and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foveate.pruning.diagnostics import collapse_warnings, flatness, tied_share
from foveate.tracing.record import Record

Key = tuple[str, int, int]
"""Task, episode, step: the order of time, also where episodes ran side by side."""


class KeepWatch:
    """Collects the keep sets of a run."""

    def __init__(self) -> None:
        self._seen: dict[Key, tuple[np.ndarray, float, float]] = {}
        self._views: Mapping[str, slice] = {}

    def add(self, key: Key, keep: Mapping[str, np.ndarray], views: Mapping[str, slice]) -> None:
        """Take in one inference.

        Args:
            keep: `keep_mask` bool [P]; `valid` bool [P], `tied_per_query` and `entropy_per_query` [P] where known.
            views: view -> its slice of the patch axis.
        """
        self._views = views
        # Patches of absent cameras hold zeros; a tie or an entropy of theirs says nothing.
        valid = keep.get("valid", np.ones_like(keep["keep_mask"]))
        per_view = int(valid.sum()) // max(1, sum(bool(valid[part].any()) for part in views.values()))
        tied, entropy = (keep.get(name) for name in ("tied_per_query", "entropy_per_query"))
        # More than a view's patches can give: they compete over all views (scope joint, as in LightVLA's own dumps).
        joint = entropy is not None and entropy[valid].max(initial=0.0) > np.log(max(1, per_view)) + 1e-3
        self._seen[key] = (
            keep["keep_mask"],
            0.0 if tied is None else tied_share(tied[valid]),
            0.0 if entropy is None else flatness(entropy[valid], int(valid.sum()) if joint else per_view),
        )

    def warnings(self) -> list[str]:
        """Sentences about what looks wrong; empty without evidence."""
        if not self._seen:
            return []
        masks, tied, entropy = zip(*(self._seen[key] for key in sorted(self._seen)), strict=True)
        kept = np.stack(masks)
        return collapse_warnings(kept.sum(1), kept.shape[1], kept, view_slices=self._views, tied=tied, entropy=entropy)


def diagnose(records: Sequence[Record]) -> list[str]:
    """The same about the dumps of a run, for `tracing.tokens.write_token_log`."""
    watch = KeepWatch()
    for record in records:
        if record.keep_mask is not None:
            # In joint scope or from another writer queries may be no patches; then only the masks speak.
            stats = {name: value for name, value in record.stats.items() if value.shape == record.keep_mask.shape}
            keep = {"keep_mask": record.keep_mask, **stats}
            keep |= {} if record.valid is None else {"valid": record.valid}
            key = (str(record.meta["task"]), record.meta["episode"], record.meta["step"])
            watch.add(key, keep, {view.name: view.part for view in record.views})
    return watch.warnings()
