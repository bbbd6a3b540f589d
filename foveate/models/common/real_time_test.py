"""Guidance towards what is left of a chunk: the paper's formulas, and what they do to a flow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foveate.models.common.real_time import MAX_GUIDANCE, PreviousChunk, guidance_weight, guided, prefix_weights


def test_the_paper_s_mask():
    """Equation 5 with H = 8, d = 2 and s = 3, by hand: c falls from 3/4 at k = 2 in steps of 1/4."""
    c = np.array([3, 2, 1]) / 4
    expected = [1, 1, *(c * (np.exp(c) - 1) / (np.e - 1)), 0, 0, 0]
    np.testing.assert_allclose(prefix_weights(2, 5, 8), expected, rtol=1e-6)
    np.testing.assert_array_equal(prefix_weights(0, 0, 4), np.zeros(4))
    np.testing.assert_array_equal(prefix_weights(3, 3, 4), [1, 1, 1, 0])


@pytest.mark.parametrize("time", [0.9, 0.5, 0.3])
def test_the_guidance_weight_in_the_paper_s_time(time):
    tau = 1 - time
    r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    assert guidance_weight(time) == pytest.approx(min(MAX_GUIDANCE, (1 - tau) / (tau * r2)))
    assert guidance_weight(1.0) == MAX_GUIDANCE


def test_the_pull_is_the_gradient_of_the_weighted_error():
    """-1/2 the weighted squared distance of the flow's end, differentiated numerically in float64."""
    torch.manual_seed(0)
    matrix = torch.randn(6, 6, dtype=torch.float64)

    def velocity(x):
        return torch.tanh(x.flatten(1) @ matrix).view_as(x)

    x, towards = torch.randn(2, 1, 3, 2, dtype=torch.float64)
    weights, time = torch.tensor([[1.0, 0.4, 0.0]], dtype=torch.float64), 0.6
    found = guided(velocity, x, time, PreviousChunk(towards, weights))
    pull = torch.zeros(6, dtype=torch.float64)

    def objective(point):
        ended = point - time * velocity(point)
        return -0.5 * (weights[..., None] * (towards - ended) ** 2).sum()

    for i in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[i] = 1e-6
        pull[i] = (objective(x + step.view_as(x)) - objective(x - step.view_as(x))) / 2e-6
    torch.testing.assert_close(found, velocity(x) - guidance_weight(time) * pull.view_as(x), rtol=1e-6, atol=1e-8)
