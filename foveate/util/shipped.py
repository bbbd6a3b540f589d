"""What comes with foveate: small policies and image-text models, known by their names."""

from __future__ import annotations

from pathlib import Path

from foveate.errors import FoveateError

ROOT = Path(__file__).resolve().parents[1]
POLICIES, VLMS = ROOT / "policies", ROOT / "vlms"
TINY_TOKENIZER = POLICIES / "metaworld_tiny" / "tokenizer.model"


def shipped(room: Path) -> list[str]:
    """Names of the models in `POLICIES` or `VLMS`."""
    return sorted(path.parent.name for path in room.glob("*/config.json"))


def find_policy(name: str | Path) -> Path:
    """The folder of a checkpoint: the path itself, or that of a policy that ships with foveate.

    Raises:
        FoveateError: neither is there.
    """
    folder = Path(name)
    if folder.exists():
        return folder
    if str(name) not in shipped(POLICIES):
        raise FoveateError(
            f"{name}: no such checkpoint folder, and no shipped policy of that name (there are: "
            f"{', '.join(shipped(POLICIES)) or 'none'})"
        )
    return POLICIES / name
