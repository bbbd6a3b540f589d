"""Who may ask: tokens, their file, and addresses that others can reach."""

from __future__ import annotations

import pytest

from foveate.errors import FoveateError
from foveate.serving.access import Access, is_loopback, open_access, read_tokens


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# robots\nfirst\n\nsecond\n")
    path.chmod(0o600)
    return path


def test_any_token_of_the_file_opens(tokens):
    access = Access(read_tokens(tokens))
    assert all(map(access.allows, ["Api-Key first", "Bearer second", "api-key  second"]))
    assert not any(
        map(access.allows, [None, "", "first", "Basic first", "Api-Key third", "Api-Key # robots", "Api-Key"])
    )
    assert Access().allows(None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_read_is_refused(tokens, mode):
    tokens.chmod(mode)
    with pytest.raises(FoveateError, match="chmod 600"):
        read_tokens(tokens)


def test_a_file_without_a_token_is_refused(tokens, tmp_path):
    tokens.write_text("# nothing\n \n")
    with pytest.raises(FoveateError, match="no token"):
        read_tokens(tokens)
    with pytest.raises(FoveateError, match="cannot be read"):
        read_tokens(tmp_path / "absent")
    with pytest.raises(FoveateError, match="cannot be read"):
        read_tokens(tmp_path)


def test_beyond_this_machine_a_token_is_demanded(tokens):
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("robot.example")
    with pytest.raises(FoveateError, match="token_file"):
        open_access("0.0.0.0", None, allow_anonymous=False)
    assert open_access("0.0.0.0", None, allow_anonymous=True).open
    assert open_access("127.0.0.1", None, allow_anonymous=False).open
    assert not open_access("0.0.0.0", str(tokens), allow_anonymous=False).open
