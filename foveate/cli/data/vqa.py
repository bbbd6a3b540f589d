"""`foveate data vqa-train`: build the training questions from published sets, without leaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from foveate.util.progress import ProgressBar


def run(argv: list[str]) -> int:
    """The verb: 0 when the files are written, 1 where training still holds a picture that it must not know."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.data.vqa.train import VqaTrainConfig, build
    from foveate.util.run_folder import write_run_files

    config = parse(VqaTrainConfig, argv, "foveate data vqa-train")
    console = Console()

    def watched(samples: Sequence[Any], name: str) -> Iterator[Any]:
        with ProgressBar(console, name, "questions", len(samples)) as bar:
            for sample in samples:
                yield sample
                bar.advance()

    about = build(config, watched)
    write_run_files(config.out, config, seed=config.seed)
    return report(about, config.out, console)


def report(about: dict[str, Any], out: str, console: Any) -> int:
    """Print what was written and left out, pictures that are not there, and the leaks that remain."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    reasons = ("no answer", "known picture", "missing picture", "broken picture")
    found = {part for counts in about["counts"].values() for part in counts}
    columns = ("train", "eval", *(reason for reason in reasons if reason in found))
    for heading in ("set", *columns):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    for name, counts in about["counts"].items():
        table.add_row(name, *(str(counts.get(column, 0)) for column in columns))
    console.print(table)
    for name, gone in about["missing"].items():
        left = "their questions are left out" if name in about["counts"] else "they were not compared"
        told = f"{name}: {gone['pictures']} pictures are not there, {left}; the first: {gone['first']}"
        console.print(f"[yellow]warning:[/] {escape(told)}", highlight=False, soft_wrap=True)
    leaking = []
    for name, leak in about["leakage"].items():
        console.print(
            f"{name}: of {leak['questions']} questions, training holds the picture of {leak['same_image']}, the "
            f"wording of {leak['same_wording']}, both together of {leak['same_both']}"
        )
        leaking += [name] if leak["same_image"] or leak["same_both"] else []
    parts = [f"{part}.jsonl" for part in ("train", "eval") if f"{part}_sha256" in about]
    console.print(f"written in {out}: {', '.join(parts)}, data.json")
    if leaking:
        console.print(f"[bold red]training holds pictures or questions of {', '.join(leaking)}[/]")
    return 1 if leaking else 0
