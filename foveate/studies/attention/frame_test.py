"""The studies of one moment from Python: a policy is handed in, results come back, and nothing is printed."""

import json

import numpy as np
import pytest
from PIL import Image

from foveate.attention.maps import load_maps
from foveate.errors import FoveateError
from foveate.evaluation.scene import read_observation
from foveate.studies.attention.frame import FrameConfig, attend_frame
from foveate.studies.attention.prompts import PromptsConfig, compare_prompts
from foveate.training.policy.untrained import TINY, random_policy


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


def test_pictures_of_a_moment_are_seen_as_a_viewer_shows_them(policy, tmp_path):
    """A photograph that was held upright, and black on transparent."""
    first, *others = policy.spec.views
    shown = np.zeros((6, 4, 3), np.uint8)
    shown[:3] = (250, 10, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(shown))).save(tmp_path / "upright.png", exif=exif)
    Image.new("LA", (4, 6), (0, 0)).save(tmp_path / "clear.png")
    paths = [f"{first}={tmp_path / 'upright.png'}", *(f"{view}={tmp_path / 'clear.png'}" for view in others)]
    seen = read_observation(paths, (), "push", policy).images
    np.testing.assert_array_equal(seen[first], shown)
    assert all((seen[view] == 255).all() for view in others)
    with pytest.raises(FoveateError, match=rf"--image {first}=/dev/zero: not a readable picture \(no regular file\)"):
        read_observation([f"{first}=/dev/zero", *paths[1:]], (), "push", policy)
