"""Files of `torch.save`: tensors and plain data are read, and no code in a file is ever run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from foveate.errors import FoveateError


def read_weights(file: Path) -> dict[str, Any]:
    """The content of a checkpoint file; nothing in it is executed.

    Raises:
        FoveateError: it cannot be read, or holds anything but tensors and plain data.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch, about pickles that it then refuses
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, and advises to trust the file
        foreign = re.search(r"(?:GLOBAL|[Cc]lass) `?([\w.]+)", str(error))
        if isinstance(error, OSError):
            reason = f"cannot be read: {error.strerror or error}"
        elif foreign:
            reason = f"it holds a Python object ({foreign[1]}), and code is not run; save the state dict alone"
        else:
            reason = "not a checkpoint: expected a whole file of torch.save, got something else or a part"
        raise FoveateError(f"{file}: {reason}") from error
    if not isinstance(content, dict):
        raise FoveateError(f"{file}: expected a dictionary of tensors, got a {type(content).__name__}")
    return content
