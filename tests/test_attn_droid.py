"""The users' own case: a π0.5-DROID checkpoint and a tree of DROID recordings, with nothing but the default options."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from foveate.cli.main import main
from foveate.models.common.normalize import NormStats
from foveate.models.common.robots import RobotMapping
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.model import Pi0
from foveate.training.policy.pi0.export import export_policy
from foveate.util.shipped import TINY_TOKENIZER
from foveate.util.video import write_video

ROWS = 12
BRIGHT = {"hand_camera": 40, "varied_camera_1": 120, "varied_camera_2": 220}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: 11 layers, so that the default layers are there, and 8 heads."""
    torch.manual_seed(0)
    gemma = GemmaConfig(width=32, depth=11, mlp_dim=32, num_heads=8, num_kv_heads=1, head_dim=8)
    vision = VisionConfig(32, 1, 2, 64, 14, 56, 32)
    config = Pi0Config(
        action_dim=8, action_horizon=4, max_token_len=64, vocab_size=1024, llm=gemma, expert=gemma, vision=vision,
        num_steps=2,
    )  # fmt: skip
    unit = NormStats(*(np.full(8, value, np.float32) for value in (0, 1, -1, 1)))
    folder = export_policy(
        tmp_path_factory.mktemp("pi05_droid"),
        Pi0(config),
        RobotMapping.load("droid"),
        {"state": unit, "actions": unit},
        TINY_TOKENIZER,
        pruner=None,
        train_config={"loop": {"steps": 0, "batch_size": 0}},
        tasks=[],
    )
    # As a checkpoint that does not say whose it is.
    (folder / "robot.yaml").unlink()
    document = json.loads((folder / "config.json").read_text())
    del document["robot"]
    (folder / "config.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One episode with frames, one with videos alone; fields as DROID writes them."""
    root = tmp_path_factory.mktemp("toy_cube_benchmark")
    for outcome, stamp, frames in (("success", "2025-12-10_10-11-12", True), ("failure", "2025-12-13_08-00-00", False)):
        folder = root / outcome / stamp[:10] / stamp
        (folder / "recordings").mkdir(parents=True)
        (folder / "instruction.txt").write_text("place cube with G into the purple bowl")
        with h5py.File(folder / "trajectory.h5", "w") as file:
            state = file.create_group("observation/robot_state")
            state["joint_positions"] = np.linspace(-1, 1, ROWS * 7).reshape(ROWS, 7)
            state["gripper_position"] = np.linspace(0, 1, ROWS)
            state["cartesian_position"] = np.zeros((ROWS, 6))
        for camera, level in BRIGHT.items():
            pictures = [np.full((90, 160, 3), level, np.uint8)] * ROWS
            if not frames:
                write_video(folder / "recordings" / f"{camera}.mp4", pictures, 15)
                continue
            (folder / "recordings" / "frames" / camera).mkdir(parents=True)
            for i, picture in enumerate(pictures):
                Image.fromarray(picture).save(folder / "recordings" / "frames" / camera / f"{i:05d}.jpg")
    return root


def brightness(picture: Path) -> tuple[float, float]:
    """Of the left and the right view in a picture without colours (alpha 0)."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"), float)
    row = pixels[pixels.shape[0] // 2]
    return row[len(row) // 4], row[int(len(row) * 0.62)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_checkpoint_and_a_folder(checkpoint: Path, tree: Path, tmp_path: Path, side: str) -> None:
    argv = ["attn", "episodes", str(tree), "--policy", str(checkpoint), "--out", str(tmp_path / "results")]
    argv += ["--video_out", str(tmp_path / "videos"), "--camera", side, "--alpha", "0", "--size", "320,240"]
    assert main(argv) == 0
    success = tmp_path / "results" / "success" / "2025-12-10" / "2025-12-10_10-11-12"
    failure = tmp_path / "results" / "failure" / "2025-12-13" / "2025-12-13_08-00-00"
    for folder in (success, failure):
        assert "Keyframes: [0, 8]" in (folder / "pi05.md").read_text()
        assert len(list(folder.rglob("*.jpg"))) == 2 * 5 * (1 + 8)
        assert (folder / "00008" / "L10_prefix_heads" / "head_07.jpg").exists()
        # The exterior camera that was asked for is left, the camera on the hand right.
        exterior, hand = brightness(folder / "00000" / "prefix_L10_attn_vis_max.jpg")
        assert abs(exterior - BRIGHT["varied_camera_1" if side == "left" else "varied_camera_2"]) < 12
        assert abs(hand - BRIGHT["hand_camera"]) < 12
    videos = tmp_path / "videos" / "failure" / "2025-12-13" / "2025-12-13_08-00-00"
    assert len(list(videos.rglob("*.webm"))) == 45
    assert (videos / "L04_prefix_max.webm").exists() and (videos / "L4" / "H07_prefix.webm").exists()
    with np.load(success / "maps.npz") as maps:
        assert maps["prefix/maps"].shape == (2, 11, 8, 2, 4, 4)  # all layers; the camera that DROID lacks is left out


def test_every_verb_takes_a_checkpoint_that_says_no_robot_for_a_droid_one(
    checkpoint: Path, tree: Path, tmp_path: Path
) -> None:
    episode = tree / "success" / "2025-12-10" / "2025-12-10_10-11-12"
    here = ["--policy", str(checkpoint), "--layers", "1"]
    assert main(["attn", "frame", "--episode", str(episode), *here, "--out", str(tmp_path / "look")]) == 0
    assert (tmp_path / "look" / "prefix_L1_attn_vis_max.jpg").exists()
    few = ["--frames_per_episode", "1", "--draws", "1", "--curve_points", "0", "--views", "both", "--fill", "noise"]
    assert main(["attn", "fidelity", str(episode), *here, *few, "--out", str(tmp_path / "fidelity")]) == 0
    assert (tmp_path / "fidelity" / "fidelity.json").exists()


def test_a_state_that_was_not_recorded_is_an_error(
    checkpoint: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episode = tree / "success" / "2025-12-11" / "2025-12-11_00-00-00"
    episode.parent.mkdir()
    episode.symlink_to(tree / "success" / "2025-12-10" / "2025-12-10_10-11-12")
    path = tree / "success" / "2025-12-10" / "2025-12-10_10-11-12" / "trajectory.h5"
    with h5py.File(path, "r+") as file:
        del file["observation/robot_state/joint_positions"]
    argv = ["attn", "episodes", str(tree), "--policy", str(checkpoint), "--out", str(tmp_path / "results")]
    assert main([*argv, "--video_out", "none", "--size", "160,120"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "success/2025-12-11/2025-12-11_00-00-00: trajectory.h5 lacks observation/robot_state/joint_position" in said
    assert [e["status"] for e in json.loads((tmp_path / "results" / "episodes.json").read_text())].count("done") == 1
