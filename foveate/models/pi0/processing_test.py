from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foveate.errors import FoveateError
from foveate.models.common.normalize import Normalizer, NormStats, save_norm_stats
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tokenizer import PromptTokenizer
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.detect_test import small_tokenizer
from foveate.models.pi0.processing import Processor
from foveate.testing.golden import golden_dir
from foveate.types import Observation
from foveate.util.shipped import TINY_TOKENIZER

GEMMA = GemmaConfig(width=8, depth=1, mlp_dim=8, num_heads=2, num_kv_heads=1, head_dim=4)
VISION = VisionConfig(8, 1, 1, 8, patch_size=14, image_size=28, projection_dim=8)
CONFIG = Pi0Config(
    action_dim=32, action_horizon=4, max_token_len=48, vocab_size=1024, llm=GEMMA, expert=GEMMA, vision=VISION
)


def random_stats(dim: int, seed: int) -> NormStats:
    rng = np.random.default_rng(seed)
    mean, low = rng.normal(size=dim), rng.uniform(-2, -1, dim)
    return NormStats(mean, rng.uniform(0.5, 2, dim), low, low + rng.uniform(1, 3, dim))


def processor(robot: str, *, config: Pi0Config = CONFIG, kind: str = "quantile", dims: int | None = None) -> Processor:
    mapping = RobotMapping.load(robot, "pi05" if config.pi05 else "pi0")
    norms = [
        Normalizer(random_stats(dims or dim, seed), kind)  # type: ignore[arg-type]
        for seed, dim in enumerate((mapping.state_dim, mapping.action_dim))
    ]
    return Processor(config, mapping, PromptTokenizer(TINY_TOKENIZER, config.max_token_len), *norms)


def observe(robot: str, seed: int = 0, size: tuple[int, int] = (28, 28)) -> Observation:
    rng, mapping = np.random.default_rng(seed), RobotMapping.load(robot)
    images = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name in mapping.required_views}
    if robot == "aloha":
        images |= {view: images["cam_high"] for view in ("cam_left_wrist", "cam_right_wrist")}
    return Observation(images, rng.uniform(0.1, 0.9, mapping.state_dim).astype(np.float32), "push the puck")


@pytest.mark.parametrize("robot", ["droid", "libero", "aloha"])
@pytest.mark.parametrize("kind", ["quantile", "zscore"])
@pytest.mark.parametrize("pi05", [True, False])
@pytest.mark.parametrize("dims", [None, 32])
def test_targets_and_actions_are_inverse(robot: str, kind: str, pi05: bool, dims: int | None) -> None:
    made = processor(robot, kind=kind, config=replace(CONFIG, pi05=pi05), dims=dims)
    observations = [observe(robot, seed) for seed in range(3)]
    actions = np.random.default_rng(9).uniform(0.1, 0.9, (3, 4, made.robot.action_dim)).astype(np.float32)
    targets = made.targets(actions, np.stack([o.state for o in observations]))
    assert targets.shape == (3, 4, 32) and (targets[..., made.robot.action_dim :] == 0).all()
    np.testing.assert_allclose(made.actions(targets, observations), actions, atol=3e-6)


def test_inputs_of_a_batch() -> None:
    made = processor("droid")
    observations = [observe("droid", 0), observe("droid", 1, size=(20, 40))]
    inputs = made.inputs(observations)
    assert inputs.images.shape == (2, 3, 3, 28, 28) and inputs.images.dtype == torch.float32
    assert inputs.image_masks.tolist() == [[True, True, False]] * 2
    assert (inputs.images[:, 2] == -1).all() and inputs.images.abs().max() <= 1
    first = torch.from_numpy(observations[0].images["exterior_image_1_left"]).permute(2, 0, 1) / 255.0 * 2.0 - 1.0
    torch.testing.assert_close(inputs.images[0, 0], first, atol=1e-6, rtol=0)
    assert (inputs.images[1, 0, :, :7] == -1).all() and (inputs.images[1, 0, :, 21:] == -1).all()
    assert inputs.state.shape == (2, 32) and (inputs.state[:, 8:] == 0).all()
    alone = made.inputs(observations[1:])
    for name in ("images", "image_masks", "tokens", "token_masks", "state"):
        torch.testing.assert_close(getattr(alone, name)[0], getattr(inputs, name)[1])


def test_state_enters_the_prompt_of_pi05_alone() -> None:
    def text(made: Processor, robot: str) -> str:
        inputs = made.inputs([observe(robot)])
        return "".join(made.tokenizer.pieces(inputs.tokens[0][inputs.token_masks[0]].numpy()))

    assert ",▁State:" in text(processor("droid"), "droid")
    assert text(processor("droid", config=replace(CONFIG, pi05=False)), "droid").endswith("puck▁\n")
    # openpi trained pi05_libero without it
    assert text(processor("libero"), "libero").endswith("puck▁\n")
    mapping = replace(RobotMapping.load("libero"), state_in_prompt=None)
    again = Processor(CONFIG, mapping, PromptTokenizer(TINY_TOKENIZER, 48), None, None)
    assert ",▁State:" in text(again, "libero")


def test_prompt_holds_the_normalised_state() -> None:
    made = processor("metaworld", config=replace(CONFIG, views=("corner", "gripperPOV")))
    observation = observe("metaworld")
    norm = made.state_norm
    assert norm is not None and norm.stats.q01 is not None and norm.stats.q99 is not None
    unit = (observation.state - norm.stats.q01) / (norm.stats.q99 - norm.stats.q01 + 1e-6) * 2 - 1
    bins = np.clip(np.floor((unit + 1) * 128), -1, 255).astype(int)
    inputs = made.inputs([observation])
    pieces = made.tokenizer.pieces(inputs.tokens[0][inputs.token_masks[0]].numpy())
    at = pieces.index(",▁State:")
    assert pieces[at + 1 : at + 5] == [f"▁{b}" for b in bins]


def test_model_and_source_images() -> None:
    made, observation = processor("droid"), observe("droid", size=(40, 56))
    assert {view: p.shape for view, p in made.model_images(observation).items()} == {
        "base_0_rgb": (28, 28, 3),
        "left_wrist_0_rgb": (28, 28, 3),
    }
    assert made.source_images(observation)["base_0_rgb"] is observation.images["exterior_image_1_left"]


def test_nan_actions_come_back_as_they_are() -> None:
    made = processor("aloha")
    assert np.isnan(made.actions(torch.full((1, 4, 32), float("nan")), [observe("aloha")])).all()


def test_bad_observations_are_explained() -> None:
    made, observation = processor("droid"), observe("droid")
    with pytest.raises(FoveateError, match="no view 'wrist_image_left'"):
        made.inputs([replace(observation, images={"exterior_image_1_left": observation.images["wrist_image_left"]})])
    with pytest.raises(FoveateError, match="3 numbers, robot 'droid' expects 8"):
        made.inputs([replace(observation, state=np.zeros(3))])
    with pytest.raises(FoveateError, match="prompt: expected an instruction, got an empty one"):
        made.inputs([replace(observation, prompt=" ")])


def test_contradictions_are_refused_at_once() -> None:
    with pytest.raises(FoveateError, match="norm stats of 'state' have 7 entries; robot 'droid' has 8"):
        processor("droid", dims=7)
    with pytest.raises(FoveateError, match="have 33 entries"):
        processor("droid", dims=33)
    with pytest.raises(FoveateError, match="the model has room for 4"):
        processor("droid", config=replace(CONFIG, action_dim=4))
    with pytest.raises(FoveateError, match="reads view 'base_0_rgb', and robot 'metaworld' maps only"):
        processor("metaworld")


def test_from_dir_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="no such checkpoint folder"):
        Processor.from_dir(tmp_path / "none")


def test_a_base_checkpoint_takes_the_statistics_of_its_robot(tmp_path: Path) -> None:
    golden = golden_dir("pi0", "tiny_pi05.model.safetensors")
    (tmp_path / "model.safetensors").symlink_to(golden / "tiny_pi05.model.safetensors")
    (tmp_path / "config.json").write_text('{"vision_heads": 4, "action_horizon": 6}')
    for seed, asset in enumerate(("droid", "ur5e")):
        stats = random_stats(8, seed)
        save_norm_stats(tmp_path / "assets" / asset, {"state": stats, "actions": stats})
    small = small_tokenizer(tmp_path / "tokenizer.model", 512)
    with pytest.raises(FoveateError, match="robot mapping: pass --robot"):
        Processor.from_dir(tmp_path)
    for asset_id, seed in ((None, 0), ("ur5e", 1)):
        made = Processor.from_dir(tmp_path, robot="droid", tokenizer=small, asset_id=asset_id)
        assert made.state_norm is not None
        np.testing.assert_array_equal(made.state_norm.stats.mean, random_stats(8, seed).mean)
    with pytest.raises(FoveateError, match=r"no norm stats 'trossen' under assets, found \['droid', 'ur5e'\]"):
        Processor.from_dir(tmp_path, robot="droid", asset_id="trossen")
