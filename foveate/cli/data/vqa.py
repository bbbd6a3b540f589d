"""`foveate data vqa-train`: build the training questions from published sets, without leaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from foveate.cli.config import parse
from foveate.util.files import one_process
from foveate.util.progress import Reporter, plain_console
from foveate.util.run_folder import write_run_files
from foveate.util.words import plural


def run(argv: list[str]) -> int:
    """The verb: 0 when the files are written, 1 where training still holds a picture that it must not know."""
    from foveate.data.vqa.train import VqaTrainConfig, build

    config, report = parse(VqaTrainConfig, argv, "foveate data vqa-train"), Reporter(plain_console())

    def watched(samples: Sequence[Any], name: str) -> Iterator[Any]:
        with report.bar(name, "questions", len(samples)) as bar:
            for sample in samples:
                yield sample
                bar.advance()

    with one_process(Path(config.out), "building questions"):
        about = build(config, watched)
        write_run_files(config.out, config, seed=config.seed)
    return show(about, config.out, report)


def show(about: dict[str, Any], out: str, report: Reporter) -> int:
    """Print what was written and left out, pictures that are not there, and the leaks that remain."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    reasons = ("no answer", "known picture", "missing picture", "broken picture")
    found = {part for counts in about["counts"].values() for part in counts}
    columns = ("train", "eval", *(reason for reason in reasons if reason in found))
    for heading in ("set", *columns):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    for name, counts in about["counts"].items():
        table.add_row(name, *(str(counts.get(column, 0)) for column in columns))
    if report.console is not None:
        report.console.print(table)
    for name, gone in about["missing"].items():
        left = "their questions are left out" if name in about["counts"] else "they were not compared"
        report.warn(f"{name}: {plural(gone['pictures'], 'picture')} missing, {left}; the first: {gone['first']}")
    leaking = []
    for name, leak in about["leakage"].items():
        report.line(
            f"{name}: of {plural(leak['questions'], 'question')}, training holds the picture of {leak['same_image']}, "
            f"the wording of {leak['same_wording']}, both together of {leak['same_both']}"
        )
        leaking += [name] if leak["same_image"] or leak["same_both"] else []
    parts = [f"{part}.jsonl" for part in ("train", "eval") if f"{part}_sha256" in about]
    report.line(f"written in {out}: {', '.join(parts)}, data.json")
    if leaking:
        report.fail("leak", f"training holds pictures or questions of {', '.join(leaking)}")
    return 1 if leaking else 0
