import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from foveate.cli.main import main
from foveate.data.droid.writer import DroidWriter
from foveate.testing.golden import REPO

CAMERAS = ("corner", "gripperPOV")
SMALL = ["--size", "160,120", "--layers", "0,2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two short recordings, as `foveate eval sim --record droid` leaves them, and a bad one."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for outcome, rows in (("success", 9), ("failure", 5)):
        episode = DroidWriter(root).begin(CAMERAS)
        for i in range(rows):
            images = {view: rng.integers(0, 255, (64, 64, 3)).astype(np.uint8) for view in CAMERAS}
            episode.add(images, np.array([0.01 * i, 0.6, 0.2, 1.0]), np.zeros(4))
        episode.finish(outcome, "push the puck", 80.0, "eef_xyz+gripper", {})
    return root


def folders(root, name="pi05.md"):
    return sorted(path.parent for path in root.glob(f"*/*/*/{name}"))


@pytest.fixture(scope="module")
def results(data):
    out = data.parent / "results"
    argv = ["attn", "episodes", str(data), "--policy", "metaworld_tiny", "--out", str(out), *SMALL]
    assert main([*argv, "--video_out", str(out / "videos"), "--phases", "prefix,suffix"]) == 0
    return out


def test_episodes_of_a_real_policy(results, capsys):
    first, second = folders(results)
    assert [p.name for p in sorted(second.iterdir()) if p.is_dir()] == ["00000", "00008"]
    pictures = sorted(path.relative_to(first / "00000").as_posix() for path in first.glob("00000/**/*.jpg"))
    assert len(pictures) == 2 * 2 * (1 + 4) and "suffix_L2_attn_vis_max.jpg" in pictures
    with np.load(second / "maps.npz") as maps:
        prefix, valid = maps["prefix/maps"], maps["prefix/valid"]
        about = json.loads(str(maps["about"]))
    # All three layers are kept, although two are drawn: [keyframe, layer, head, view, row, column].
    assert prefix.shape == (2, 3, 4, 2, 8, 8) and prefix.dtype == np.float16 and valid.all()
    # Attention of the text over the pictures: its mass is a share of 1.
    mass = prefix.astype(float).sum((3, 4, 5))
    assert (mass > 0.01).all() and (mass <= 1.001).all()
    assert about["policy"] == "metaworld_tiny" and about["keyframes"] == [0, 8]
    assert yaml.safe_load((results / "config.yaml").read_text())["keyframe_interval"] == 8
    assert (results / "videos").joinpath(*second.parts[-3:], "L02_suffix_max.webm").exists()


def test_the_same_command_again_skips_and_another_one_is_refused(data, results, capsys):
    argv = ["attn", "episodes", str(data), "--policy", "metaworld_tiny", "--out", str(results), *SMALL]
    argv += ["--phases", "prefix,suffix", "--video_out", str(results / "videos")]
    stamps = {path: path.stat().st_mtime_ns for path in results.rglob("*.jpg")}
    assert main([*argv, "--workers", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.jpg")} == stamps
    assert [e["status"] for e in json.loads((results / "episodes.json").read_text())] == ["skipped"] * 2
    assert main([*argv, "--keyframe_interval", "4"]) == 1
    assert "keyframe_interval: 8 there, 4 now" in capsys.readouterr().err


def test_results_that_were_moved_go_on(data, results, tmp_path, capsys):
    moved = shutil.copytree(results, tmp_path / "moved")
    argv = ["attn", "episodes", str(data), "--policy", "metaworld_tiny", "--out", str(moved), *SMALL]
    argv += ["--phases", "prefix,suffix", "--video_out"]
    assert main([*argv, str(moved / "x" / ".." / "videos")]) == 0
    assert [e["status"] for e in json.loads((moved / "episodes.json").read_text())] == ["skipped"] * 2
    assert main([*argv, str(tmp_path / "films")]) == 1
    assert "video_out: " in capsys.readouterr().err


def test_render_and_video_need_neither_model_nor_torch(results, tmp_path):
    code = "import sys; from foveate.cli.main import main; status = main(sys.argv[1:]); "
    code += "exit(9 if 'torch' in sys.modules else status)"
    render = ["attn", "render", str(results), "--out", str(tmp_path / "other"), "--layers", "1", "--heads", "3"]
    film = ["attn", "video", str(tmp_path / "other"), "--video_out", str(tmp_path / "films"), "--format", "mp4"]
    for argv in ([*render, "--colormap", "gray", "--size", "200,150"], film):
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, cwd=REPO)
        assert done.returncode == 0, done.stderr + done.stdout
    key = Path(*folders(tmp_path / "other")[1].parts[-3:])
    assert sorted(p.name for p in (tmp_path / "films" / key).iterdir()) == [
        "L01_prefix_max.mp4",
        "L01_suffix_max.mp4",
        "L1",
    ]


@pytest.mark.slow
def test_a_killed_command_goes_on(data, results, tmp_path):
    """kill -9 of the whole command, with the policy; what comes out in the end is what one run gives."""
    partial = tmp_path / "out" / ".partial"
    argv = ["attn", "episodes", str(data), "--policy", "metaworld_tiny", "--out", str(tmp_path / "out"), *SMALL]
    argv += ["--phases", "prefix,suffix", "--video_out", str(tmp_path / "videos")]
    for delay in (0.0, 0.4, 0.9):
        child = subprocess.Popen([sys.executable, "-m", "foveate", *argv], cwd=REPO, stdout=subprocess.DEVNULL)
        while child.poll() is None and not any(partial.glob("*")):
            time.sleep(0.01)
        time.sleep(delay)
        child.kill()
        child.wait()
        for folder in folders(tmp_path / "out", "maps.npz"):
            assert (folder / "pi05.md").exists()
    assert main(argv) == 0
    for ours, theirs in zip(folders(tmp_path / "out"), folders(results), strict=True):
        names = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*")) for f in (ours, theirs)]
        assert names[0] == names[1]
        assert (ours / "00000/prefix_L2_attn_vis_max.jpg").read_bytes() == (
            theirs / "00000/prefix_L2_attn_vis_max.jpg"
        ).read_bytes()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--layers", "1,4,5"], "layer 4 does not exist; the model has 3 layers, 0 to 2"),
        (["--layers", "0", "--heads", "9"], "head 9 does not exist; the model has 4 heads, 0 to 3"),
        (["--layers", "0", "--camera", "right"], "no pictures of varied_camera_2"),
        (["--camera", "middle"], "unknown camera 'middle'"),
        (["--phases", "infix"], "unknown phase 'infix'"),
        (["--workers", "many"], "expected a number of at least 1, or ray, got 'many'"),
        (["--layers", "0", "--colormap", "jett"], "did you mean 'jet'"),
    ],
)
def test_errors(data, tmp_path, capsys, argv, text):
    argv = ["attn", "episodes", str(data), "--policy", "metaworld_tiny", "--out", str(tmp_path / "out"), *argv]
    assert main([*argv, "--video_out", "none"]) == 1
    said = capsys.readouterr()
    assert text in " ".join((said.err + said.out).split())


def test_a_root_without_episodes(tmp_path, capsys):
    assert main(["attn", "episodes", str(tmp_path), "--policy", "metaworld_tiny"]) == 1
    assert "no episode in it; expected success/<date>/<episode>/" in capsys.readouterr().err
    assert main(["attn", "render", str(tmp_path)]) == 1
    assert main(["attn", "video", str(tmp_path)]) == 1


def test_ray_is_named_where_it_is_missing(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    argv = ["attn", "episodes", str(data), "--policy", "metaworld_tiny", "--out", str(tmp_path), "--workers", "ray"]
    assert main([*argv, *SMALL]) == 1
    assert 'pip install "foveate[ray]"' in capsys.readouterr().err


@pytest.mark.slow
def test_ray_makes_the_same_files(data, results, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (pip install .[ray])")
    argv = ["attn", "episodes", str(data), "--policy", "metaworld_tiny", "--out", str(tmp_path), "--workers", "ray"]
    assert main([*argv, *SMALL, "--phases", "prefix,suffix", "--video_out", "none"]) == 0
    assert not Path("none").exists()
    for ours, theirs in zip(folders(tmp_path), folders(results), strict=True):
        assert ours.parts[-3:] == theirs.parts[-3:]
        with np.load(ours / "maps.npz") as a, np.load(theirs / "maps.npz") as b:
            # Ray gives each worker one thread, which sums in another order: one step of float16.
            np.testing.assert_allclose(a["suffix/maps"], b["suffix/maps"], rtol=2e-3, atol=1e-6)
