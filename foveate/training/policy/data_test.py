"""Samples and batches, on hand-sized demonstrations."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from foveate.data.demos import DemoEpisode
from foveate.errors import FoveateError
from foveate.models.common.normalize import Normalizer
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tokenizer import PromptTokenizer
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.processing import Processor
from foveate.training.config import DataConfig
from foveate.training.loop import Share
from foveate.training.policy.augment import recolour, shift, tinge
from foveate.training.policy.data import chunks, make_samples, norm_stats
from foveate.training.policy.pi0.recipe import FlowSource
from foveate.util.shipped import TINY_TOKENIZER

SIZE, HORIZON = 28, 4
GEMMA = GemmaConfig(width=16, depth=1, mlp_dim=32, num_heads=2, num_kv_heads=1, head_dim=8)
MODEL = Pi0Config(
    action_dim=5,
    action_horizon=HORIZON,
    max_token_len=32,
    vocab_size=1024,
    llm=GEMMA,
    expert=GEMMA,
    vision=VisionConfig(16, 1, 2, 32, 14, SIZE, 16),
    views=("corner", "gripperPOV"),
)


def episode(seed: int, steps: int = 9, task: str = "push the puck to the goal") -> DemoEpisode:
    rng = np.random.default_rng(seed)
    frames = np.arange(0, steps, 2)
    images = {v: rng.integers(0, 256, (len(frames), SIZE, SIZE, 3), dtype=np.uint8) for v in MODEL.views}
    states = rng.normal(size=(steps, 4)).astype(np.float32)
    actions = rng.uniform(-1, 1, (steps, 4)).astype(np.float32)
    return DemoEpisode(task, task.split()[0], seed, steps, states, actions, images, frames)


def processor(episodes: list[DemoEpisode]) -> Processor:
    robot = RobotMapping.load("metaworld")
    stats = norm_stats(episodes, robot, HORIZON)
    norms = [Normalizer(stats[key], "quantile") for key in ("state", "actions")]
    return Processor(MODEL, robot, PromptTokenizer(TINY_TOKENIZER, 32), *norms)


def open_gates(model: Pi0) -> Pi0:
    """Adaptive norms begin with gates of zero, which would keep all gradients from the layers behind them."""
    for name, parameter in model.named_parameters():
        if ".dense." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def source(config: DataConfig | None = None) -> FlowSource:
    episodes = [episode(0), episode(1, steps=12, task="reach the red marker with the hand")]
    p = processor(episodes)
    return FlowSource(make_samples(episodes, p), p, config or DataConfig(), seed=3)


def test_chunks_repeat_the_last_action_and_mask_it() -> None:
    demo = episode(0, steps=6)
    actions, mask = chunks(demo, np.array([0, 4]), HORIZON)
    np.testing.assert_array_equal(actions[0], demo.actions[:4])
    np.testing.assert_array_equal(actions[1], demo.actions[[4, 5, 5, 5]])
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_samples_are_what_the_processor_makes_of_an_observation() -> None:
    demo = episode(0)
    pictures, p = {v: i.copy() for v, i in demo.images.items()}, processor([demo])
    samples = make_samples([demo], p)
    assert len(samples) == 5
    assert demo.images == {}  # memory is handed over, not doubled
    torch.testing.assert_close(samples.images[2, 1], torch.from_numpy(pictures["gripperPOV"][2]).permute(2, 0, 1))
    assert float(samples.actions[:, :, 4:].abs().max()) == 0  # the model's spare entry
    robot_units = p.actions(samples.actions[1:2], [type("O", (), {"state": demo.states[2]})()])  # type: ignore[list-item]
    np.testing.assert_allclose(robot_units[0], demo.actions[2:6], atol=1e-5)


def test_a_constant_number_is_not_blown_up() -> None:
    demos = [episode(0), episode(1)]
    for demo in demos:
        demo.actions[:, 3] = 1.0
        demo.actions[0, 3] = 0.99
    stats = norm_stats(demos, RobotMapping.load("metaworld"), HORIZON)["actions"]
    assert abs(Normalizer(stats, "quantile").normalize(demos[0].actions)).max() < 3
    assert stats.q99 is not None and stats.q01 is not None
    assert float((stats.q99 - stats.q01).min()) == pytest.approx(0.05 * float((stats.q99 - stats.q01).max()), rel=1e-3)


def test_an_epoch_visits_every_sample_once_and_epochs_differ() -> None:
    s = source()
    first, second = (torch.cat([s.rows(e * 2 + k, 5) for k in range(2)]) for e in range(2))
    assert len(set(first.tolist())) == len(set(second.tolist())) == 10
    assert set(first.tolist()) < set(range(11))
    assert first.tolist() != second.tolist()
    with pytest.raises(FoveateError, match="batch_size 12 exceeds the 11 samples"):
        s.rows(0, 12)


def test_shares_of_a_batch_join_to_the_whole() -> None:
    config = DataConfig(
        flow_samples=3, shift_px=2, brightness=0.1, contrast=0.2, saturation=0.2, hue=0.05, state_noise=0.1
    )
    whole = source(config).batch(Share(7, 0, 6, 6))
    parts = [source(config).batch(Share(7, i, i + 2, 6)) for i in (0, 2, 4)]
    assert whole.noise.shape == (6, 3, HORIZON, 5)
    for name in ("actions", "noise", "time", "mask"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name)), name
    assert torch.equal(torch.cat([p.inputs.images for p in parts]), whole.inputs.images)
    for i, part in enumerate(parts):  # a share is cut to its own longest prompt
        width = part.inputs.tokens.shape[1]
        assert torch.equal(part.inputs.tokens, whole.inputs.tokens[2 * i : 2 * i + 2, :width])
        assert int(part.inputs.token_masks.sum(1).max()) == width


def test_without_augmentation_pictures_are_the_recorded_ones() -> None:
    s = source()
    batch = s.batch(Share(0, 0, 4, 4))
    expected = s.samples.images[s.rows(0, 4)].float() / 255 * 2 - 1
    torch.testing.assert_close(batch.inputs.images, expected, atol=1e-6, rtol=0)
    assert bool(batch.inputs.image_masks.all())


def test_blind_training_sees_one_grey() -> None:
    images = source(DataConfig(blind=True, shift_px=2)).batch(Share(0, 0, 4, 4)).inputs.images
    assert images.unique().tolist() == pytest.approx([128 / 255 * 2 - 1], abs=1e-6)


def test_shift_moves_the_content_and_repeats_the_edge() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3).expand(1, 3, 3, 3)
    moved = shift(image, torch.tensor([[1, -1]]))
    assert moved[0, 0].tolist() == [[3, 3, 4], [6, 6, 7], [6, 6, 7]]


def test_recolour_changes_around_the_mean() -> None:
    image = torch.tensor([-0.5, 0.5]).repeat(6).view(1, 3, 2, 2)
    out = recolour(image.clone(), torch.tensor([0.1]), torch.tensor([0.5]))
    torch.testing.assert_close(out, image * 1.5 + 0.2)
    assert float(recolour(image.clone(), torch.tensor([0.9]), torch.tensor([0.0])).max()) == 1


def test_tinge_is_the_cylinder_of_hue_saturation_and_value() -> None:
    """Against Python's own colorsys, on pixels of every sector, grey and black among them."""
    rgb = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    rgb[0], rgb[1] = 0.5, 0.0
    saturation, turn = 0.3, -0.07
    out = tinge((rgb * 2 - 1).T[None, :, :, None], torch.tensor([saturation]), torch.tensor([turn]))
    for pixel, got in zip(rgb.tolist(), ((out + 1) / 2)[0, :, :, 0].T, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb((h + turn) % 1, min(s * (1 + saturation), 1), v)
        assert got.tolist() == pytest.approx(expected, abs=1e-5)
    same = tinge((rgb * 2 - 1).T[None, :, :, None], torch.zeros(1), torch.zeros(1))
    torch.testing.assert_close(same, (rgb * 2 - 1).T[None, :, :, None], atol=1e-6, rtol=0)


def test_a_missing_view_is_named() -> None:
    demo = episode(0)
    p = processor([demo])
    del demo.images["gripperPOV"]
    with pytest.raises(FoveateError, match="gripperPOV"):
        make_samples([demo], p)
