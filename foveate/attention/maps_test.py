"""Analysis of attention maps, against numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foveate.attention.maps import (
    activity,
    compare,
    difference,
    load_maps,
    most_active_heads,
    of_words,
    rank_heads,
    save_maps,
    words_of,
)
from foveate.errors import FoveateError
from foveate.types import AttentionMaps

PIECES = ("<s>", "▁Task", ":", "▁push", "▁the", "▁pur", "ple", "▁bowl", ",", "▁State", ":", "▁12", ";", "<0x0A>", "▁")


def make(values: list, layers=(4,), heads=(0, 3), tokens=(), valid=None) -> AttentionMaps:
    """One view of 1 x 4 patches; values [..., layer, head, 4]."""
    array = np.array(values, np.float16)
    array = array.reshape(*array.shape[:-1], 1, 1, 4)
    there = np.ones((1, 1, 4), bool) if valid is None else np.array(valid).reshape(1, 1, 4)
    return AttentionMaps("prefix", layers, heads, ("front",), array, there, tokens)


def test_activity_by_hand() -> None:
    maps = make([[[0.5, 0, 0, 0], [0.25, 0.25, 0, 0]]])
    np.testing.assert_allclose(activity(maps), [[3 / 64, 1 / 64]])  # mean 1/8: (9 + 3) / 256 and 4 / 256
    np.testing.assert_allclose(activity(maps, "entropy"), [[np.log(4), np.log(2)]])
    # Variance weighs the mass, entropy the shape alone.
    faint = make([[[2**-10, 0, 0, 0], [0.5, 0.25, 0, 0]]])
    assert most_active_heads(faint) == {4: 3}
    assert most_active_heads(faint, "entropy") == {4: 0}


def test_patches_that_are_not_there_do_not_count() -> None:
    maps = make([[[0.25, 0.25, 0, 0], [0.25, 0.125, 0, 0]]], valid=[True, True, False, False])
    np.testing.assert_allclose(activity(maps), [[0, 1 / 256]], atol=1e-12)
    np.testing.assert_allclose(
        activity(maps, "entropy"), [[0, np.log(2) - (2 / 3 * np.log(3 / 2) + 1 / 3 * np.log(3))]], atol=1e-12
    )
    nothing = make([[[0, 0, 0, 0], [0, 0, 0, 0]]], valid=[False] * 4)
    assert activity(nothing).tolist() == activity(nothing, "entropy").tolist() == [[0, 0]]


def test_heads_of_an_episode_are_ranked() -> None:
    sharp, flat = [0.5, 0, 0, 0], [0.25, 0.25, 0, 0]
    frames = [make([[sharp, flat], [flat, flat]], (1, 4)), make([[sharp, flat], [flat, sharp]], (1, 4))]
    ranks = rank_heads(frames)
    assert [(rank.layer, rank.head) for rank in ranks] == [(1, 0), (4, 3), (1, 3), (4, 0)]
    assert [rank.activity for rank in ranks] == [3 / 64, 2 / 64, 1 / 64, 1 / 64]
    assert [rank.first for rank in ranks] == [1, 0.5, 0, 0.5]
    assert rank_heads([]) == []
    with pytest.raises(FoveateError, match="same layers and heads"):
        rank_heads([frames[0], make([[sharp, flat]])])


def test_words_are_spelled_by_pieces() -> None:
    words = [("task", (1,)), ("push", (3,)), ("the", (4,)), ("purple", (5, 6)), ("bowl", (7,))]
    assert words_of(PIECES) == [*words, ("state", (9,)), ("12", (11,))]
    assert words_of(("▁", "a", "b", "▁c.")) == [("ab", (1, 2)), ("c", (3,))]
    # A tokenizer may join what stands between words, and even words.
    assert words_of(("▁pick-up,▁A", "b")) == [("pick-up", (0,)), ("ab", (0, 1))]


def test_where_a_word_looks() -> None:
    rows = np.zeros((len(PIECES), 1, 2, 4))
    rows[5, 0, 0], rows[6, 0, 0], rows[7, 0, 1] = [1, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 0.75]
    maps = make(rows.tolist(), tokens=PIECES)
    found = of_words(maps, ["Purple", "purple bowl"])
    assert found["Purple"].maps.ravel().tolist() == [0.5, 0.25, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(
        found["purple bowl"].maps.ravel(), np.array([1, 0.5, 0, 0, 0, 0, 0, 0.75]) / 3, atol=2e-4
    )
    assert found["Purple"].tokens == ()
    with pytest.raises(FoveateError, match="no word 'red'; its words: task, push, the, purple, bowl, state"):
        of_words(maps, ["red"])
    with pytest.raises(FoveateError, match="means over the prompt"):
        of_words(make([[[1, 0, 0, 0]] * 2]), ["purple"])


def test_two_maps_apart() -> None:
    a, b = make([[[1, 0, 0, 0], [0.5, 0.5, 0, 0]]]), make([[[0, 0, 0, 1], [0.5, 0.5, 0, 0]]])
    gap = compare(a, b)
    np.testing.assert_allclose(gap.l2, [[2**0.5, 0]])
    np.testing.assert_allclose(gap.relative_l2, [[2**0.5, 0]])
    np.testing.assert_allclose(gap.correlation, [[-1 / 3, 1]])
    few = replace(b, valid=np.array([[[False, True, False, True]]]))
    np.testing.assert_array_equal(difference(a, few)[0, 0, 0, 0], [1, 0, 0, -1])  # what was dropped got nothing
    fewer = replace(a, valid=np.array([[[True, True, False, False]]]))
    np.testing.assert_array_equal(difference(fewer, few)[0, 0, 0, 0], [1, 0, np.nan, -1])
    np.testing.assert_allclose(compare(fewer, few).correlation[0, 0], -0.5)
    nothing = make([[[0, 0, 0, 0]] * 2])
    assert np.isnan(compare(a, nothing).correlation).all() and (compare(nothing, nothing).relative_l2 == 0).all()
    with pytest.raises(FoveateError, match="same phase, layers"):
        compare(a, replace(b, layers=(5,)))


def test_maps_are_kept_in_a_file(tmp_path) -> None:
    maps = make(np.random.default_rng(0).random((15, 1, 2, 4)).tolist(), tokens=PIECES, valid=[True, False, True, True])
    save_maps(tmp_path / "maps.npz", {"prefix": maps, "suffix": replace(maps, phase="suffix", tokens=())})
    read = load_maps(tmp_path / "maps.npz")
    assert list(read) == ["prefix", "suffix"] and read["suffix"].phase == "suffix"
    for name in ("phase", "layers", "heads", "views", "tokens"):
        assert getattr(read["prefix"], name) == getattr(maps, name)
    assert read["prefix"].maps.dtype == np.float16
    np.testing.assert_array_equal(read["prefix"].maps, maps.maps)
    np.testing.assert_array_equal(read["prefix"].valid, maps.valid)
    (tmp_path / "bad.npz").write_bytes(b"no")
    with pytest.raises(FoveateError, match="not a file of attention maps"):
        load_maps(tmp_path / "bad.npz")
