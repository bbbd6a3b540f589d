"""Watches what the pruner keeps during a run, for warnings at its end."""

from __future__ import annotations

import numpy as np

from foveate.pruning.diagnostics import collapse_warnings, flatness, tied_share
from foveate.types import Trace

Key = tuple[str, int, int]
"""Task, episode, query: the order of time, also where episodes ran side by side."""


class KeepWatch:
    """Collects the keep sets of a run."""

    def __init__(self) -> None:
        self._seen: dict[Key, tuple[np.ndarray, float, float]] = {}
        self._views: dict[str, slice] = {}

    def add(self, key: Key, trace: Trace) -> None:
        """Take in one inference; without routing evidence it is passed over."""
        if trace.keep is None:
            return
        self._views = trace.layout.view_slices
        # Patches of absent cameras hold zeros; a tie or an entropy of theirs says nothing.
        valid = trace.keep.get("valid", np.ones_like(trace.keep["keep_mask"]))
        per_view = int(valid.sum()) // max(1, sum(bool(valid[part].any()) for part in self._views.values()))
        tied, entropy = (trace.keep.get(name) for name in ("tied_per_query", "entropy_per_query"))
        self._seen[key] = (
            trace.keep["keep_mask"],
            0.0 if tied is None else tied_share(tied[valid]),
            0.0 if entropy is None else flatness(entropy[valid], per_view),
        )

    def warnings(self) -> list[str]:
        """Sentences about what looks wrong; empty without evidence."""
        if not self._seen:
            return []
        masks, tied, entropy = zip(*(self._seen[key] for key in sorted(self._seen)), strict=True)
        kept = np.stack(masks)
        return collapse_warnings(kept.sum(1), kept.shape[1], kept, view_slices=self._views, tied=tied, entropy=entropy)
