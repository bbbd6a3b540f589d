"""The verb on a small tree with made-up maps: no model is loaded."""

import json

import numpy as np
import pytest
from PIL import Image

import foveate.policy
from foveate.cli.attn.fidelity_test import write_tree
from foveate.cli.main import main
from foveate.data.droid.reader import find_episodes
from foveate.studies.attention import objects as module
from foveate.studies.attention.archive import MAPS, About, EpisodeMaps
from foveate.testing.faults import UNEXPECTED
from foveate.training.policy.untrained import TINY, random_policy

CAMERAS = {"corner": "varied_camera_1", "gripperPOV": "hand_camera"}
GRID, HW = (4, 4), (48, 64)


def write_maps(root, episode):
    """Layer 1 looks at the cube in the upper left quarter, in a success more than in a failure; layer 5 is blind."""
    maps = np.full((2, 2, 2, 2, *GRID), 0.01, np.float16)
    maps[:, 0, :, :, 1, :2] = 0.3 if episode.outcome == "success" else 0.1
    about = About(
        episode.key, episode.outcome, "push the puck", 9, (0, 8), (1, 5), (0, 1), CAMERAS, (56, 56), "tiny", 0
    )
    path = root / episode.key / MAPS
    path.parent.mkdir(parents=True)
    EpisodeMaps(about, {"prefix": maps}, {"prefix": np.ones((2, 2, *GRID), bool)}).save(path)


def write_masks(root, cube=(slice(0, 24), slice(0, 32)), hw=HW):
    for camera in CAMERAS.values():
        (root / camera).mkdir(parents=True)
        for frame in (0, 8):
            labels = np.zeros(hw, np.uint8)
            labels[cube] = 1
            labels[-8:, -8:] = 2
            Image.fromarray(labels).save(root / camera / f"{frame:05d}.png")
    (root / "objects.json").write_text('{"1": "cube", "2": "robot"}')


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "tree")
    for episode in find_episodes("tree"):
        write_maps(tmp_path / "results", episode)
        write_masks(episode.folder / "recordings/masks")
    return tmp_path


def objects(*words):
    return main(["attn", "objects", *words, "--maps", "results"])


def test_one_episode_gives_pictures_videos_and_numbers(tree, capsys):
    (episode, _) = find_episodes("tree")
    assert objects(str(episode.folder), "--out", "out") == 0
    folder = tree / "out" / episode.key
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["objects"] == ["cube"] and metrics["pictures"] == 4 and metrics["without_masks"] == 0
    by = {(r["view"], r["object"]): r for r in metrics["means"]}
    row = by["corner", "cube"]
    # 48 x 64 in 56 x 56: 42 rows of picture from row 7 on, patches of 14: the first row of patches shows 8 source rows,
    # the second and third 16 each, the last 8; columns 16 each. The cube fills patch rows 0 and 1, columns 0 and 1.
    bright, dim = 0.3, 0.01
    on = 2 * 16 * 8 * dim + 2 * 16 * 16 * bright
    mass = on + (48 * 64 - 32 * 24) * dim
    assert row["overlap"]["layer"] == pytest.approx([on / mass, 32 * 24 / (48 * 64)], rel=2e-3)
    assert row["iou"]["layer"][0] == pytest.approx(2 * 16 * 16 / (32 * 24), rel=1e-4)
    assert row["concentration"]["layer"][1] == pytest.approx(1.0, rel=1e-3)
    assert sorted(p.name for p in (folder / "00008").iterdir()) == ["prefix_L1_objects.jpg", "prefix_L5_objects.jpg"]
    assert (folder / "L01_prefix_objects.webm").stat().st_size > 200
    assert (tree / "out/objects.png").exists()
    assert "1 episode done" in capsys.readouterr().out


def test_a_tree_gives_the_aggregate_and_goes_on(tree, capsys):
    assert objects("tree", "--out", "out") == 0
    assert not list((tree / "out").rglob("*.webm")), "pictures are for one episode, unless asked for"
    result = json.loads((tree / "out/objects.json").read_text())
    first = next(r for r in result["rows"] if (r["view"], r["metric"], r["layer"]) == ("corner", "overlap", 1))
    assert first["success"]["count"] == first["failure"]["count"] == 1
    assert first["success"]["mean"] > first["failure"]["mean"] > first["shuffled"]
    assert first["p"] == 1.0, "two divisions of two episodes are equally far apart"
    assert "| 1 |" in (tree / "out/objects.md").read_text()
    capsys.readouterr()
    assert objects("tree", "--out", "out") == 0
    assert "2 episodes skipped" in capsys.readouterr().out
    assert objects("tree", "--out", "out", "--objects", "robot") == 1
    assert "objects: [] there, ['robot'] now" in capsys.readouterr().err
    assert objects("tree", "--out", "robot", "--objects", "robot", "--target", "robot", "--pictures") == 0
    assert len(list((tree / "robot").rglob("*.webm"))) == 4


def test_masks_of_another_place_or_size(tree, capsys):
    good, bad = find_episodes("tree")
    write_masks(tree / "other" / good.key, cube=(slice(24, 48), slice(0, 32)))
    write_masks(tree / "other" / bad.key, hw=(24, 32))
    assert objects("tree", "--out", "out", "--masks", "other") == 1
    said = capsys.readouterr().out
    assert "1 episode failed" in said and "24 x 32 pixels" in said and "the frame 48 x 64" in said
    assert objects(str(bad.folder), "--out", "one", "--masks", f"other/{bad.key}") == 1
    assert "a stretched mask lies" in capsys.readouterr().err


def test_maps_may_be_computed(tree, monkeypatch):
    (episode, _) = find_episodes("tree")
    with random_policy(TINY, None) as policy:
        monkeypatch.setattr(foveate.policy.LoadOptions, "load", lambda self: policy)
        words = [str(episode.folder), "--policy", "p", "--layers", "1", "--pictures", "false", "--out", "out"]
        assert main(["attn", "objects", *words]) == 0
    metrics = json.loads((tree / "out" / episode.key / "metrics.json").read_text())
    assert metrics["layers"] == [1] and metrics["heads"] == [0, 1] and metrics["pictures"] == 4
    assert 0 < metrics["means"][0]["overlap"]["layer"][0] < 1


def test_a_coco_file(tree):
    (episode, _) = find_episodes("tree")
    document = {
        "images": [{"id": 1, "file_name": "varied_camera_1/00000.jpg", "height": 48, "width": 64}],
        "categories": [{"id": 1, "name": "cube"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 32, 0, 32, 24, 0, 24]]}],
    }
    (tree / "masks.json").write_text(json.dumps(document))
    assert objects(str(episode.folder), "--out", "out", "--masks", "masks.json", "--views", "corner") == 0
    metrics = json.loads((tree / "out" / episode.key / "metrics.json").read_text())
    assert metrics["without_masks"] == 1 and [r["frame"] for r in metrics["frames"]] == [0, 0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tree", "--layers", "3"], "layer 3: the maps hold 2 layers, 1, 5"),
        (["tree", "--views", "wrist"], "unknown view of the maps 'wrist'"),
        (["tree", "--objects", "cup"], "no object of cup is in its masks; they hold cube, robot"),
        (["tree", "--masks", "none"], "no masks: neither"),
        (["empty"], "no episode in it"),
        (["tree", "--policy", "p"], "whose maps?"),
    ],
)
def test_mistakes(tree, capsys, words, said):
    (tree / "empty").mkdir()
    assert objects(*words, "--out", "out") == 1
    captured = capsys.readouterr()
    assert said in captured.err + " ".join(captured.out.split())


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_costs_one_episode(tree, monkeypatch, capsys, error):
    usual = module.measure_episode

    def odd(maps, episode, *arguments):
        if episode.outcome == "failure":
            raise error
        return usual(maps, episode, *arguments)

    monkeypatch.setattr(module, "measure_episode", odd)
    assert objects("tree", "--out", "out") == 1
    said = capsys.readouterr().out
    assert "1 episode done" in said and type(error).__name__ in said
    assert len(json.loads((tree / "out/objects.json").read_text())["episodes"]) == 1
