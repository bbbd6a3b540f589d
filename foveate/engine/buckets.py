"""Prefix lengths that a prefill is prepared for: which there are, which one a query gets, and what the padding costs.

buckets = Buckets((256, 320, 560))
prefix = buckets.pack(prefix)         # padded to the smallest bucket that holds it; above all of them packed exactly

Padding is masked: it changes no result beyond rounding. Nothing here compiles or captures; who does asks for `lengths`.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from foveate.errors import FoveateError
from foveate.models.base import pack
from foveate.types import Prefix
from foveate.util.checks import shown, whole

MOST_WASTE = 0.15
"""Padding, as a share of the real tokens, that a choice of buckets should stay below on a CPU."""
GPU_TILE = 64
"""Lengths that are chosen for a GPU are multiples of it, as its matrix products are cut."""
ANY = "any"
"""Among planned lengths: of every pruning that has none of its own."""
LONGEST = 65_536
"""Tokens of a prefix, at most."""


def check_lengths(lengths: Sequence[int], where: str = "buckets") -> tuple[int, ...]:
    """The lengths as they are.

    Raises:
        FoveateError: there is none, one is no length, or they do not ascend.
    """
    if not lengths:
        raise FoveateError(f"{where}: the list is empty; give at least one length, or leave it out")
    for length in lengths:
        whole(where, length, 1, LONGEST)
    if list(lengths) != sorted(set(lengths)):
        raise FoveateError(f"{where}: lengths must ascend, each once, got {shown(list(lengths))}")
    return tuple(int(length) for length in lengths)


def ladder(shortest: int, longest: int, most: int, align: int = 1) -> tuple[int, ...]:
    """At most `most` lengths from `shortest` to `longest`, each the same factor above the one before.

    The factor is 1 + `MOST_WASTE`, or what it takes to need no more than `most`.
    """
    steps = max(1, math.ceil(math.log(max(longest, 1) / max(shortest, 1)) / math.log(1 + MOST_WASTE)))
    count = min(most, steps)
    factor = (longest / shortest) ** (1 / count)
    return tuple(sorted({aligned(round(longest / factor**i), align) for i in range(count)}))


def aligned(length: int, align: int) -> int:
    """The next multiple of `align`."""
    return math.ceil(length / align) * align


class Buckets:
    """The lengths of one engine, with their use counted; the least recently used one goes where too many are added."""

    def __init__(
        self,
        lengths: Sequence[int] = (),
        most: int = 8,
        most_bytes: int = 1 << 30,
        *,
        planned: Mapping[str, Sequence[int]] = MappingProxyType({}),
        align: int = 1,
    ) -> None:
        """
        Args:
            lengths: ascending; empty: none yet.
            most: lengths held at once.
            most_bytes: of memory that all of them together may hold, as `add` is told.
            planned: pruning, as `pruning.label` has it -> the lengths to prepare for it where none are given.
            align: lengths that are chosen where none are given or planned are multiples of it.
        """
        self.most, self.most_bytes, self._planned, self._align = most, most_bytes, planned, align
        self._bytes: OrderedDict[int, int] = OrderedDict()
        self.above: Counter[int] = Counter()
        """Length -> queries that were longer than every bucket, and so were packed exactly."""
        self._hits, self._padded, self._real, self._asked = 0, 0, 0, 0
        self._given = bool(lengths)
        if lengths:
            for length in check_lengths(lengths):
                self.add(length)

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(sorted(self._bytes))

    def add(self, length: int, size: int = 0) -> list[int]:
        """Hold one more length.

        Args:
            size: bytes that it holds for itself.
        Returns:
            Lengths that had to go for it.
        """
        self._bytes[length] = size
        self._bytes.move_to_end(length)
        gone = []
        while len(self._bytes) > self.most or (len(self._bytes) > 1 and sum(self._bytes.values()) > self.most_bytes):
            gone.append(self._bytes.popitem(last=False)[0])
        return gone

    def to_prepare(self, pruning: str, spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """The lengths to prepare: those that are held, and those that were too long for every one; where none were
        given, also those planned for this pruning, or else such as are spread over spans.

        Args:
            spans: from the shortest to the longest prefix that there may be.
        """
        wanted = {*self.lengths, *self.above}
        if not self._given:
            planned = self._planned.get(pruning, self._planned.get(ANY))
            most = max(1, self.most // len(spans))
            spread = (length for span in spans for length in ladder(*span, most, self._align))
            wanted.update(spread if planned is None else planned)
        self.above.clear()
        return tuple(sorted(wanted))

    def choose(self, tokens: int) -> int | None:
        """The smallest length that holds so many tokens; None: none does."""
        return min((length for length in self._bytes if length >= tokens), default=None)

    def pack(self, prefix: Prefix) -> Prefix:
        """Packed and padded to a bucket. Asks the device at most once, and not where a budget tells the count."""
        if prefix.at_most is None:
            self._asked += 1
            longest = int(prefix.mask.sum(1).max())
        else:
            longest = int(prefix.at_most.sum(1).max())
        length = self.choose(longest)
        if length is None:
            self.above[longest] += 1
            return pack(prefix)
        self._hits += 1
        self._real, self._padded = self._real + longest, self._padded + length
        self._bytes.move_to_end(length)
        return pack(prefix, length=length)

    def report(self) -> dict[str, Any]:
        """`lengths, packed, hit_rate, padding` (share of the real tokens), `above` and `asked_device`; plain values."""
        packed = self._hits + self.above.total()
        return {
            "lengths": list(self.lengths),
            "packed": packed,
            "hit_rate": self._hits / packed if packed else None,
            "padding": self._padded / self._real - 1 if self._real else None,
            "above": {str(length): count for length, count in sorted(self.above.items())},
            "asked_device": self._asked,
        }
