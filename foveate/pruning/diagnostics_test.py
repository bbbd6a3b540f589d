import numpy as np

from foveate.pruning.diagnostics import collapse_warnings, flatness, keep_set_stability, tied_share

VIEWS = {"corner": slice(0, 64), "wrist": slice(64, 128)}


def masks(kept: int, n: int = 60, patches: int = 128, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    drawn = np.zeros((n, patches), dtype=bool)
    for row in drawn:
        row[generator.permutation(patches)[:kept]] = True
    return drawn


def warn(keep: np.ndarray, **more) -> list[str]:
    return collapse_warnings(keep.sum(-1), keep.shape[1], keep, view_slices=VIEWS, **more)


def test_a_healthy_pruner_is_not_warned_of():
    assert warn(masks(18), tied=np.zeros(60), entropy=np.full(60, 0.7)) == []
    assert warn(masks(7)) == []


def test_two_or_three_patches_of_a_view_are_a_collapse():
    (warning,) = warn(masks(5))
    assert warning.startswith("collapse: the pruner keeps 5 of 128 patches (between 5 and 5 in 60 inferences)")
    assert "min_keep" in warning
    assert collapse_warnings([3] * 10, 256)[0].startswith("collapse")
    assert collapse_warnings([3] * 10, 768, num_views=3)[0].startswith("collapse")
    assert collapse_warnings([24] * 10, 768, num_views=3) == []
    assert collapse_warnings([4] * 10, 8) == [], "half of few patches is no collapse"


def test_too_few_inferences_say_nothing():
    assert collapse_warnings([1, 1], 128) == []


def test_keeping_everything_is_said():
    (warning,) = warn(masks(127))
    assert warning.startswith("no pruning: the pruner keeps 127 of 128")


def test_sinks_are_named_by_view():
    keep = masks(10)
    keep[:, [3, 70]] = True
    (warning,) = warn(keep)
    assert warning.startswith("attention sinks: patches corner[3], wrist[6] are kept in at least 95 % of 60 inferences")
    assert "patches 3, 70 are" in collapse_warnings(keep.sum(-1), 128, keep)[0]


def test_a_frozen_keep_set_is_seen():
    keep = np.tile(masks(16, n=1), (20, 1))
    found = warn(keep)
    assert [w.split(":")[0] for w in found] == ["frozen keep set", "attention sinks"]
    assert "and 8 more are" in found[1]


def test_ties_and_flat_scores():
    keep = masks(18)
    assert [w.split(":")[0] for w in warn(keep, tied=np.full(60, 0.4), entropy=np.full(60, 0.999))] == [
        "ties",
        "flat scores",
    ]
    assert tied_share(np.array([1.0, 0, 0, 0])) == 0.25 and tied_share(np.zeros(0)) == 0.0
    assert flatness(np.full(4, np.log(64)), 64) == 1.0


def test_stability_is_the_overlap_of_successive_sets():
    keep = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    np.testing.assert_allclose(keep_set_stability(keep), [1 / 3, 1, 0, 1])
