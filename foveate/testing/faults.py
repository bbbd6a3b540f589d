"""Exceptions that nobody expects, for the places that must go on after any: a boundary around each item of a job."""

from __future__ import annotations


class OddKeyError(KeyError):
    """Of a foreign library, whose text is no text."""

    def __str__(self) -> str:
        return "[state, 7] [/b] odd key"


UNEXPECTED: tuple[Exception, ...] = (
    OddKeyError(("state", 7)),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    AssertionError(),
    StopIteration(3),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
)
