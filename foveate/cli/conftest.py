"""A policy small enough for the tests of every verb that runs one."""

from __future__ import annotations

import pytest

from foveate.training.policy.untrained import TINY, random_policy


@pytest.fixture(scope="module")
def policy():
    with random_policy(TINY, "lightvla") as built:
        yield built
