"""LeRobot's layout and openpi's, there and back: every bit of the weights, every number of the statistics."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.cli.main import main
from foveate.convert.lerobot_to_openpi import LeRobotToOpenpiConfig, lerobot_to_openpi
from foveate.convert.openpi_to_lerobot import OpenpiToLeRobotConfig, openpi_to_lerobot
from foveate.convert.statistics import read_stats
from foveate.errors import FoveateError
from foveate.models.common.robots import RobotMapping
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.detect import detect
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.weights import TIED_EMBEDDING, UNUSED, openpi_state_dict
from foveate.policy import load_policy
from foveate.types import Observation
from foveate.util.shipped import TINY_TOKENIZER

STACK = GemmaConfig(width=16, depth=1, mlp_dim=24, num_heads=2, num_kv_heads=1, head_dim=8)
SMALL = Pi0Config(
    action_dim=8,
    action_horizon=4,
    max_token_len=40,
    vocab_size=1024,
    llm=STACK,
    expert=dataclasses.replace(STACK, width=12),
    vision=VisionConfig(8, 1, 2, 16, patch_size=56, image_size=112, projection_dim=16),
    views=("image", "wrist_image", "empty_camera_0"),
)
PICTURE = np.full((32, 32, 3), 90, np.uint8)
OBSERVATION = Observation({"image": PICTURE, "wrist_image": PICTURE}, np.linspace(-0.4, 0.4, 8, dtype=np.float32), "go")


def numbers(rng: np.random.Generator, width: int) -> dict[str, np.ndarray]:
    mean = rng.normal(size=width)
    return {"mean": mean, "std": rng.uniform(0.5, 1, width), "q01": mean - 1, "q99": mean + 1}


@pytest.fixture(params=[True, False], ids=["pi05", "pi0"])
def openpi(request, tmp_path) -> Path:
    """A folder of foveate's in openpi's layout: weights in bfloat16, float64 statistics, LIBERO's robot."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, pi05=request.param)
    state = openpi_state_dict(Pi0(config), torch.bfloat16)
    folder = tmp_path / "openpi"
    asset = folder / "assets" / "physical-intelligence" / "libero"
    asset.mkdir(parents=True)
    save_file(state | {UNUSED[0]: torch.randn(1024, 12)}, folder / "model.safetensors", metadata={"format": "pt"})
    rng = np.random.default_rng(0)
    stats = {key: {k: v.tolist() for k, v in numbers(rng, n).items()} for key, n in (("state", 8), ("actions", 7))}
    (asset / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}))
    robot = RobotMapping.load("libero", "pi05" if request.param else "pi0")
    views = {"image": ("image",), "wrist_image": ("wrist_image",), "empty_camera_0": ()}
    robot = dataclasses.replace(robot, views=views, optional_views=(), delta_mask=(), state_in_prompt=None)
    (folder / "robot.yaml").write_text(robot.to_yaml())
    description = {"model": config.to_dict(), "robot": "libero", "norm": "quantile" if request.param else "zscore"}
    (folder / "config.json").write_text(json.dumps(description))
    (folder / "tokenizer.model").write_bytes(TINY_TOKENIZER.read_bytes())
    return folder


def to_lerobot(source: Path, out: Path, **options):
    return openpi_to_lerobot(OpenpiToLeRobotConfig(str(source), str(out), **options))


def to_openpi(source: Path, out: Path, **options):
    return lerobot_to_openpi(LeRobotToOpenpiConfig(str(source), str(out), **options))


def actions(folder: Path) -> np.ndarray:
    policy = load_policy(folder)
    noise = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
    return policy.infer(OBSERVATION, noise=noise).actions


def same_tensors(a: Path, b: Path) -> None:
    one, other = load_file(a), load_file(b)
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key


def test_openpi_to_lerobot_and_back(openpi, tmp_path):
    to_lerobot(openpi, tmp_path / "lerobot")
    to_openpi(tmp_path / "lerobot", tmp_path / "back")
    same_tensors(openpi / "model.safetensors", tmp_path / "back" / "model.safetensors")
    asset = "assets/physical-intelligence/libero/norm_stats.json"
    for name in (asset, "config.json", "robot.yaml", "tokenizer.model"):
        assert (tmp_path / "back" / name).read_bytes() == (openpi / name).read_bytes(), name
    np.testing.assert_array_equal(actions(openpi), actions(tmp_path / "back"))


def test_lerobot_to_openpi_and_back(openpi, tmp_path):
    """A LeRobot policy without anything of openpi's: its keys, its options and the statistics that only it has."""
    source = tmp_path / "lerobot"
    to_lerobot(openpi, source)
    shutil.rmtree(source / "origin")
    (source / "conversion.json").unlink()
    for file in source.glob("policy_*.safetensors"):
        more = {"observation.images.image.mean": torch.rand(3, 1, 1), "action.q10": torch.rand(7)}
        save_file({key: value.float() for key, value in load_file(file).items()} | more, file)
    weights = load_file(source / "model.safetensors")
    lm_head, embedding = (f"model.{name}" for name in TIED_EMBEDDING)
    weights[embedding] = weights[lm_head].clone()  # LeRobot's own files have both names, one, or the other
    del weights[lm_head]
    save_file(weights, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text()) | {"optimizer_lr": 1e-5, "use_relative_actions": False}
    (source / "config.json").write_text(json.dumps(config))

    to_openpi(source, tmp_path / "out", asset_id="lab/arm")
    np.testing.assert_allclose(actions(source), actions(tmp_path / "out"), atol=1e-5)
    assert read_stats(tmp_path / "out" / "assets" / "lab" / "arm")["actions"].keys() == {"mean", "std", "q01", "q99"}
    to_lerobot(tmp_path / "out", tmp_path / "back")
    for file in sorted(source.iterdir()):
        if file.suffix == ".safetensors":
            same_tensors(file, tmp_path / "back" / file.name)
        elif file.is_file():
            assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes(), file.name
    np.testing.assert_array_equal(actions(source), actions(tmp_path / "back"))


def test_statistics_that_were_changed_in_between_win(openpi, tmp_path):
    to_lerobot(openpi, tmp_path / "lerobot")
    for file in (tmp_path / "lerobot").glob("policy_*.safetensors"):
        tensors = load_file(file)
        tensors["action.q99"] = tensors["action.q99"] + 1
        tensors["action.mean"] = tensors["action.mean"] + 1
        save_file(tensors, file)
    to_openpi(tmp_path / "lerobot", tmp_path / "back")
    asset = "assets/physical-intelligence/libero"
    before, after = (read_stats(folder / asset)["actions"]["mean"] for folder in (openpi, tmp_path / "back"))
    np.testing.assert_allclose(after, np.array(before) + 1)
    back = tmp_path / "back" / asset / "norm_stats.json"
    np.testing.assert_array_equal(actions(tmp_path / "lerobot"), actions(tmp_path / "lerobot"))
    back.write_text(back.read_text())
    to_lerobot(tmp_path / "back", tmp_path / "again")
    np.testing.assert_allclose(actions(tmp_path / "again"), actions(tmp_path / "lerobot"), atol=1e-6)


def test_both_readers_act_alike(openpi, tmp_path):
    """LeRobot sums no epsilon up in the span and takes its own times: alike, not equal."""
    to_lerobot(openpi, tmp_path / "lerobot")
    np.testing.assert_allclose(actions(openpi), actions(tmp_path / "lerobot"), atol=2e-4)


def test_the_command_line(openpi, tmp_path, capsys):
    assert main(["convert", "openpi-to-lerobot", str(openpi), str(tmp_path / "lerobot")]) == 0
    assert main(["convert", "lerobot-to-openpi", str(tmp_path / "lerobot"), str(tmp_path / "back")]) == 0
    assert "tensors: " in capsys.readouterr().out
    for folder in ("lerobot", "back"):
        assert main(["inspect", str(tmp_path / folder)]) == 0
        assert "nothing is missing to run it" in capsys.readouterr().out


def test_the_datas_range_stands_for_quantiles(openpi, tmp_path):
    """MIN_MAX is the quantiles' formula with other numbers; the way back gives all that LeRobot had."""
    source = tmp_path / "lerobot"
    to_lerobot(openpi, source)
    shutil.rmtree(source / "origin")
    (source / "conversion.json").unlink()
    for file in source.glob("policy_*.safetensors"):
        tensors = load_file(file)
        low = {key.replace("q01", "min"): value - 0.5 for key, value in tensors.items() if key.endswith("q01")}
        high = {key.replace("q99", "max"): value + 0.25 for key, value in tensors.items() if key.endswith("q99")}
        save_file(tensors | low | high, file)
    for name in ("config", "policy_preprocessor", "policy_postprocessor"):
        text = (source / f"{name}.json").read_text()
        (source / f"{name}.json").write_text(text.replace("QUANTILES", "MIN_MAX").replace("MEAN_STD", "MIN_MAX"))
    notes = to_openpi(source, tmp_path / "out").notes
    assert "actions: min and max stand as q01 and q99, by which openpi computes the same" in notes
    np.testing.assert_allclose(actions(tmp_path / "out"), actions(source), atol=1e-5)
    to_lerobot(tmp_path / "out", tmp_path / "back")
    for file in source.glob("policy_*"):
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes(), file.name


def test_what_lerobots_pipelines_do_not_do_is_told(openpi, tmp_path):
    robot = RobotMapping.load("libero", "pi0")
    robot = dataclasses.replace(robot, views={view: (view,) for view in SMALL.views}, state_in_prompt=False)
    (openpi / "robot.yaml").write_text(robot.to_yaml())
    notes = " ".join(to_lerobot(openpi, tmp_path / "lerobot").notes)
    assert "6 actions are relative to the state" in notes
    found = detect(tmp_path / "lerobot").robot
    assert found is not None and found.delta_mask == (*[True] * 6, False)
    state_added = actions(tmp_path / "lerobot")
    for file in (tmp_path / "lerobot").glob("policy_p*processor.json"):  # as LeRobot 0.5 calls the step, and without it
        file.write_text(file.read_text().replace("relative_actions_processor", "delta_actions_processor"))
    np.testing.assert_array_equal(actions(tmp_path / "lerobot"), state_added)
    for file in (tmp_path / "lerobot").glob("policy_p*processor.json"):
        file.write_text(file.read_text().replace('"enabled": true', '"enabled": false'))
    added = state_added - actions(tmp_path / "lerobot")
    np.testing.assert_allclose(added, np.tile([*OBSERVATION.state[:6], 0], (4, 1)), atol=1e-5)
    assert ("always writes it there" in notes) == json.loads((openpi / "config.json").read_text())["model"]["pi05"]


def test_what_cannot_be_converted(openpi, tmp_path):
    to_lerobot(openpi, tmp_path / "lerobot")
    with pytest.raises(FoveateError, match="is a LeRobot policy already"):
        to_lerobot(tmp_path / "lerobot", tmp_path / "out")
    with pytest.raises(FoveateError, match=r"expected a LeRobot policy .* found foveate's layout"):
        to_openpi(openpi, tmp_path / "out")
    with pytest.raises(FoveateError, match="no norm stats 'droid'"):
        to_lerobot(openpi, tmp_path / "out", asset_id="droid")

    file = tmp_path / "lerobot" / "policy_preprocessor.json"
    original = file.read_text()
    file.write_text(original.replace('"STATE": "', '"STATE": "IDENTITY", "OLD": "'))
    with pytest.raises(FoveateError, match="state is normalised by IDENTITY, actions by"):
        to_openpi(tmp_path / "lerobot", tmp_path / "out")
    file.write_text(original)
    for statistics in (tmp_path / "lerobot").glob("policy_*.safetensors"):
        kept = {key: value for key, value in load_file(statistics).items() if not key.endswith((".std", ".q99"))}
        save_file(kept, statistics)
    with pytest.raises(FoveateError, match=r"statistics are missing:(.|\n)*std"):
        to_openpi(tmp_path / "lerobot", tmp_path / "out")

    stats = json.loads(next(openpi.rglob("norm_stats.json")).read_text())
    stats["norm_stats"]["state"] = {key: [*value, 0, 0] for key, value in stats["norm_stats"]["state"].items()}
    next(openpi.rglob("norm_stats.json")).write_text(json.dumps(stats))
    with pytest.raises(FoveateError, match="norm stats of state have 10 entries, the robot has 8"):
        to_lerobot(openpi, tmp_path / "out")
    (openpi / "robot.yaml").unlink()
    description = json.loads((openpi / "config.json").read_text())
    (openpi / "config.json").write_text(json.dumps({**description, "robot": None}))
    with pytest.raises(FoveateError, match="missing:\n  robot mapping: pass --robot"):
        to_lerobot(openpi, tmp_path / "out")
    assert not (tmp_path / "out").exists()
