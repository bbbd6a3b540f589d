"""Where the tests find golden data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from foveate.util.shipped import TINY_TOKENIZER

REPO = Path(__file__).resolve().parents[2]


def golden_dir(group: str, needs: str | None = None) -> Path:
    """The folder of one golden group (`pi0`, `lightvla`, ...), or skip the test with the reason.

    Looks in `$FOVEATE_GOLDEN`, then in the committed subset `tests/golden`.

    Args:
        needs: a file that must be there too.
    """
    roots = [Path(os.environ["FOVEATE_GOLDEN"])] if os.environ.get("FOVEATE_GOLDEN") else []
    roots.append(REPO / "tests" / "golden")
    for root in roots:
        folder = root / group
        if (folder / needs if needs else folder).exists():
            return folder
    pytest.skip(f"golden data {group}/{needs or ''} is in none of {', '.join(map(str, roots))}; set FOVEATE_GOLDEN")


def oft_checkpoint(folder: Path) -> Path:
    """The golden checkpoint of OpenVLA-OFT, copied, with what it lacks: its towers' heads and a tokenizer (another
    model's, which runs too)."""
    shutil.copytree(golden_dir("openvla_oft", "index.json") / "checkpoint", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    config = json.loads((folder / "config.json").read_text())
    config["vision_heads"] = {"dino": 4, "siglip": 4}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(TINY_TOKENIZER, folder / "tokenizer.model")
    return folder
