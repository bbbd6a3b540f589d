import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from foveate.testing.golden import REPO
from foveate.util import progress
from foveate.util.progress import SILENT, ProgressBar, Reporter, plain_console, rate


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(1027.3, "1027 x/s"), (2.34, "2.3 x/s"), (0.5, "30 x/min"), (0.02, "1.2 x/min"), (0.001, "3.6 x/h")],
)
def test_slow_work_is_counted_per_minute_or_hour(per_second, text):
    assert rate(per_second, "x") == text


def test_a_log_file_gets_a_line_now_and_then(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    with ProgressBar(Console(file=file, width=200), "answers", "questions", 50, done=10, facts="loading") as bar:
        now[0] += 500  # the model is being loaded
        bar.begin(50)
        for _ in range(20):
            now[0] += 6
            bar.advance(1, "2 unread")
    lines = [line for line in file.getvalue().splitlines() if re.match(r"answers \d", line)]
    assert lines[0] == "answers 10/50  loading" and len(lines) == 5, "then one in half a minute, of two minutes"
    assert lines[1] == "answers 15/50  10 questions/min  2 unread  ETA 0:03:30"
    assert lines[-1] == "answers 30/50  10 questions/min  2 unread  ETA 0:02:00"


def log_of(total, work):
    """What stands in the log before the bar closes, and all its lines but the bar itself."""
    file = io.StringIO()
    with ProgressBar(Console(file=file, width=200), "mixed: answers", "answers", total) as bar:
        work(bar)
        before = file.getvalue()
    return before, [line for line in file.getvalue().splitlines() if re.match(r"mixed: answers \d", line)]


def test_a_log_file_gets_a_line_at_once_when_work_begins():
    """Whether its size is known when the bar opens, when the work is planned, or with the first step."""
    assert log_of(9000, lambda bar: None) == ("mixed: answers 0/9000\n", ["mixed: answers 0/9000"])
    planned = log_of(None, lambda bar: bar.begin(9000))
    assert planned == ("mixed: answers 0/9000\n", ["mixed: answers 0/9000"])

    def steps(bar):
        for step in range(1, 4):
            bar.reach(step, "loss 1.0", 9000)

    assert log_of(None, steps) == ("mixed: answers 1/9000\n", ["mixed: answers 1/9000"])


def test_a_terminal_sees_the_bar_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    with ProgressBar(Console(file=file, width=200, force_terminal=True), "answers", "questions", 50) as bar:
        for _ in range(20):
            now[0] += 60
            bar.advance()
    lines = [line for line in file.getvalue().replace("\r", "\n").splitlines() if "answers" in line]
    assert lines and all("━" in line for line in lines)


def test_nothing_to_do_is_said():
    file = io.StringIO()
    with ProgressBar(Console(file=file), "answers", "questions") as bar:
        bar.begin(0)
    assert file.getvalue().strip() == "answers: nothing is left to do"


def test_silent_without_a_console(capsys):
    with ProgressBar(None, "answers", "questions", 2) as bar:
        bar.begin(0)
        bar.advance(2)
    assert capsys.readouterr() == ("", "")


def test_a_study_reports_to_a_console_or_to_nobody(capsys):
    def study(report):
        with report.status("loading"), report.bar("answers", "questions", 3) as bar:
            bar.advance(2)
        report.rule("second part")
        report.line("done")
        report.warn("no [GPU]")
        return bar.done

    file = io.StringIO()
    assert study(Reporter(Console(file=file, width=200))) == study(SILENT) == 2
    assert "\ndone\nwarning: no [GPU]\n" in file.getvalue()
    assert capsys.readouterr().out == ""


FOREIGN = ("run[red]y", "[state, 7, image]", "[/b] closed", "[[bold]] :bee: [link=x]", "a\\[b]")


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_text_is_shown_as_it_is(text, capsys):
    reporter = Reporter(plain_console())
    reporter.line(text)
    reporter.warn(text)
    reporter.fail(text, text)
    reporter.rule(text)
    with reporter.status(text), reporter.bar(text, "items", 2, facts=text) as bar:
        bar.advance(1, text)
    with reporter.bar(text, "items") as bar:
        bar.begin(0)
    table = Table("head", text, title=text, caption=text)
    table.add_row(text, text)
    reporter.show(table)
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[:3] == [text, f"warning: {text}", f"{text}: {text}"]
    assert f" {text} " in lines[3] and f"{text}: nothing is left to do" in lines
    assert any(line.startswith(f"{text} 0/2  {text}") for line in lines)
    assert sum(line.count(text) for line in lines if "│" in line or "┃" in line) == 3


def test_one_place_makes_consoles_and_none_has_markup():
    """Else foreign text becomes markup again: it is swallowed, coloured, or a traceback."""
    for path in (REPO / "foveate").rglob("*.py"):
        source = path.read_text()
        if path.name != "progress.py" and not path.name.endswith("_test.py"):
            assert "Console(" not in source, f"{path}: make it by util.progress.plain_console"
        if not path.name.endswith("_test.py"):
            assert "rich.markup" not in source and "[/]" not in source, f"{path}: colours are rich.text.Text"
