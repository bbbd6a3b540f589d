"""foveate: see sharply only where it matters. The visual-token budget of VLMs and robot policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foveate.version import __version__

__all__ = ["Observation", "__version__", "load_policy", "prune"]

if TYPE_CHECKING:
    from foveate.policy import load_policy
    from foveate.pruning.generate import prune
    from foveate.types import Observation


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import foveate` brings no torch."""
    if name == "load_policy":
        from foveate.policy import load_policy

        return load_policy
    if name == "prune":
        from foveate.pruning.generate import prune

        return prune
    if name == "Observation":
        from foveate.types import Observation

        return Observation
    raise AttributeError(f"module 'foveate' has no attribute {name!r}")
