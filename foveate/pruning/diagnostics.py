"""Does a learnt pruner still look? Signs of collapse in a stream of keep sets, as sentences for log and report.

Reads NumPy arrays alone, as a trace stores them, so that a live run and a report about an old one say the same.
Meant for methods that choose by content; a fixed lattice keeps the same patches by design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foveate.util.words import percent

FEW_PER_VIEW = 3
"""The known collapse keeps 2-3 patches of a view."""
FEW_SHARE = 0.01
"""In all, at most this share of the patches is few as well."""
NEARLY_ALL = 0.95
SINK_RATE = 0.95
"""A patch that is kept in so many inferences is a sink, where a random choice would have kept it far less often."""
SAME_SET = 0.95
"""Mean overlap (IoU) of successive keep sets from which on the set hardly depends on what is seen."""
TIED = 0.05
FLAT = 0.99
"""Mean entropy of the scores' softmax, as a share of the entropy of a uniform one."""
ENOUGH = 5
"""Inferences below which nothing is said."""


def collapse_warnings(
    kept_counts: Sequence[int] | np.ndarray,
    num_patches: int,
    keep_masks: np.ndarray | None = None,
    *,
    view_slices: Mapping[str, slice] | None = None,
    num_views: int | None = None,
    tied: Sequence[float] | np.ndarray | None = None,
    entropy: Sequence[float] | np.ndarray | None = None,
) -> list[str]:
    """Sentences about what looks wrong, the gravest first; empty: nothing does.

    Args:
        kept_counts: [n], patches kept at each inference, in order of time.
        num_patches: patches before pruning, of all views.
        keep_masks: bool [n, P], which; lets sinks and frozen keep sets be seen.
        view_slices: view -> its slice of the patch axis, so that sinks can be named by view.
        num_views: views that compete apart; None: as many as `view_slices` holds, else 1.
        tied: [n], share of queries whose best patch is tied with another (`tied_share`).
        entropy: [n], mean entropy over queries, as a share of the uniform one (`flatness`).
    """
    counts = np.asarray(kept_counts, dtype=np.float64)
    if counts.size < ENOUGH:
        return []
    views = num_views or len(view_slices or ()) or 1
    warnings = _count_warnings(counts, num_patches, views)
    if keep_masks is not None and counts.mean() < NEARLY_ALL * num_patches:
        warnings += _pattern_warnings(np.asarray(keep_masks, dtype=bool), view_slices)
    if tied is not None and np.mean(tied) > TIED:
        warnings.append(
            f"ties: {percent(float(np.mean(tied)))} of the queries find their best score at more than one patch, and "
            "the first patch wins; low-precision scores or equal patches (a blank or frozen camera) do this"
        )
    if entropy is not None and np.mean(entropy) > FLAT:
        warnings.append(
            f"flat scores: their softmax has {percent(float(np.mean(entropy)), 1)} of a uniform one's entropy, so the "
            "pruner hardly prefers any patch; a strong keep-count regulariser or an untrained pruner does this"
        )
    return warnings


def tied_share(tied_per_query: np.ndarray) -> float:
    """Share of tied queries, out of `score_stats["tied_per_query"]` [Q]."""
    return float(np.mean(tied_per_query)) if np.size(tied_per_query) else 0.0


def flatness(entropy_per_query: np.ndarray, patches: int) -> float:
    """Mean entropy (nats) of [Q] queries over so many competing patches, as a share of the uniform one's, in [0, 1]."""
    return float(np.mean(entropy_per_query) / np.log(patches)) if patches > 1 and np.size(entropy_per_query) else 0.0


def keep_set_stability(keep_masks: np.ndarray) -> np.ndarray:
    """float64 [n - 1]: overlap (intersection over union) of each keep set [n, P] with the one before."""
    before, after = np.asarray(keep_masks, dtype=bool)[:-1], np.asarray(keep_masks, dtype=bool)[1:]
    union = (before | after).sum(-1)
    return np.where(union > 0, (before & after).sum(-1) / np.maximum(union, 1), 1.0)


def collapse_floor(patches: int, views: int) -> float:
    """A pruner that keeps so few patches of so many, or fewer, has collapsed."""
    # A view of a few patches is not collapsed when it keeps half of them.
    return min(max(FEW_PER_VIEW * views, FEW_SHARE * patches), patches / 4)


def _count_warnings(counts: np.ndarray, patches: int, views: int) -> list[str]:
    median, spread = float(np.median(counts)), f"between {counts.min():.0f} and {counts.max():.0f}"
    if median <= collapse_floor(patches, views):
        return [
            f"collapse: the pruner keeps {median:.0f} of {patches} patches ({spread} in {counts.size} inferences); the "
            "policy acts nearly blind. Set min_keep, let it ask with state or actions (queries), or train on in the "
            "deduplicated form"
        ]
    if median >= NEARLY_ALL * patches:
        return [
            f"no pruning: the pruner keeps {median:.0f} of {patches} patches ({spread} in {counts.size} inferences)"
        ]
    return []


def _pattern_warnings(masks: np.ndarray, view_slices: Mapping[str, slice] | None) -> list[str]:
    warnings, rate = [], masks.mean(0)
    stability = keep_set_stability(masks)
    if stability.size and stability.mean() >= SAME_SET:
        warnings.append(
            f"frozen keep set: successive inferences share {percent(stability.mean())} of their kept patches, so the "
            "choice hardly depends on what is seen"
        )
    sinks = np.flatnonzero(rate >= SINK_RATE)
    # By chance a patch is kept as often as the kept share; where that is high, always-kept patches say nothing.
    if sinks.size and rate.mean() < 0.5:
        share = masks[:, sinks].sum() / max(masks.sum(), 1)
        warnings.append(
            f"attention sinks: {_name(sinks, view_slices)} kept in at least {percent(SINK_RATE)} of {len(masks)} "
            f"inferences ({percent(share)} of all that is kept), whatever is seen"
        )
    return warnings


def _name(patches: np.ndarray, view_slices: Mapping[str, slice] | None, most: int = 8) -> str:
    names = []
    for patch in patches[:most]:
        view = next((v for v, s in (view_slices or {}).items() if s.start <= patch < s.stop), None)
        names.append(f"{view}[{patch - view_slices[view].start}]" if view and view_slices else str(patch))
    more = f" and {len(patches) - most} more are" if len(patches) > most else (" is" if len(patches) == 1 else " are")
    return f"{'patch' if len(patches) == 1 else 'patches'} {', '.join(names)}{more}"
