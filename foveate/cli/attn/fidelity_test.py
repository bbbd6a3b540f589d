"""The verb on a small DROID tree and a small random policy."""

import json
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

import foveate.policy
from foveate.cli.main import main
from foveate.data.droid.writer import DroidWriter
from foveate.policy import TraceOptions
from foveate.pruning import make_pruner
from foveate.studies.attention import fidelity as module
from foveate.studies.attention.kept_patches import infer_kept
from foveate.testing.faults import UNEXPECTED
from foveate.training.policy.untrained import TINY, random_policy
from foveate.types import Observation

STATE = np.array([0.1, 0.6, 0.2, 1.0], np.float32)


def write_tree(root, plain=False):
    """Two episodes of 9 rows, pictures of 48 x 64."""
    writer, rng = DroidWriter(root), np.random.default_rng(0)
    for outcome in ("success", "failure"):
        episode = writer.begin(("corner", "gripperPOV"), datetime(2026, 1, 2, 3, 4, 5))
        for _ in range(9):
            images = {v: rng.integers(0, 256, (48, 64, 3), np.uint8) for v in ("corner", "gripperPOV")}
            if plain:
                images = {view: np.full_like(image, 90) for view, image in images.items()}
            episode.add(images, STATE, np.zeros(4))
        episode.finish(outcome, "push the puck", 80.0, "eef_xyz+gripper", {})
    return root


@pytest.fixture(scope="module")
def policy():
    with random_policy(TINY, None) as built:
        # The gates of the adaptive norms start at 0, and then the actions do not look at the picture at all.
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for values in built.engine.model.parameters():
                values += 0.1 * torch.randn(values.shape, generator=generator)
        built.pruner = make_pruner({"name": "topk_norm", "keep_ratio": 0.5})
        yield built


@pytest.fixture
def verb(policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foveate.policy.LoadOptions, "load", lambda self: policy)
    write_tree(tmp_path / "tree")
    small = ["--draws", "2", "--frames_per_episode", "1", "--curve_points", "3", "--pictures", "1", "--policy", "p"]
    return lambda *words: main(["attn", "fidelity", *small, *words])


def test_a_tree_gives_all_results_and_goes_on(verb, policy, tmp_path, monkeypatch, capsys):
    assert verb("tree", "--out", "out", "--episodes", "1") == 0
    assert verb("tree", "--out", "out") == 0, "more episodes of the same experiment go on in the same folder"
    out = tmp_path / "out"
    lines = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    assert [(row["episode"].partition("/")[0], row["frame"]) for row in lines] == [("success", 0), ("failure", 0)]
    result = json.loads((out / "fidelity.json").read_text())
    assert result["frames"] == result["episodes"] == 2
    assert {(r["views"], r["layer"]) for r in result["summary"]} == {
        (v, n) for v in ("both", "side", "wrist") for n in (0, 1)
    }
    assert result["pruner"]["name"] == "topk_norm" and 0 < result["pruner"]["kept"] < result["pruner"]["patches"]
    assert len(result["summary"][0]["dims"]["mse"]["high"]) == 4
    page = (out / "index.html").read_text()
    assert page.count("data:image/jpeg") == 2 and "http" not in page.replace("http://www.w3.org", "")
    assert "## The pruner" in (out / "fidelity.md").read_text()
    assert "results: out/fidelity.json" in capsys.readouterr().out

    def refuse(*args, **options):
        raise AssertionError("asked again")

    before = (out / "fidelity.json").stat().st_mtime_ns
    monkeypatch.setattr(policy, "infer_batch", refuse)
    assert verb("tree", "--out", "out") == 0
    assert (out / "fidelity.json").stat().st_mtime_ns > before


def test_one_moment_from_pictures(verb, tmp_path):
    rng = np.random.default_rng(0)
    for view in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(f"{view}.png")
    words = ["--image", "corner=a.png", "gripperPOV=b.png", "--prompt", "go", "--views", "side", "--phase", "suffix"]
    assert verb(*words, "--fill", "blur", "--heads", "active", "--layers", "-1", "--out", "one") == 0
    result = json.loads((tmp_path / "one" / "fidelity.json").read_text())
    assert [r["layer"] for r in result["summary"]] == [1] and result["plan"]["phase"] == "suffix"
    assert result["summary"][0]["metrics"]["mse"]["high"]["ci95"] == [None, None], "one frame has no interval"


def test_a_broken_episode_is_named_and_the_others_count(verb, tmp_path, capsys):
    write_tree(tmp_path / "more")  # a third and a fourth episode, two of them broken
    broken, unreadable = sorted((tmp_path / "more").glob("*/*/*"))
    (broken / "trajectory.h5").write_bytes(b"short")
    (unreadable / "recordings/frames/hand_camera/00000.jpg").write_bytes(b"no picture")
    for episode in (broken, unreadable):
        episode.rename(tmp_path / "tree" / episode.parent.parent.name / episode.parent.name / f"x_{episode.name}")
    assert verb("tree", "--views", "side", "--curve_points", "0", "--out", "out") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "trajectory.h5 cannot be read" in said and "00000.jpg is not a readable picture" in said
    assert json.loads((tmp_path / "out" / "fidelity.json").read_text())["episodes"] == 2


def test_one_frame_of_one_episode(verb, tmp_path, capsys):
    episode = sorted((tmp_path / "tree").glob("*/*/*"))[0]
    words = ["--views", "side", "--curve_points", "0", "--out", "out"]
    assert verb("--episode", str(episode), "--frame", "99", *words) == 1
    assert "--frame 99: the episode has frames 0 to" in capsys.readouterr().err
    assert verb("--episode", str(episode), "--frame", "3", *words) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/frames.jsonl").read_text().splitlines()]
    assert [(row["episode"].rpartition("/")[2], row["frame"]) for row in rows] == [(episode.name, 3)]


def test_mistakes(verb, tmp_path, capsys):
    write_tree(tmp_path / "plain", plain=True)
    for words, said in (
        (["plain"], "leaves the picture as it was"),
        (["tree", "--layers", "2"], "the model has 2 layers, 0 to 1"),
        (["tree", "--views", "overhead"], "unknown choice of views 'overhead'"),
        (["tree", "--fill", "nois"], "--fill"),
        (["nowhere"], "no such folder"),
        ([], "Give either a DROID-format tree"),
        (["tree", "--episode", "tree"], "Give either a DROID-format tree"),
        (["tree", "--frame", "8"], "--frame: of which episode?"),
    ):
        assert verb(*words, "--out", f"x{len(said)}") == 1
        assert said in capsys.readouterr().err
    assert verb("tree", "--episodes", "1", "--views", "side", "--out", "out") == 0
    assert verb("tree", "--fill", "noise", "--views", "side", "--out", "out") == 1
    assert "another configuration (fill: 'mean' there, 'noise' now)" in capsys.readouterr().err


def test_given_patches_are_what_the_pruner_would_keep(policy):
    """Dropping what the pruner drops gives the very actions of the pruned policy."""
    rng = np.random.default_rng(3)
    images = {view: rng.integers(0, 256, (48, 64, 3), np.uint8) for view in policy.spec.views}
    observation = Observation(images, STATE, "go")
    noise = rng.standard_normal((policy.spec.action_horizon, 4), dtype=np.float32)
    own = policy.pruner
    chunk = policy.infer(observation, noise, evidence=TraceOptions(routing=True))
    masks = np.stack([chunk.trace.keep["keep_mask"], chunk.trace.keep["valid"]])
    kept, full = infer_kept(policy, observation, noise, masks, batch=1)
    np.testing.assert_array_equal(kept, chunk.actions)
    assert np.abs(full - kept).max() > 1e-6
    assert policy.pruner is own


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_costs_one_episode(verb, tmp_path, monkeypatch, capsys, error):
    usual = module.occlude

    def odd(policy, frame, occlusion):
        if frame.episode.startswith("failure"):
            raise error
        return usual(policy, frame, occlusion)

    monkeypatch.setattr(module, "occlude", odd)
    assert verb("tree", "--views", "side", "--curve_points", "0", "--out", "out") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "frame 0: " in said and type(error).__name__ in said
    assert json.loads((tmp_path / "out" / "fidelity.json").read_text())["episodes"] == 1
