"""Who may ask: tokens out of a file that nobody else can read, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import stat
from collections.abc import Sequence
from pathlib import Path

from foveate.errors import FoveateError

SCHEMES = ("api-key", "bearer")
"""Of the header `Authorization: SCHEME TOKEN`: openpi-client sends the first."""
TOKEN_NEEDED = "a token is needed: Authorization: Api-Key TOKEN\n"


class Access:
    """Lets in who shows one of the tokens; everybody, where there are none."""

    def __init__(self, tokens: Sequence[str] = ()) -> None:
        self._digests = [_digest(token) for token in tokens]

    @property
    def open(self) -> bool:
        return not self._digests

    def allows(self, authorization: str | None) -> bool:
        """Whether a request with this `Authorization` header may come in."""
        scheme, _, token = (authorization or "").strip().partition(" ")
        shown = _digest(token.strip())
        # Every token is compared, so that the time tells nothing of which one was nearly right.
        known = [hmac.compare_digest(shown, digest) for digest in self._digests]
        return self.open or (any(known) and scheme.lower() in SCHEMES)


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line; blank lines and lines that begin with # are passed over.

    Raises:
        FoveateError: the file cannot be read, can be read by others, or holds none.
    """
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise FoveateError(f"--token_file {path}: cannot be read: {reason}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise FoveateError(
            f"--token_file {path}: others can read it (mode {stat.S_IMODE(mode):o}); run: chmod 600 {path}"
        )
    tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not tokens:
        raise FoveateError(
            f"--token_file {path}: it holds no token; write one a line, as `python -c 'import secrets; "
            f"print(secrets.token_urlsafe())' > {path}` does"
        )
    return tokens


def open_access(host: str, token_file: str | None, allow_anonymous: bool) -> Access:
    """Who may ask a server on this address.

    Raises:
        FoveateError: others than this machine can reach it, and nothing says who of them may ask.
    """
    if token_file is not None:
        return Access(read_tokens(Path(token_file)))
    if not is_loopback(host) and not allow_anonymous:
        raise FoveateError(
            f"--host {host}: other machines can reach it, so clients have to show a token: add --token_file FILE, or "
            "--allow_anonymous to let everybody in"
        )
    return Access()


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
