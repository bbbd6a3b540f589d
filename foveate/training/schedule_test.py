from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from foveate.training.ema import Ema
from foveate.training.policy.pi0.losses import sample_time
from foveate.training.schedule import ema_decay, learning_rate, pruner_noise


def test_learning_rate_warms_up_and_falls_on_a_cosine() -> None:
    rates = [learning_rate(s, peak=1.0, final=0.1, warmup=4, total=12) for s in range(13)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[8] == pytest.approx(0.55)  # half way
    assert rates[6] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert rates[12] == pytest.approx(0.1)


def test_a_rate_may_fall_at_once() -> None:
    rates = [learning_rate(s, peak=1.0, final=0.1, warmup=1, total=6, decay_at=4) for s in range(6)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1])


def test_pruner_noise_is_lightvla_s() -> None:
    """LightVLA sets 1 - log_step / max_steps before each micro-batch and stops behind step max_steps."""
    max_steps = 7
    ours = [pruner_noise(s, start=1.0, end=0.0, total=max_steps + 1) for s in range(max_steps + 1)]
    assert ours == pytest.approx([1 - log_step / max_steps for log_step in range(max_steps + 1)])


def test_pruner_noise_is_linear_from_the_first_to_the_last_step() -> None:
    assert [pruner_noise(s, start=1.0, end=0.0, total=5) for s in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_the_average_forgets_the_start_quickly() -> None:
    assert ema_decay(0, decay=0.999) == pytest.approx(0.1)
    assert ema_decay(10**6, decay=0.999) == 0.999


def test_ema_equals_its_recursion_and_is_lent_to_the_module() -> None:
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = Ema(module, decay=0.5)
    expected = 0.0
    for step in range(4):
        nn.init.constant_(module.weight, float(step + 1))
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    with ema.applied():
        torch.testing.assert_close(module.weight.detach(), torch.full((1, 2), expected))
    assert torch.equal(module.weight.detach(), torch.full((1, 2), 4.0))


def test_time_follows_the_beta_distribution() -> None:
    time = (sample_time((200_000,), torch.Generator().manual_seed(0)) - 0.001) / 0.999
    beta = torch.distributions.Beta(torch.tensor(1.5), torch.tensor(1.0))
    assert float(time.mean()) == pytest.approx(float(beta.mean), abs=2e-3)
    assert float(time.var()) == pytest.approx(float(beta.variance), abs=1e-3)
    assert float((time < 0.25).float().mean()) == pytest.approx(0.25**1.5, abs=3e-3)
    assert float(time.min()) >= 0
