"""`foveate attn frame|prompts`, called as users call them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import foveate.policy
from foveate.attention.maps import averaged, load_maps, of_words
from foveate.cli.main import main
from foveate.data.droid.writer import DroidWriter


@pytest.fixture
def scene(policy, tmp_path, monkeypatch):
    """An empty folder with a picture per view (its name holds a comma); returns their flags."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foveate.policy.LoadOptions, "load", lambda self: policy)
    rng = np.random.default_rng(0)
    for name in policy.spec.views:
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(f"{name}, a.png")
    return ["--policy", "p", "--image", *(f"{name}={name}, a.png" for name in policy.spec.views)]


@pytest.fixture
def episode(policy, tmp_path):
    """Two frames of which the second has other pictures and another state."""
    recorded = DroidWriter(tmp_path / "tree").begin(policy.spec.views)
    for i in range(2):
        images = {view: np.full((60, 80, 3), 40 + 150 * i, np.uint8) for view in policy.spec.views}
        recorded.add(images, np.full(4, 0.5 * i), np.zeros(4))
    return recorded.finish("failure", "push the puck", 80.0, "eef_xyz+gripper", {})


def test_a_frame_leaves_pictures_maps_and_a_table(scene, policy, tmp_path, capsys):
    words = ["--prompt", "Push the puck, slowly", "--tokens", "puck,push the", "--steps", "each", "--out", "look"]
    assert main(["attn", "frame", *scene, *words]) == 0
    out = tmp_path / "look"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.jpg")}
    expected = {f"{phase}_L{layer}_attn_vis_max.jpg" for phase in ("prefix", "suffix") for layer in (0, 1)}
    expected |= {
        f"L{layer}_{p}_heads/head_{h:02d}.jpg" for p in ("prefix", "suffix") for layer in (0, 1) for h in (0, 1)
    }
    expected |= {f"L{layer}_suffix_steps/step_{step:02d}.jpg" for layer in (0, 1) for step in (0, 1)}
    expected |= {f"L{layer}_token_{word}.jpg" for layer in (0, 1) for word in ("puck", "push_the")}
    assert names == expected
    maps, frame = load_maps(out / "maps.npz"), json.loads((out / "frame.json").read_text())
    assert list(maps) == ["prefix", "suffix", "tokens"]
    assert maps["prefix"].maps.shape == (2, 2, 2, 4, 4) and maps["suffix"].maps.shape == (2, 2, 2, 2, 4, 4)
    np.testing.assert_array_equal(averaged(maps["tokens"]).maps, maps["prefix"].maps)
    for row in frame["rows"]:
        found = averaged(maps[row["phase"]])
        heads = found.maps[found.layers.index(row["layer"])].astype(np.float64)
        assert row["most_active_head"] == heads[:, found.valid].var(1).argmax()
        for v, view in enumerate(found.views):
            assert abs(row["mass"][view] - heads[:, v].sum((1, 2)).mean()) < 1e-3
        best = f"{row['phase']}_L{row['layer']}_attn_vis_max.jpg"
        head = f"L{row['layer']}_{row['phase']}_heads/head_{row['most_active_head']:02d}.jpg"
        assert (out / best).read_bytes() == (out / head).read_bytes()
    assert set(of_words(maps["tokens"], ["puck"])["puck"].views) == set(policy.spec.views)
    assert (out / "config.yaml").exists() and (out / "run.json").exists()
    assert "most active head" in capsys.readouterr().out


def test_a_frame_of_an_episode(scene, episode, policy, tmp_path, capsys):
    words = ["attn", "frame", "--policy", "p", "--episode", str(episode), "--phases", "prefix"]
    for frame in (0, 1):
        assert main([*words, "--frame", str(frame), "--layers", "-1", "--heads", "1", "--out", f"f{frame}"]) == 0
    assert json.loads((tmp_path / "f1/frame.json").read_text())["prompt"] == "push the puck"
    first, second = (load_maps(tmp_path / f"f{frame}/maps.npz")["prefix"] for frame in (0, 1))
    assert (first.layers, first.heads) == ((1,), (1,))
    assert not np.array_equal(first.maps, second.maps)
    for wrong, said in (
        (["--frame", "2"], "--frame 2: the episode has frames 0 to 1"),
        (["--camera", "middle"], "--camera: unknown value 'middle'; choices: left, right"),
        (["--state", "1"], "brings its own pictures"),
        (["--episode", "nowhere"], "no episode folder"),
    ):
        assert main([*words, *wrong, "--out", "x"]) == 1
        assert said in capsys.readouterr().err


def test_prompts_are_compared(scene, tmp_path, capsys):
    same, other = "push the puck, slowly", "open the drawer"
    assert main(["attn", "prompts", *scene, "--prompt", same, other, "--prompt", same, "--out", "two"]) == 0
    out = tmp_path / "two"
    document = json.loads((out / "prompts.json").read_text())
    assert document["prompts"] == [same, other, same]
    rows = {(r["phase"], r["layer"], *r["prompts"]): r for r in document["rows"]}
    assert len(rows) == 2 * 2 * 3
    maps = load_maps(out / "maps.npz")
    for (phase, layer, i, j), row in rows.items():
        if (i, j) == (0, 2):  # the same words: the same eyes and the same hands
            assert row["l2"] < 1e-3 and row["correlation"] > 0.999
        else:
            assert row["relative_l2"] > 0.01
        a, b = (maps[f"{phase}/{k}"].maps[layer].astype(np.float64) for k in (i, j))
        expected = np.sqrt(((a - b) ** 2).sum((1, 2, 3)))
        np.testing.assert_allclose(row["heads"]["l2"], expected, atol=2e-6)
        np.testing.assert_allclose(row["l2"], expected.mean(), atol=2e-6)
    assert document["action_rms"]["0-2"] < 1e-5 and set(document["action_rms"]) == {"0-1", "0-2", "1-2"}
    pictures = {
        *(f"difference_{i}_{j}.jpg" for i, j in ((0, 1), (0, 2), (1, 2))),
        *(f"prompt_{i}.jpg" for i in range(3)),
    }
    drawn = {path.parent.relative_to(out).as_posix() for path in out.rglob("*.jpg")}
    kinds = [(layer, phase) for layer in (0, 1) for phase in ("prefix", "suffix")]
    heads = {f"L{layer}_{phase}_heads/head_{head:02d}" for layer, phase in kinds for head in (0, 1)}
    assert drawn == {f"L{layer}_{phase}_max" for layer, phase in kinds} | heads
    assert all({path.name for path in (out / folder).iterdir()} == pictures for folder in drawn)
    assert "do the words steer the eyes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["frame", "--prompt", "push it", "--tokens", "red"],
            "the prompt has no word 'red'; its words: task, push, it",
        ),
        (["frame", "--prompt", "push it", "--layers", "2"], "the backbone has layers 0 to 1 (2 layers)"),
        (["frame", "--prompt", "push it", "--heads", "2"], "the layers have heads 0 to 1 (2 heads)"),
        (
            ["frame", "--prompt", "push it", "--phases", "sufix"],
            "--phases: expected",
        ),
        (["frame", "--prompt", "push it", "--activity", "mass"], "unknown activity 'mass'; choices: entropy, variance"),
        (["frame", "--prompt", "push it", "--colormap", "jett"], "unknown colour map 'jett'"),
        (["frame"], "--prompt: expected an instruction, got none"),
        (["frame", "--prompt", "push", "--tokens", "push", "--phases", "suffix"], "add prefix to --phases"),
        (["prompts", "--prompt", "push it"], "expected two or more instructions"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_picture(scene, tmp_path, capsys, words, said):
    verb, *rest = words
    assert main(["attn", verb, *scene, *rest, "--out", "x"]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("x/**/*.jpg"))
