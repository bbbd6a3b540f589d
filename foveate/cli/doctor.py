"""`foveate doctor`: what works on this machine, and what to install for the rest.

Exit status 0 when the essentials work (Python, torch, the packages that foveate asks for), 1 otherwise.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from foveate.bench.machine import Finding, examine

COLOURS = {"ok": "green", "missing": "yellow", "broken": "red"}


@dataclass(frozen=True)
class DoctorConfig:
    """What works on this machine, what to install."""

    json: bool = False
    """Print one JSON document instead of the table."""


def run(argv: list[str]) -> int:
    """Print a table, or one JSON document with `--json`."""
    from foveate.cli.config import parse

    config = parse(DoctorConfig, argv, "foveate doctor")
    findings = examine()
    healthy = all(finding.status == "ok" for finding in findings if finding.essential)
    if config.json:
        print(json.dumps({"healthy": healthy, "findings": [dataclasses.asdict(f) for f in findings]}, indent=1))
    else:
        _print_table(findings, healthy)
    return 0 if healthy else 1


def _print_table(findings: list[Finding], healthy: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from foveate.util.progress import plain_console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("thing", "status", "what was found", "what it is for", "to get it"):
        table.add_column(title, overflow="fold")
    for f in findings:
        thing = Text(f.thing, "bold" if f.essential else "")
        table.add_row(thing, Text(f.status, COLOURS[f.status]), f.detail, f.purpose, f.remedy)
    console = plain_console(160)
    console.print(table)
    works, fails = ("The essentials work.", "green"), ("Something essential (in bold) does not work.", "red")
    console.print("\n", Text(*(works if healthy else fails)), sep="")
