import pytest

from foveate.errors import FoveateError
from foveate.util.shipped import POLICIES, TINY_TOKENIZER, VLMS, find_policy, shipped


def test_a_name_or_a_folder(tmp_path, monkeypatch):
    assert shipped(POLICIES) == ["libero_tiny", "metaworld_tiny", "metaworld_tiny_lightvla"]
    assert shipped(VLMS) == ["tiny_qwen3vl"] and TINY_TOKENIZER.is_file()
    assert find_policy("metaworld_tiny") == POLICIES / "metaworld_tiny"
    assert find_policy(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metaworld_tiny").mkdir()
    assert find_policy("metaworld_tiny").resolve() == tmp_path / "metaworld_tiny"  # what lies here comes first


@pytest.mark.parametrize("name", ["metaworld_tyni", "../vlms/tiny_qwen3vl", "/nowhere"])
def test_what_is_not_there_is_told_with_what_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FoveateError, match=r"shipped policy of that name \(there are: libero_tiny, metaworld_tiny, metaworld_"
    ):
        find_policy(name)
