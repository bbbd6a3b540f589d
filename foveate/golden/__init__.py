"""Holds this installation (device, dtype, engine) against a folder of golden numbers.

A folder has one subfolder per group (`pi0/`, `lightvla/`, ...). Whatever is there is compared; what is there and
cannot be compared by this version says so. `foveate check golden DIR` prints the report, the tests assert on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from foveate.engine.config import PRESETS
from foveate.engine.registry import make_engine
from foveate.errors import FoveateError, unknown
from foveate.golden.report import Report

GROUPS = ("pi0", "lightvla", "vqa", "openvla_oft", "pruning")
DTYPES = ("float32", "bfloat16")


def check(
    folder: Path,
    *,
    device: str = "cpu",
    dtypes: Sequence[str] = DTYPES,
    engine: str = "eager",
    groups: Sequence[str] | None = None,
) -> Report:
    """Compare with everything below `folder`.

    Args:
        groups: subfolders to compare; None: all that are there.
    Raises:
        FoveateError: the folder holds no group, a named group is absent, or a name is unknown.
    """
    for kind, names, choices in (
        ("group", groups or (), GROUPS),
        ("dtype", dtypes, DTYPES),
        ("engine", [engine], PRESETS),
    ):
        for name in names:
            if name not in choices:
                raise unknown(kind, name, choices)
    there = [group for group in GROUPS if (folder / group).is_dir()]
    if not there:
        raise FoveateError(f"{folder}: expected golden groups ({', '.join(GROUPS)}) as subfolders, found none of them")
    for group in groups or ():
        if group not in there:
            raise FoveateError(f"{folder}: group {group!r} is not there; it holds {', '.join(there)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise FoveateError(f"device {device!r}: this PyTorch sees no CUDA device; `foveate doctor` says more")
    report = Report()
    with float32_matmuls():
        for group in groups or there:
            _run(group, folder / group, report, device, tuple(dtypes), engine)
    return report


def _run(group: str, folder: Path, report: Report, device: str, dtypes: tuple[str, ...], engine: str) -> None:
    if group == "pi0":
        from foveate.golden import pi0

        pi0.run(folder, report, device=device, dtypes=dtypes, engine=lambda model: make_engine(model, engine))
    elif group == "lightvla":
        from foveate.golden import lightvla

        lightvla.run(folder, report, device=device, dtypes=dtypes)
    elif group == "vqa":
        from foveate.golden import vqa

        vqa.run(folder, report)
    elif group == "pruning" and "float32" in dtypes:
        from foveate.golden import pruning

        pruning.run(folder, report, device=device)
    elif group == "openvla_oft" and "float32" in dtypes:
        from foveate.golden import openvla_oft

        openvla_oft.run(folder, report, device=device)
    else:
        report.skip(group, "*", "not compared", "its numbers are float32")


@contextmanager
def float32_matmuls() -> Iterator[None]:
    """TF32 off, and what it was restored: its 10-bit mantissa is no float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
