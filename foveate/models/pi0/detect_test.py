import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.errors import FoveateError
from foveate.models.common.normalize import NormStats, save_norm_stats
from foveate.models.pi0.config import GEMMA_2B, GEMMA_300M, SIGLIP_SO400M, Pi0Config
from foveate.models.pi0.describe import as_text, describe
from foveate.models.pi0.detect import detect, sizes_from_header, stored_dtype
from foveate.models.pi0.model import ModelInputs
from foveate.models.pi0.processing import Processor
from foveate.models.pi0.weights import load_weights
from foveate.testing.golden import golden_dir
from foveate.types import Observation
from foveate.util.shipped import TINY_TOKENIZER


def stats(dim: int) -> NormStats:
    return NormStats(np.zeros(dim), np.ones(dim), -np.ones(dim), np.ones(dim))


@pytest.fixture
def openpi(tmp_path: Path) -> Path:
    """The golden weights in openpi's layout, as its trainer leaves them: no config.json."""
    golden = golden_dir("pi0", "tiny_pi05.model.safetensors")
    shutil.copy(golden / "tiny_pi05.model.safetensors", tmp_path / "model.safetensors")
    save_norm_stats(tmp_path / "assets" / "droid", {"state": stats(8), "actions": stats(8)})
    return tmp_path


@pytest.fixture
def lerobot(tmp_path: Path) -> Path:
    """The golden weights in LeRobot's layout: prefixed keys, statistics in files of their own."""
    golden = golden_dir("pi0", "tiny_pi05.model.safetensors")
    tensors = load_file(golden / "tiny_pi05.model.safetensors")
    save_file({f"model.{key}": value for key, value in tensors.items()}, tmp_path / "model.safetensors")
    visual = {"type": "VISUAL", "shape": [3, 224, 224]}
    config = {
        "type": "pi05",
        "chunk_size": 6,
        "tokenizer_max_length": 16,
        "num_inference_steps": 5,
        "image_resolution": [224, 224],
        "empty_cameras": 1,
        "vision_heads": 4,
        "input_features": {
            "observation.images.front": visual,
            "observation.images.wrist": visual,
            "observation.state": {"type": "STATE", "shape": [3]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [3]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "MEAN_STD"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    norm_map = {"norm_map": config["normalization_mapping"], "eps": 1e-8}
    pre_file = "policy_preprocessor_step_3_normalizer_processor.safetensors"
    post_file = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    names = ["left.pos", "right.pos", "gripper.pos"]
    relative = {"enabled": True, "exclude_joints": ["gripper"], "action_names": names}
    rename = {"rename_map": {"observation.images.top": "observation.images.front"}}
    pre = [
        {"registry_name": "rename_observations_processor", "config": rename},
        {"registry_name": "to_batch_processor", "config": {}},
        {"registry_name": "relative_actions_processor", "config": relative},
        {"registry_name": "normalizer_processor", "config": norm_map, "state_file": pre_file},
    ]
    post = [{"registry_name": "unnormalizer_processor", "config": norm_map, "state_file": post_file}]
    (tmp_path / "policy_preprocessor.json").write_text(json.dumps({"name": "policy_preprocessor", "steps": pre}))
    (tmp_path / "policy_postprocessor.json").write_text(json.dumps({"name": "policy_postprocessor", "steps": post}))
    save_file(
        {f"observation.state.{q}": torch.full((3,), v) for q, v in (("q01", -2.0), ("q99", 2.0))}, tmp_path / pre_file
    )
    save_file({f"action.{m}": torch.full((3,), v) for m, v in (("mean", 1.0), ("std", 0.5))}, tmp_path / post_file)
    return tmp_path


@pytest.mark.parametrize("model", ["pi05", "pi0"])
def test_the_published_sizes_follow_from_the_shapes(model: str) -> None:
    shapes = json.loads((golden_dir("pi0", f"real_{model}_keys.json") / f"real_{model}_keys.json").read_text())
    sizes, undetermined = sizes_from_header({key: (tuple(shape), "BF16") for key, shape in shapes.items()})
    expected = Pi0Config(pi05=model == "pi05")
    assert Pi0Config(**sizes) == expected and not undetermined
    assert (sizes["llm"], sizes["expert"], sizes["vision"]) == (GEMMA_2B, GEMMA_300M, SIGLIP_SO400M)


@pytest.mark.parametrize("tag", ["tiny_pi05", "tiny_pi0", "gqa_pi05"])
def test_the_golden_sizes_follow_from_the_shapes(tag: str) -> None:
    golden = golden_dir("pi0", f"{tag}.model.safetensors")
    size = json.loads((golden / "pi0_index.json").read_text())[tag]["config"]
    header = {k: (tuple(v.shape), "F32") for k, v in load_file(golden / f"{tag}.model.safetensors").items()}
    sizes, undetermined = sizes_from_header(header)
    assert "vision.num_attention_heads" in undetermined[0]
    sizes, undetermined = sizes_from_header(header, size["vision"]["num_attention_heads"])
    assert not undetermined
    for part in ("llm", "expert", "vision"):
        assert vars(sizes[part]) == {key: size[part][key] for key in vars(sizes[part])}
    assert sizes["vocab_size"] == size["vocab_size"] and sizes["action_dim"] == size["action_dim"]


def test_openpi_folder(openpi: Path) -> None:
    info = detect(openpi)
    assert (info.format, info.model, info.norm, info.resize) == ("openpi", "pi05", "quantile", "pil")
    assert info.robot is not None and info.robot.name == "droid" and info.asset_ids == ("droid",)
    assert info.config.action_horizon == 15 and any("action_horizon 15" in line for line in info.assumed)
    assert info.config.llm.num_heads == 8 and info.config.llm.head_dim == 16
    assert stored_dtype(info) == "float32"
    assert [line.split(":")[0] for line in info.missing] == ["size", "tokenizer"]
    with pytest.raises(FoveateError, match="tokenizer"):
        Processor.from_dir(openpi)


def test_openpi_converters_config_tells_the_horizon(openpi: Path) -> None:
    (openpi / "config.json").write_text(json.dumps({"action_dim": 32, "action_horizon": 7, "vision_heads": 4}))
    info = detect(openpi, tokenizer="x.model")
    assert info.config.action_horizon == 7 and not info.missing
    assert detect(openpi, action_horizon=9).config.action_horizon == 9


def test_the_name_of_openpis_configuration_tells_what_the_folder_does_not(openpi: Path) -> None:
    info = detect(openpi, config_name="pi05_full_droid_finetune", tokenizer=TINY_TOKENIZER)
    assert info.robot is not None and info.robot.name == "droid" and info.config.action_horizon == 16
    assert info.robot.delta_mask[:7] == (True,) * 7
    assert info.robot.conventions["action_space"] == "joint_position+gripper"
    assert not any("robot" in line or "horizon" in line for line in info.assumed)
    assert detect(openpi, config_name="pi05_droid", action_horizon=9).config.action_horizon == 9
    save_norm_stats(openpi / "assets" / "physical-intelligence" / "libero", {"state": stats(8), "actions": stats(7)})
    pruned = detect(openpi, config_name="pi05_libero_pytorch_lightvla")
    assert pruned.robot is not None and pruned.robot.name == "libero" and pruned.pruner == "lightvla"
    assert pruned.asset_id == "physical-intelligence/libero"
    with pytest.raises(FoveateError, match=r"openpi config pi0_droid is of π0, these weights are π0.5's"):
        detect(openpi, config_name="pi0_droid")
    with pytest.raises(FoveateError, match="did you mean 'pi05_droid'"):
        detect(openpi, config_name="pi05_droids")
    size = Pi0Config(**sizes_from_header(_header(openpi), 4)[0], action_horizon=6, max_token_len=24)
    (openpi / "config.json").write_text(json.dumps({"model": size.to_dict(), "robot": "droid", "asset_id": "droid"}))
    own = detect(openpi, config_name="pi05_droid")
    assert own.config.action_horizon == 6 and own.asset_id == "droid" and own.pruner is None
    with pytest.raises(FoveateError, match="is for robot libero, the checkpoint for droid"):
        detect(openpi, config_name="pi05_libero")


def test_openpi_base_with_several_robots_asks_for_one(openpi: Path) -> None:
    for robot in ("trossen", "ur5e"):
        save_norm_stats(openpi / "assets" / robot, {"state": stats(8), "actions": stats(8)})
    info = detect(openpi)
    assert info.robot is None and any(line.startswith("robot mapping") for line in info.missing)
    assert info.config.action_horizon == 50
    chosen = info.with_overrides(robot="droid", tokenizer=TINY_TOKENIZER)
    assert chosen.robot is not None and [line[:4] for line in chosen.missing] == ["size"]
    assert detect(openpi, robot="droid").config.action_horizon == 50


def test_foveate_folder(openpi: Path) -> None:
    size = Pi0Config(**sizes_from_header(_header(openpi), 4)[0], action_horizon=6, max_token_len=24)
    config = {"model": size.to_dict(), "robot": "droid", "norm": "zscore", "asset_id": "droid", "pruner": {"name": "x"}}
    (openpi / "config.json").write_text(json.dumps(config))
    info = detect(openpi, tokenizer=TINY_TOKENIZER)
    assert info.format == "foveate" and info.config == size and info.norm == "zscore" and not info.missing
    assert info.pruner == {"name": "x"} and not info.assumed
    (openpi / "robot.yaml").write_text(
        "views: {base_0_rgb: top}\nstate: [{name: s, dim: 8}]\naction_dim: 8\nname: mine\n"
    )
    mine = detect(openpi).robot
    assert mine is not None and mine.name == "mine"
    (openpi / "config.json").write_text(json.dumps({"model": {"pi06": True}}))
    with pytest.raises(FoveateError, match="did you mean 'pi05'"):
        detect(openpi)


def test_lerobot_folder(lerobot: Path) -> None:
    info = detect(lerobot, tokenizer=TINY_TOKENIZER)
    assert (info.format, info.model, info.resize) == ("lerobot", "pi05", "torch") and not info.missing
    config = info.config
    assert (config.action_horizon, config.max_token_len, config.num_steps, config.time_grid) == (6, 16, 5, "exact")
    assert config.views == ("front", "wrist", "empty_camera_0")
    robot, state, action = info.robot, info.state_norm, info.action_norm
    assert robot is not None and state is not None and action is not None
    assert robot.delta_mask == (True, True, False) and robot.required_views == ("top", "wrist")
    np.testing.assert_allclose(state.normalize(np.array([2.0, -2.0, 0.0])), [1, -1, 0], atol=1e-6)
    np.testing.assert_allclose(action.unnormalize(np.array([2.0, 0.0, -2.0])), [2, 1, 0], atol=1e-6)


def test_lerobot_policy_runs_from_its_folder(lerobot: Path) -> None:
    pieces = 512  # the golden embedding is smaller than the shipped tokenizer
    info = detect(lerobot, tokenizer=small_tokenizer(lerobot / "tokenizer.model", pieces))
    processor = Processor.from_info(info)
    picture = np.full((48, 64, 3), 100, np.uint8)
    state = np.array([1.0, -1.0, 0.5], np.float32)
    observation = Observation({"top": picture, "wrist": picture}, state, "lift it")
    inputs = processor.inputs([observation])
    assert isinstance(inputs, ModelInputs) and inputs.image_masks.tolist() == [[True, True, False]]
    assert (inputs.images[0, 2] == -1).all()
    model = load_weights(info.weights, info.config)
    raw = model.sample_actions(inputs, noise=torch.zeros(1, 6, 8))
    actions = processor.actions(raw, [observation])
    assert actions.shape == (1, 6, 3)
    expected = raw[0, :, :3].detach().numpy() * 0.5 + 1 + np.array([1.0, -1.0, 0.0])
    np.testing.assert_allclose(actions[0], expected, atol=1e-5)


def test_older_lerobot_keeps_statistics_among_the_weights(lerobot: Path) -> None:
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        (lerobot / name).unlink()
    tensors = load_file(lerobot / "model.safetensors")
    buffers = {
        "normalize_inputs.buffer_observation_state.mean": torch.full((3,), 2.0),
        "normalize_inputs.buffer_observation_state.std": torch.full((3,), 4.0),
        "unnormalize_outputs.buffer_action.mean": torch.zeros(3),
        "unnormalize_outputs.buffer_action.std": torch.ones(3),
    }
    save_file(tensors | buffers, lerobot / "model.safetensors")
    config = json.loads((lerobot / "config.json").read_text())
    config["normalization_mapping"] = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    (lerobot / "config.json").write_text(json.dumps(config))
    info = detect(lerobot, tokenizer=TINY_TOKENIZER)
    assert info.state_norm is not None and info.state_norm.normalize(np.full(3, 6.0)) == pytest.approx(np.ones(3))
    load_weights(info.weights, info.config)  # the buffers are no keys of the model


def test_lerobot_without_statistics_says_which(lerobot: Path) -> None:
    (lerobot / "policy_postprocessor.json").unlink()
    assert "MEAN_STD of 'action' needs mean and std, found none" in detect(lerobot).missing[-1]
    (lerobot / "policy_preprocessor_step_3_normalizer_processor.safetensors").unlink()
    with pytest.raises(FoveateError, match=r"normalizer_processor\.safetensors: no such file"):
        detect(lerobot)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "act"}, "policy type 'act'"),
        ({"type": "pi0"}, "the other of π0 and π0.5"),
        ({"use_visual_memory": True}, "use_visual_memory"),
        ({"output_features": {}}, "no feature 'action'"),
        ({"image_resolution": [112, 112]}, "112 px"),
    ],
)
def test_lerobot_policies_of_another_kind(lerobot: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((lerobot / "config.json").read_text()) | change
    (lerobot / "config.json").write_text(json.dumps(config))
    with pytest.raises(FoveateError, match=message):
        detect(lerobot)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps: expected a whole number"),
        ({"chunk_size": "6"}, "chunk_size: expected a whole number"),
        ({"chunk_size": 10**9}, "chunk_size: expected a whole number"),
        ({"tokenizer_max_length": -1}, "tokenizer_max_length: expected a whole number"),
        ({"empty_cameras": 10**9}, "empty_cameras: expected a whole number"),
        ({"vision_heads": 0}, "vision_heads: expected a whole number"),
        ({"vision_heads": 5}, "no multiple of num_attention_heads 5"),
        ({"image_resolution": [224, 112]}, "image_resolution: expected a square"),
        ({"image_resolution": 224}, "image_resolution: expected a list"),
        ({"input_features": [1]}, "input_features: expected an object"),
        ({"input_features": {"observation.state": 3}}, "'observation.state': expected an object"),
        ({"output_features": {"action": {"shape": ["x"]}}}, "shape of 'action': expected a whole number"),
        ({"output_features": {"action": {"shape": [2, 3]}}}, "shape of 'action': expected one number"),
        ({"output_features": {"action": {}}}, "shape of 'action': expected a list"),
        ({"type": ["pi0"]}, "LeRobot policy type"),
    ],
)
def test_lerobots_config_is_checked_like_flags(lerobot: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((lerobot / "config.json").read_text()) | change
    (lerobot / "config.json").write_text(json.dumps(config))
    with pytest.raises(FoveateError, match=message) as caught:
        detect(lerobot)
    assert str(lerobot) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nrom": "zscore"}, "key 'nrom'; did you mean 'norm'"),
        ({"norm": "zskore"}, "did you mean 'zscore'"),
        ({"resize": "evil"}, "resize 'evil'"),
        ({"state_in_prompt": "no"}, "state_in_prompt: expected true or false"),
        ({"asset_id": "panda"}, r"asset_id 'panda' is not under assets, found \['droid'\]"),
        ({"asset_id": 3}, "asset_id: expected a text"),
        ({"robot": "../../../etc/passwd.yaml"}, "lies outside the folder"),
        ({"robot": "/etc/passwd.yaml"}, "lies outside the folder"),
        ({"robot": ["droid"]}, "robot: expected a text"),
        ({"pruner": 3}, "pruner: expected an object"),
        ({"model": [1, 2]}, "model: expected an object"),
        ({"model": {"num_steps": 0}}, "num_steps: expected a whole number of 1 to 1,000, got 0"),
    ],
)
def test_foveates_config_is_checked_like_flags(openpi: Path, change: dict[str, object], message: str) -> None:
    (openpi / "config.json").write_text(json.dumps({"model": {}, **change}))
    with pytest.raises(FoveateError, match=message) as caught:
        detect(openpi)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b'{"model":' + b"[" * 100_000, b"\xff\xfe", b"[1]", b'{"a": ' + b"1" * 5000 + b"}"]
)
def test_a_config_that_is_no_json_object(openpi: Path, content: bytes) -> None:
    (openpi / "config.json").write_bytes(content)
    with pytest.raises(FoveateError, match=r"config\.json"):
        detect(openpi)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_lerobots_statistics_in_any_float_format(lerobot: Path, dtype: torch.dtype) -> None:
    for file in lerobot.glob("*normalizer_processor.safetensors"):
        count = {"observation.state.count": torch.tensor([100])}
        save_file({key: value.to(dtype) for key, value in load_file(file).items()} | count, file)
    info = detect(lerobot)
    assert info.state_norm is not None and info.state_norm.stats.q99 is not None
    assert info.state_norm.stats.q99.dtype == np.float32 and info.state_norm.stats.q99.tolist() == [2.0] * 3
    assert info.action_norm is not None and info.action_norm.stats.std.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q01": 2.0, "q99": -2.0}, r"'observation.state': q01 is greater than q99 at \[0, 1, 2\]"),
        ({"q99": float("nan")}, "'observation.state.q99' holds NaN"),
        ({"q99": float("inf")}, "'observation.state.q99' holds NaN"),
    ],
)
def test_lerobots_statistics_that_cannot_be(lerobot: Path, change: dict[str, float], message: str) -> None:
    file = lerobot / "policy_preprocessor_step_3_normalizer_processor.safetensors"
    spoiled = {f"observation.state.{name}": torch.full((3,), value) for name, value in change.items()}
    save_file(load_file(file) | spoiled, file)
    with pytest.raises(FoveateError, match=message) as caught:
        detect(lerobot)
    assert file.name in str(caught.value)


def test_unused_statistics_may_be_what_they_are(lerobot: Path) -> None:
    file = lerobot / "policy_preprocessor_step_3_normalizer_processor.safetensors"
    save_file(load_file(file) | {"observation.state.max": torch.full((3,), float("inf"))}, file)
    assert detect(lerobot).state_norm is not None


def test_lerobots_version_and_what_is_assumed_of_it(lerobot: Path) -> None:
    info = detect(lerobot, tokenizer=TINY_TOKENIZER)
    assert (info.image_pad, info.state_width, info.clean_prompt) == (-1.0, 0, True)
    (line,) = info.assumed
    assert "LeRobot 0.5 or later" in line and "-3" in line and "32 numbers" in line and "--lerobot_version 0.4" in line
    assert line in describe(info)["assumed"] and line in as_text(describe(info))
    old = detect(lerobot, tokenizer=small_tokenizer(lerobot / "tokenizer.model", 512), lerobot_version="0.4")
    assert (old.image_pad, old.state_width) == (-3.0, 32) and not old.assumed
    processor = Processor.from_info(old)
    assert processor.tokenizer.text("lift", np.zeros(3)).count("128") == 32
    picture = np.full((48, 64, 3), 100, np.uint8)
    images = processor.inputs([Observation({"top": picture, "wrist": picture}, np.zeros(3, np.float32), "lift")]).images
    assert images[0, 0].min() == -3 and images[0, 2].unique().tolist() == [-1]  # an absent camera stays black
    assert not detect(lerobot, lerobot_version="0.5").assumed
    config = json.loads((lerobot / "config.json").read_text()) | {"use_relative_actions": False}
    (lerobot / "config.json").write_text(json.dumps(config))
    assert not detect(lerobot).assumed  # an option that 0.4 did not have


def test_lerobots_pi0_keeps_the_underscores(lerobot: Path) -> None:
    tensors = load_file(golden_dir("pi0", "tiny_pi0.model.safetensors") / "tiny_pi0.model.safetensors")
    save_file({f"model.{key}": value for key, value in tensors.items()}, lerobot / "model.safetensors")
    config = json.loads((lerobot / "config.json").read_text()) | {"type": "pi0"}
    (lerobot / "config.json").write_text(json.dumps(config))
    info = detect(lerobot)
    assert not info.clean_prompt and "--clean_prompt true" in info.assumed[-1]
    cleaned = detect(lerobot, clean_prompt=True)
    assert cleaned.clean_prompt and len(cleaned.assumed) == 1


def test_lerobots_version_is_for_lerobots_policies(openpi: Path) -> None:
    with pytest.raises(FoveateError, match="--lerobot_version is for LeRobot's policies"):
        detect(openpi, lerobot_version="0.4")


def test_other_names_shards_and_wrong_keys_are_told(openpi: Path) -> None:
    (openpi / "config.json").write_text(json.dumps({"vision_heads": 4}))
    tensors = load_file(openpi / "model.safetensors")
    named = {f"_orig_mod.{key}": value for key, value in tensors.items()}
    save_file(named, openpi / "model-00001-of-00001.safetensors")
    (openpi / "model.safetensors").unlink()
    with pytest.raises(FoveateError, match=r"shards are read through their index, model\.safetensors\.index\.json"):
        detect(openpi)
    weight_map = dict.fromkeys(named, "model-00001-of-00001.safetensors")
    (openpi / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    description = describe(detect(openpi, tokenizer="none.model"))
    assert description["renamed_keys"] == [
        f"wrapped by torch.compile, DDP or FSDP: {len(named)} keys, such as {sorted(named)[0]!r}"
    ]
    assert description["file_bytes"] == (openpi / "model-00001-of-00001.safetensors").stat().st_size
    assert not any("keys do not fit" in line for line in description["missing"])
    del named["_orig_mod.action_out_proj.bias"]
    save_file(named, openpi / "model-00001-of-00001.safetensors")
    weight_map.pop("_orig_mod.action_out_proj.bias")
    (openpi / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "missing (1): action_out_proj.bias" in describe(detect(openpi, tokenizer="none.model"))["missing"][-1]


def test_adapters_alone_are_named(openpi: Path) -> None:
    (openpi / "model.safetensors").rename(openpi / "adapter_model.safetensors")
    with pytest.raises(FoveateError, match="it holds adapters alone"):
        detect(openpi)


def test_garbage_is_named(openpi: Path) -> None:
    with pytest.raises(FoveateError, match="no such checkpoint folder"):
        detect(openpi / "nowhere")
    (openpi / "config.json").write_text("{")
    with pytest.raises(FoveateError, match=r"config\.json: not JSON"):
        detect(openpi)
    (openpi / "config.json").unlink()
    whole = (openpi / "model.safetensors").read_bytes()
    (openpi / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FoveateError, match=r"model\.safetensors: not a whole safetensors file"):
        detect(openpi)
    save_file({"weight": torch.zeros(2)}, openpi / "model.safetensors")
    with pytest.raises(FoveateError, match="neither π0 nor"):
        detect(openpi)
    (openpi / "model.safetensors").unlink()
    with pytest.raises(FoveateError, match=r"no model\.safetensors, found \['assets'\]"):
        detect(openpi)
    (openpi / "params").mkdir()
    with pytest.raises(FoveateError, match="JAX parameters"):
        detect(openpi)


def _header(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    return {key: (tuple(v.shape), "F32") for key, v in load_file(folder / "model.safetensors").items()}


def small_tokenizer(path: Path, pieces: int) -> Path:
    """A sentencepiece model of at most so many pieces."""
    import sentencepiece

    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["lift it up", "put it down"] * 50),
            model_writer=file,
            model_type="char",
            vocab_size=pieces,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return path
