"""How far, how fast, how long still: a bar on a terminal; in a log file a line when work begins, and now and then.

def study(config, report=SILENT):
    with report.status("loading the policy"): ...
    with report.bar("recording", "episodes", total=60) as bar: ... bar.advance()

study(config)                                   # a notebook: silent
study(config, Reporter(plain_console()))               # a command line
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LOG_SECONDS = 30.0
"""Between two lines of a log file."""


def plain_console(width: int | None = None) -> Console:
    """The console of the command line. Text comes from paths, checkpoints, tasks and errors, so none of it is markup:
    `run[red]y`, `[/b]` and `:bee:` are shown as they are, in tables too. What has a colour is a `rich.text.Text`.

    Args:
        width: in characters, where the output is no terminal; None: 80, or as COLUMNS says.
    """
    from rich.console import Console

    console = Console(markup=False, emoji=False)
    return console if width is None or console.is_terminal else Console(markup=False, emoji=False, width=width)


class Reporter:
    """Where long work says what it is doing; it is handed in, so that a study knows no screen."""

    def __init__(self, console: Console | None = None) -> None:
        """
        Args:
            console: without one, nothing is shown.
        """
        self.console = console

    def bar(self, label: str, unit: str, total: int | None = None, done: int = 0, facts: str = "") -> ProgressBar:
        """A bar around countable work; arguments as `ProgressBar` has them."""
        return ProgressBar(self.console, label, unit, total, done, facts)

    def status(self, text: str) -> AbstractContextManager[Any]:
        """Says what is being done, as long as it lasts."""
        return nullcontext() if self.console is None else self.console.status(_plain(text))

    def rule(self, title: str) -> None:
        """A heading between the parts of long work."""
        if self.console is not None:
            self.console.rule(_plain(title))

    def line(self, text: str) -> None:
        """A line that stays, as it is; paths are not broken."""
        if self.console is not None:
            self.console.print(_plain(text), soft_wrap=True)

    def show(self, thing: Any) -> None:
        """A table, or whatever else the console can draw."""
        if self.console is not None:
            self.console.print(thing)

    def warn(self, text: str) -> None:
        """A line about something that the person should know."""
        self._mark("yellow", "warning", text)

    def fail(self, what: str, text: str) -> None:
        """A line about something that went wrong.

        Args:
            what: stands before it: `failed`, `damaged`.
        """
        self._mark("red", what, text)

    def _mark(self, colour: str, what: str, text: str) -> None:
        from rich.text import Text

        if self.console is not None:
            self.console.print(Text.assemble((f"{what}:", colour), f" {text}"), soft_wrap=True)


def _plain(text: str) -> Text:
    from rich.text import Text

    return Text(text)


SILENT = Reporter()


class ProgressBar:
    """A context manager around long work."""

    def __init__(
        self, console: Console | None, label: str, unit: str, total: int | None = None, done: int = 0, facts: str = ""
    ) -> None:
        """
        Args:
            console: without one, nothing is shown.
            unit: what is counted, in the plural.
            total: None: not known yet.
            done: what an earlier run has done; it does not count for the rate.
            facts: stands beside the rate.
        """
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console, self._label, self._unit, self._facts = console, label, unit, facts
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=console is None,
            speed_estimate_period=300,
        )
        self._task = self._bar.add_task(label, total=total, completed=done, facts=facts)
        self._total, self.done, self._before = total, done, done
        self._begun = time.monotonic()
        self._told: float | None = None
        """When the log file has got its last line."""

    def __enter__(self) -> Self:
        self._bar.start()
        if self._total:
            self._tell(self._facts)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, total: int) -> None:
        """The work starts now, all that was to be done before it is over; where there is none, no bar but a word."""
        self._total, self._facts, self._begun = total, "", time.monotonic()
        self._bar.update(self._task, total=total, facts="", visible=total > 0)
        if not total and self._console is not None:
            self._console.print(_plain(f"{self._label}: nothing is left to do"))
        elif self._told is None:
            self._tell()
        self._told = self._begun

    def advance(self, count: int = 1, facts: str | None = None) -> None:
        """`count` more are done."""
        self.reach(self.done + count, facts)

    def reach(self, done: int, facts: str | None = None, total: int | None = None) -> None:
        """`done` of `total` are done; None: of as many as before."""
        self.done, self._facts = done, self._facts if facts is None else facts
        self._total = self._total if total is None else total
        now = time.monotonic()
        speed = (done - self._before) / max(now - self._begun, 1e-6)
        text = "  ".join(filter(None, (rate(speed, self._unit) if speed else "", self._facts)))
        self._bar.update(self._task, total=self._total, completed=done, facts=text)
        if self._told is None:
            self._tell()
        elif now - self._told >= LOG_SECONDS:
            left = f"ETA {timedelta(seconds=round((self._total - done) / speed))}" if self._total and speed else ""
            self._tell(text, left)

    def _tell(self, *facts: str) -> None:
        """A line of the log file; on a terminal the bar says the same."""
        self._told = time.monotonic()
        if self._console is not None and not self._console.is_terminal:
            line = "  ".join(filter(None, (f"{self._label} {self.done}/{self._total or '?'}", *facts)))
            self._console.print(_plain(line), soft_wrap=True)


def rate(per_second: float, unit: str) -> str:
    """`12 frames/s`; slow work per minute or hour."""
    seconds, name = (1, "s") if per_second >= 1 else (60, "min") if per_second * 60 >= 1 else (3600, "h")
    value = per_second * seconds
    return f"{value:.{0 if value >= 10 else 1}f} {unit}/{name}"
