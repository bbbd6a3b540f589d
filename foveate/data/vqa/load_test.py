"""Questions by name: splits, parts of a set, and what an unknown name is told."""

from __future__ import annotations

from collections import Counter

import pytest

from foveate.data.vqa.load import load_vqa
from foveate.errors import FoveateError


def test_easy_vqa_is_whole_and_its_splits_share_no_picture() -> None:
    pytest.importorskip("easy_vqa")
    splits = {split: load_vqa("easy_vqa", split) for split in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == 48_248 and len(splits["test"]) == 9_673
    pictures = {split: {sample.image for sample in samples} for split, samples in splits.items()}
    assert [len(p) for p in pictures.values()] == [3_600, 400, 1_000]
    assert not pictures["train"] & pictures["val"]
    first = splits["test"][0]
    assert first.dataset == "easy_vqa" and first.split == "test" and len(first.answers) == 1 and not first.choices
    assert set(Counter(s.category for s in splits["test"])) == {"yes or no", "yes or no, negated", "color", "shape"}


def test_a_part_of_a_grouped_set_comes_from_everywhere() -> None:
    pytest.importorskip("easy_vqa")
    part = load_vqa("easy_vqa", max_samples=4)
    assert [int(sample.id.rpartition("/")[2]) for sample in part] == [0, 2418, 4836, 7254]


def test_mixed_by_name_and_other_names_of_val() -> None:
    assert [s.split for s in load_vqa("mixed", "validation", max_samples=3)] == ["val"] * 3
    assert load_vqa("mixed", max_samples=2)[1].split == "test"


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(FoveateError, match=r"unknown data set 'mmbnech'; did you mean 'mmbench'.*JSONL"):
        load_vqa("mmbnech")
    with pytest.raises(FoveateError, match="unknown split of mixed 'tset'; did you mean 'test'"):
        load_vqa("mixed", "tset")
