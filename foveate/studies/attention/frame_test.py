"""The studies of one moment from Python: a policy is handed in, results come back, and nothing is printed."""

import json

import numpy as np
import pytest
from PIL import Image

from foveate.attention.maps import load_maps
from foveate.cli.conftest import TINY
from foveate.studies.attention.frame import FrameConfig, attend_frame
from foveate.studies.attention.prompts import PromptsConfig, compare_prompts
from foveate.training.policy.untrained import random_policy


@pytest.fixture(scope="module")
def policy():
    with random_policy(TINY, "lightvla") as built:
        yield built


@pytest.fixture
def pictures(policy, tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{view}.png" for view in policy.spec.views]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return tuple(map(str, paths))


def test_one_inference(policy, pictures, tmp_path, capsys):
    config = FrameConfig(
        policy="not loaded", image=pictures, prompt="push the puck", tokens=("puck",), out=str(tmp_path)
    )
    done = attend_frame(config, policy=policy)
    assert capsys.readouterr().out == ""
    document = json.loads((tmp_path / "frame.json").read_text())
    assert document["rows"] == done.rows and document["words"] == list(done.words) == ["puck"]
    np.testing.assert_allclose(document["actions"], done.chunk.actions, atol=1e-6)
    stored = load_maps(tmp_path / "maps.npz")
    np.testing.assert_array_equal(stored["suffix"].maps, done.maps["suffix"].maps)


def test_two_prompts(policy, pictures, tmp_path, capsys):
    config = PromptsConfig(
        policy="not loaded", image=pictures, prompt=("push", "open it"), heads=(1,), out=str(tmp_path)
    )
    done = compare_prompts(config, policy=policy)
    assert capsys.readouterr().out == ""
    assert done.maps[0]["prefix"].heads == (1,) and len(done.rows) == 2 * policy.spec.depth
    moved = np.sqrt(((done.chunks[0].actions - done.chunks[1].actions) ** 2).mean())
    assert done.action_rms == {"0-1": pytest.approx(moved)}
