"""`foveate data vqa-train`: build the training questions from published sets, without leaks."""

from __future__ import annotations

from typing import Any


def run(argv: list[str]) -> int:
    """The verb: 0 when the files are written, 1 where training still holds a picture that it must not know."""
    from rich.console import Console
    from rich.progress import track

    from foveate.cli.config import parse, write_run_files
    from foveate.data.vqa_train import VqaTrainConfig, build

    config = parse(VqaTrainConfig, argv, "foveate data vqa-train")
    console = Console()
    about = build(config, lambda samples, name: track(samples, name, console=console))
    write_run_files(config.out, config, seed=config.seed)
    return report(about, config.out, console)


def report(about: dict[str, Any], out: str, console: Any) -> int:
    """Print what was written and left out, and the leaks that remain."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("train", "eval", "no answer", "known picture", "broken picture")
    for heading in ("set", *columns):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    for name, counts in about["counts"].items():
        table.add_row(name, *(str(counts.get(column, 0)) for column in columns))
    console.print(table)
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
