"""A policy small enough for the tests of every verb that runs one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foveate.models.pi0.config import GemmaConfig, VisionConfig
from foveate.training.policy.untrained import MID, random_policy

_GEMMA = GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=2, num_kv_heads=1, head_dim=16)
_VISION = VisionConfig(32, 1, 2, 64, 14, 56, 32)
TINY = replace(MID, action_dim=4, max_token_len=32, llm=_GEMMA, expert=_GEMMA, vision=_VISION, num_steps=2)


@pytest.fixture(scope="module")
def policy():
    with random_policy(TINY, "lightvla") as built:
        yield built
