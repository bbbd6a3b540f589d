from __future__ import annotations

import pytest

from foveate.errors import unknown


@pytest.mark.parametrize(
    ("name", "other", "told"),
    [
        ("easy_vq", "", "unknown set 'easy_vq'; did you mean 'easy_vqa'?"),
        ("easy_vq", "a file", "unknown set 'easy_vq'; did you mean 'easy_vqa'? Otherwise name a file"),
        ("x", "", "unknown set 'x'; choices: easy_vqa, mmmu"),
        ("x", "a file", "unknown set 'x'; choices: easy_vqa, mmmu, a file"),
    ],
)
def test_an_unknown_name_is_told_with_the_known_ones(name: str, other: str, told: str) -> None:
    assert str(unknown("set", name, ["mmmu", "easy_vqa"], other)) == told
