"""A policy's folder whose compiled engine compiles nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foveate.engine import registry
from foveate.models.common.layers import as_written
from foveate.util.shipped import find_policy


def policy_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of a shipped policy; `compiled` runs as written, and records lie in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENPI_TORCH_COMPILE", raising=False)
    monkeypatch.setitem(registry.BACKENDS, "compiled", lambda freeze: as_written)
    monkeypatch.setattr(registry, "missing_compiler", lambda: None)
    monkeypatch.setattr(registry, "keep_code", lambda: None)
    shutil.copytree(find_policy("metaworld_tiny"), tmp_path / "policy")
    return str(tmp_path / "policy")
