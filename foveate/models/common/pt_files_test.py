"""Files that are no checkpoint of a policy: a plain reason, and never torch's advice to trust them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from foveate.errors import FoveateError
from foveate.models.common.pt_files import read_weights


def test_a_file_that_is_no_checkpoint_says_so_plainly(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"w": torch.zeros(2000)}, whole)
    assert read_weights(whole)["w"].shape == (2000,)
    content = {
        "q.jsonl": b'{"question": "?"}\n',
        "cut.pt": whole.read_bytes()[:3000],
        "empty.pt": b"",
        "other.safetensors": b"nonsense",
    }
    for name, written in content.items():
        (tmp_path / name).write_bytes(written)
        with pytest.raises(FoveateError) as caught:
            read_weights(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: not a checkpoint: expected a whole file of torch.save")
        assert "weights_only" not in str(caught.value)


def test_code_in_a_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1), "w": torch.zeros(2)}, tmp_path / "args.pt")
    with pytest.raises(FoveateError, match=r"holds a Python object \(argparse\.Namespace\), and code is not run; save"):
        read_weights(tmp_path / "args.pt")
    with pytest.raises(FoveateError, match=r"none\.pt: cannot be read: No such file"):
        read_weights(tmp_path / "none.pt")
