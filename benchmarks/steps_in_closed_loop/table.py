"""The table of README.md, out of the documents of `foveate bench components`.

    python benchmarks/steps_in_closed_loop/table.py            # out of those beside it
    python benchmarks/steps_in_closed_loop/table.py /tmp/steps

Prints it, and where the documents lie beside README.md writes it there, between the markers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from foveate.util.markdown import put, table
from foveate.util.words import percents, plural

HERE = Path(__file__).parent
POLICIES = {"metaworld_tiny": "full", "metaworld_tiny_lightvla": "LightVLA"}
COMPONENTS = ("total", "vision", "kv_cache", "denoise")
HEAD = ["tokens", "engine", "steps", "success", "at its latency", "patches", "total ms", *COMPONENTS[1:]]


def success(outcome: dict[str, Any] | None) -> str:
    if outcome is None:
        return "-"
    return f"{outcome['successes']}/{outcome['episodes']} ({percents(*outcome['accuracy_ci95'])})"


def cells(tokens: str, row: dict[str, Any]) -> list[str]:
    parts = row["component_latencies"]
    ms = [f"{parts[name]['p50']:.1f}" if name in parts else "-" for name in COMPONENTS]
    kept = "-" if row["kept"] is None else f"{row['kept']:.1f}"
    outcomes = success(row), success(row.get("at_latency"))
    return [tokens, f"`{row['engine']}`", str(row["denoising_steps"]), *outcomes, kept, *ms]


def markdown(documents: dict[str, dict[str, Any]]) -> str:
    """Policy -> document; a table, and of which machine it is."""
    rows = [cells(POLICIES[name], row) for name, document in documents.items() for row in document["results"]]
    last = max(documents.values(), key=lambda document: document["date"])
    machine = last["machine"]
    threads = plural(machine["torch_threads"], "thread")
    told = ", ".join((last["date"][:10], machine["cpu"], threads, f"torch {last['versions']['torch']}"))
    return "\n".join([table(HEAD, rows), "", f"Milliseconds are medians of whole runs: {told}."])


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    paths = {name: folder / f"{name}.json" for name in POLICIES}
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}
    if not found:
        sys.exit(f"{folder}: none of {', '.join(path.name for path in paths.values())}; run run.sh first")
    print(markdown(found))
    if folder.resolve() == HERE.resolve():
        put(HERE / "README.md", "measured", markdown(found))


if __name__ == "__main__":
    main()
