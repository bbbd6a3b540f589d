"""Where a result came from: git revision, package versions, command line, machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from foveate.version import __version__

PACKAGES = (
    "foveate", "torch", "transformers", "safetensors", "numpy", "sentencepiece", "av", "pillow",
    "metaworld", "mujoco", "gymnasium", "libero", "lerobot", "tensorrt", "openvino",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """What `run.json` holds: `argv, date, git {revision, dirty}, versions, machine`; plain JSON values."""
    return {
        "argv": sys.argv,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "machine": machine(),
    }


def git_state() -> dict[str, Any] | None:
    """Revision of the checkout that foveate runs from, and whether tracked files differ; None for an installed one."""
    folder = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout

    try:
        # A wheel may lie inside a virtual environment inside somebody's repository: then this file is not tracked.
        git("ls-files", "--error-unmatch", "__init__.py")
        return {
            "revision": git("rev-parse", "HEAD").strip(),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no").strip()),
        }
    except (OSError, subprocess.CalledProcessError):
        return None


def package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"foveate": __version__, **versions}


def machine() -> dict[str, Any]:
    """Processor, cores, and what torch uses of them, where torch is loaded already."""
    facts: dict[str, Any] = {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.platform()}
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
