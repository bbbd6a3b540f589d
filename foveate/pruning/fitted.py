"""`fit.yaml`: the method and budget that `foveate fit` recommends for one checkpoint.

    pruner: {name: divprune, keep_ratio: 0.25}
    checkpoint: 5b0c...                       # SHA-256 over the checkpoint's files

It holds for that checkpoint alone: other weights bear another pruning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foveate.errors import FoveateError
from foveate.util.files import read_text, write_text

ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Fitted:
    """A method with its options, and the checkpoint that it was chosen for."""

    path: Path
    pruner: Mapping[str, Any]
    """`name` and options."""
    checkpoint: str
    """SHA-256 of its files."""
    policy: str
    """Its name, for messages."""

    def check(self, checkpoint: str, policy: str) -> None:
        """Refuse another checkpoint.

        Args:
            checkpoint: SHA-256 of the files of the one that is to be pruned.
            policy: its name.
        """
        if checkpoint != self.checkpoint:
            raise FoveateError(
                f"{self.path}: was made for checkpoint {self.policy} ({self.checkpoint[:12]}), and {policy} is another "
                f"one ({checkpoint[:12]}); run `foveate fit {policy} EPISODES` for it, or name a method"
            )


def is_fitted(text: str) -> bool:
    """Whether what was said in place of a method's name is such a file."""
    return text.endswith(ENDINGS)


def read_fitted(path: str | Path) -> Fitted:
    """A file that `write_fitted` wrote.

    Raises:
        FoveateError: it cannot be read, or is something else.
    """
    path = Path(path)
    try:
        found = yaml.safe_load(read_text(path))
    except OSError as error:
        raise FoveateError(f"pruner {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FoveateError(f"pruner {path}: not YAML ({' '.join(str(error).split())})") from error
    found = found if isinstance(found, dict) else {}
    pruner: Any = found.get("pruner")
    known = isinstance(pruner, dict) and isinstance(pruner.get("name"), str)
    if not known or not isinstance(found.get("checkpoint"), str):
        raise FoveateError(
            f"pruner {path}: expected a fit.yaml with `pruner: {{name: ...}}` and `checkpoint`, as `foveate fit` "
            "writes it"
        )
    return Fitted(path, pruner, found["checkpoint"], str(found.get("policy", "")))


def write_fitted(path: Path, pruner: Mapping[str, Any], checkpoint: str, policy: str, facts: Mapping[str, Any]) -> None:
    """Write it, with what it rests on beside."""
    content = {"pruner": dict(pruner), "checkpoint": checkpoint, "policy": policy, **facts}
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "the recommendation")
