"""The benchmark of the loader counts what it hands out, and runs a peer in another interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foveate.bench import loader
from foveate.bench.loader import measure
from foveate.errors import FoveateError
from foveate.testing.lerobot import write_set


def test_rows_of_ours_and_of_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_set(tmp_path / "set", kind="image")
    script = tmp_path / "peer.py"
    script.write_text('print("warnings")\nprint(\'{"version": "9", "samples": 8, "seconds": 2}\')\n')
    monkeypatch.setattr(loader, "PEER", script)
    ours, peer = measure(root, [1], samples=24, batch=8, size=32, peer=sys.executable)
    assert (ours.loader, ours.workers, ours.samples) == ("foveate", 1, 24) and ours.samples_per_s > 0
    assert (peer.loader, peer.samples_per_s) == ("lerobot 9", 4)
    script.write_text("raise SystemExit('no lerobot here')")
    with pytest.raises(FoveateError, match=r"lerobot's loader failed .* no lerobot here"):
        measure(root, [1], samples=24, batch=8, size=32, peer=sys.executable)
    with pytest.raises(FoveateError, match="at least two batches of 32"):
        measure(root, [1])
