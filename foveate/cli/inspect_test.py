import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from foveate.cli.inspect import run
from foveate.cli.main import main
from foveate.models.common.normalize import NormStats, save_norm_stats
from foveate.models.pi0.detect_test import small_tokenizer
from foveate.testing.golden import golden_dir
from foveate.util.shipped import TINY_TOKENIZER


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    golden = golden_dir("pi0", "tiny_pi05.model.safetensors")
    shutil.copy(golden / "tiny_pi05.model.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"action_horizon": 6, "vision_heads": 4}))
    return tmp_path


def write_stats(folder: Path, dim: int) -> None:
    stats = NormStats(np.zeros(dim), np.ones(dim), -np.ones(dim), np.ones(dim))
    save_norm_stats(folder / "assets" / "droid", {"state": stats, "actions": stats})


def test_text(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_stats(checkpoint, 8)
    assert run([str(checkpoint)]) == 0
    text = capsys.readouterr().out
    for words in (
        "π0.5 in openpi's layout",
        "8 heads of 16",
        "16 visual tokens each",
        "6 steps of 8 numbers",
        "droid (state 8, actions 8)",
        "'exterior_image_1_left' -> base_0_rgb",
        "joint_position (7), gripper_position (1)",
        "gripper_sign positive_closes",
        "missing to run it:\n  - tokenizer",
    ):
        assert words in text


def test_json(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_stats(checkpoint, 8)
    assert run([str(checkpoint), "--json", "--robot", "metaworld", "--action-horizon", "3"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["action_horizon"] == 3 and document["model"] == "pi05" and document["stored_dtype"] == "float32"
    assert document["observation"]["state"] == {"hand_position": 3, "gripper_opening": 1}
    assert document["sizes"]["backbone"]["num_heads"] == 8 and document["norm_stats"] == {
        "droid": {"state": 8, "actions": 8}
    }


def test_what_does_not_fit_is_listed(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def problem(tokenizer: Path) -> str:
        assert run([str(checkpoint), "--tokenizer", str(tokenizer), "--json"]) == 0
        (line,) = json.loads(capsys.readouterr().out)["missing"]
        return line

    write_stats(checkpoint, 7)
    fitting = small_tokenizer(checkpoint / "tokenizer.model", 512)
    assert "1024 pieces and the model embeds 512" in problem(TINY_TOKENIZER)
    assert "norm stats of 'state' have 7 entries; robot 'droid' has 8" in problem(fitting)
    (checkpoint / "assets" / "droid" / "norm_stats.json").write_text("{")
    assert "not JSON" in problem(fitting)


def test_errors_are_one_paragraph_without_traceback(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(whole[:1000])
    assert main(["inspect", str(checkpoint)]) == 1
    error = capsys.readouterr().err
    assert "not a whole safetensors file" in error and "Traceback" not in error
    assert main(["inspect", str(checkpoint / "nowhere")]) == 1
    assert "no such checkpoint folder" in capsys.readouterr().err
