"""The pipeline on small synthetic episodes, with maps made up instead of a model."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from foveate.data.droid.reader import Episode, find_episodes
from foveate.data.droid.writer import DroidWriter
from foveate.errors import FoveateError
from foveate.studies.attention import pipeline
from foveate.studies.attention import redraw as redraw_module
from foveate.studies.attention.archive import MAPS, EpisodeMaps
from foveate.studies.attention.clips import Filming, clips_of, film
from foveate.studies.attention.pictures import Drawing
from foveate.studies.attention.pipeline import MARKER, PARTIAL, Pipeline, Plan, Reading
from foveate.studies.attention.redraw import (
    RenderConfig,
    VideoConfig,
    film_all,
    pictured_episodes,
    rank_over,
    redraw,
    render,
    stored_episodes,
    video,
)
from foveate.testing.faults import UNEXPECTED
from foveate.types import AttentionMaps
from foveate.util.files import CannotWrite
from foveate.util.video import title_in

CAMERAS = {"corner": "varied_camera_1", "gripperPOV": "hand_camera"}
READING = Reading(
    cameras=CAMERAS,
    state=(("hand_position", 3), ("gripper_opening", 1)),
    views={"corner": "corner", "gripperPOV": "gripperPOV"},
    model_hw=(112, 112),
    policy="made up",
    layers=(0, 1, 2),
    heads=(0, 1),
)
PLAN = Plan(keyframe_interval=4, batch=2, drawing=Drawing(layers=(0, 2), size=(160, 120)))


def attend(places, observations):
    """Head 1 of every layer looks at one patch, the next one in each frame; head 0 everywhere; a view is absent."""
    found = []
    for _, frame in places:
        maps = np.full((3, 2, 3, 4, 4), 0.01, np.float16)
        maps[:, 1] = 0
        maps[:, 1, 0, (frame // 4) % 4, 2] = 0.5
        valid = np.ones((3, 4, 4), bool)
        valid[2] = False
        found.append(
            {"prefix": AttentionMaps("prefix", (0, 1, 2), (0, 1), ("corner", "gripperPOV", "none"), maps, valid)}
        )
    return found


def write(root, rows=10, outcome="success", size=(48, 64)):
    episode = DroidWriter(root).begin(tuple(CAMERAS))
    for i in range(rows):
        images = {view: np.full((*size, 3), 20 * i % 250, np.uint8) for view in CAMERAS}
        episode.add(images, np.array([0.1 * i, 0.6, 0.2, 0.75]), np.zeros(4))
    return episode.finish(outcome, "push the puck", 80.0, "eef_xyz+gripper", {})


def run(root, out, attend=attend, plan=PLAN, **options):
    return list(Pipeline(attend, READING, plan, out / "results", out / "videos", 2, **options)(find_episodes(root)))


def length(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_names_are_those_that_users_have(tmp_path):
    folder = write(tmp_path / "data")
    ticks = []
    (outcome,) = run(tmp_path / "data", tmp_path, on_keyframes=ticks.append)
    assert outcome.status == "done" and outcome.episode == f"success/{folder.parent.name}/{folder.name}"
    assert ticks == [2, 1]
    results = tmp_path / "results" / outcome.episode
    assert sorted(p.name for p in results.iterdir()) == ["00000", "00004", "00008", "heads.json", MAPS, MARKER]
    summaries = ["prefix_L0_attn_vis_max.jpg", "prefix_L2_attn_vis_max.jpg"]
    assert sorted(p.name for p in (results / "00004").iterdir()) == ["L0_prefix_heads", "L2_prefix_heads", *summaries]
    heads = results / "00004" / "L2_prefix_heads"
    assert sorted(p.name for p in heads.iterdir()) == ["head_00.jpg", "head_01.jpg"]
    # The most active head is head 1.
    assert (results / "00004" / summaries[1]).read_bytes() == (heads / "head_01.jpg").read_bytes()
    marker = (results / MARKER).read_text()
    for line in ("Outcome: success", "Total frames: 10", "Keyframes: [0, 4, 8]", f"Episode: {folder.name}"):
        assert line in marker
    videos = tmp_path / "videos" / outcome.episode
    assert sorted(p.relative_to(videos).as_posix() for p in videos.rglob("*.*")) == [
        "L0/H00_prefix.webm", "L0/H01_prefix.webm", "L00_prefix_max.webm", "L02_prefix_max.webm",
        "L2/H00_prefix.webm", "L2/H01_prefix.webm", "instruction.txt",
    ]  # fmt: skip
    assert length(videos / "L02_prefix_max.webm") == 3
    assert (videos / "instruction.txt").read_text() == "push the puck\n"
    ranking = json.loads((results / "heads.json").read_text())["prefix"]
    assert [(r["head"], r["first"]) for r in ranking[:3]] == [(1, 1.0)] * 3


def test_pictures_show_the_map_of_their_frame(tmp_path):
    write(tmp_path / "data")
    (outcome,) = run(tmp_path / "data", tmp_path)
    for k, frame in enumerate((0, 4, 8)):
        path = tmp_path / "results" / outcome.episode / f"{frame:05d}" / "L0_prefix_heads" / "head_01.jpg"
        with Image.open(path) as picture:
            pixels = np.asarray(picture, int)
        red = pixels[..., 0] - pixels[..., 2]
        # The corner view is left; its picture of 64x48 is padded by half a patch row of 4 above and below.
        assert red[:, : pixels.shape[1] // 2].max() > 60, k


def test_maps_are_stored_and_drawn_again(tmp_path):
    write(tmp_path / "data")
    write(tmp_path / "data", outcome="failure", rows=5)
    outcomes = run(tmp_path / "data", tmp_path)
    results = tmp_path / "results"
    keys = stored_episodes(results)
    assert sorted(keys) == sorted(o.episode for o in outcomes) == sorted(pictured_episodes(results))
    stored = EpisodeMaps.load(results / keys[-1] / MAPS)
    assert stored.about.keyframes == (0, 4, 8) and stored.about.views == CAMERAS
    assert stored.maps["prefix"].dtype == np.float16 and stored.maps["prefix"].shape == (3, 3, 2, 2, 4, 4)
    np.testing.assert_array_equal(stored.at(4, "prefix").maps[1, 1, 0, 1], np.float16([0, 0, 0.5, 0]))
    # A layer that was not drawn at first, into another folder; then again: passed over.
    drawing = Drawing(layers=(1,), colormap="viridis", size=(200, 150))
    for status in ("done", "skipped"):
        again = list(redraw(keys, results, tmp_path / "data", tmp_path / "other", drawing))
        assert [o.status for o in again] == [status] * 2
    frame = tmp_path / "other" / keys[-1] / "00008"
    assert sorted(p.name for p in frame.iterdir()) == ["L1_prefix_heads", "prefix_L1_attn_vis_max.jpg"]
    # In place: the same picture as the pipeline drew.
    path = results / keys[-1] / "00004" / "prefix_L2_attn_vis_max.jpg"
    before = path.read_bytes()
    path.write_bytes(b"damaged")
    assert [o.status for o in redraw(keys, results, tmp_path / "data", results, PLAN.drawing)] == ["done"] * 2
    assert path.read_bytes() == before
    # A layer that is not stored.
    (failed, _) = redraw(keys, results, tmp_path / "data", results, Drawing(layers=(7,)))
    assert failed.status == "failed" and "layer 7: the maps hold 3 layers, 0, 1, 2" in failed.error
    assert rank_over(results, keys)["all"]["prefix"][0]["head"] == 1


@pytest.mark.parametrize("format", ["webm", "mp4", "avi"])
def test_videos_of_all_formats(tmp_path, format):
    write(tmp_path / "data")
    (outcome,) = run(tmp_path / "data", tmp_path, plan=Plan(4, 2, drawing=PLAN.drawing, filming=None))
    assert not (tmp_path / "videos").exists()
    results, out, filming = tmp_path / "results", tmp_path / "films", Filming(format, fps=5, burn_in=True)
    assert [o.status for o in film_all([outcome.episode], results, out, filming)] == ["done"]
    path = out / outcome.episode / "L2" / f"H01_prefix.{format}"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name in ("vp9", "libvpx-vp9", "h264", "mpeg4")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 3 and abs(float(stream.average_rate) - 5) < 0.01
    with Image.open(results / outcome.episode / "00000" / "L2_prefix_heads" / "head_01.jpg") as picture:
        drawn = np.asarray(picture, int)
    assert frames[0].shape[0] == drawn.shape[0] + 24 and np.abs(frames[0][: drawn.shape[0]] - drawn).mean() < 6
    assert frames[0][-24:].max() > 150  # the line burnt in
    # Videos that are newer than their pictures stay; a new picture makes its video again.
    assert [o.status for o in film_all([outcome.episode], results, out, filming)] == ["skipped"]
    before = {p: p.stat().st_mtime_ns for p in out.rglob(f"*.{format}")}
    fresh = results / outcome.episode / "00004" / "prefix_L0_attn_vis_max.jpg"
    os.utime(fresh, (time.time() + 5, time.time() + 5))
    assert [o.status for o in film_all([outcome.episode], results, out, filming)] == ["done"]
    assert [p.name for p, t in before.items() if p.stat().st_mtime_ns != t] == [f"L00_prefix_max.{format}"]


def moving(places, observations):
    """Head 0 leads in the first frame, head 1 in the others; the values halve from frame to frame."""
    found = []
    for _, frame in places:
        maps = np.zeros((3, 2, 3, 4, 4), np.float16)
        high, low = (0, 1) if frame == 0 else (1, 0)
        maps[:, high, 0, 1, 1] = 0.5 / 2 ** (frame // 4) if frame else 0.2
        maps[:, low, 0, 2, 2] = 0.1
        maps[:, :, 1] = 0.001
        valid = np.ones((3, 4, 4), bool)
        valid[2] = False
        found.append(
            {"prefix": AttentionMaps("prefix", (0, 1, 2), (0, 1), ("corner", "gripperPOV", "none"), maps, valid)}
        )
    return found


def film_frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def red_in(picture):
    """How red the reddest pixel of the left half is."""
    left = picture[30:-25, : picture.shape[1] // 2]
    return int((left[..., 0] - left[..., 2]).max())


@pytest.mark.parametrize("scale", ["episode", "frame"])
def test_a_film_has_one_scale_and_one_head_for_all_its_frames(tmp_path, scale):
    write(tmp_path / "data")
    plan = Plan(4, 2, drawing=Drawing(layers=(0,), size=(320, 240), smooth=False), filming=Filming(scale=scale))
    (outcome,) = run(tmp_path / "data", tmp_path, attend=moving, plan=plan)
    videos = tmp_path / "videos" / outcome.episode
    # Head 1 is the most active over the episode: 0.1, 0.25, 0.125; head 0 leads the first frame alone.
    assert title_in(videos / "L00_prefix_max.webm") == (
        f"L00_prefix_max: prefix layer 0 head 1, most active over the episode, one scale per {scale}, 4 fps"
    )
    first, middle, last = map(red_in, film_frames(videos / "L00_prefix_max.webm"))
    assert middle > 80, "the largest value of the episode is red"
    if scale == "frame":
        assert min(first, last) > 80
    else:
        assert max(first, last) < 60, "half of it and less is not"


def test_layers_heads_and_scale_of_videos_are_chosen_afterwards(tmp_path):
    write(tmp_path / "data")
    plan = Plan(4, 2, drawing=Drawing(layers=(0,), size=(320, 240), smooth=False), filming=None)
    run(tmp_path / "data", tmp_path, attend=moving, plan=plan)
    results, films = tmp_path / "results", tmp_path / "films"
    (results / "config.yaml").write_text(f"data_root: {tmp_path / 'data'}\nsize: [320, 240]\nsmooth: false\n")
    common = {"results": str(results), "video_out": str(films)}
    # A layer that was not drawn is filmed from its maps.
    (outcome,), _ = video(VideoConfig(**common, layers=(2,), heads=(1,)))
    assert outcome.status == "done"
    made = sorted(p.relative_to(films / outcome.episode).as_posix() for p in films.rglob("*.webm"))
    assert made == ["L02_prefix_max.webm", "L2/H01_prefix.webm"]
    assert red_in(film_frames(films / outcome.episode / made[0])[2]) < 60
    # Another scale is another film; the same again stays.
    for status in ("done", "skipped"):
        (outcome,), _ = video(VideoConfig(**common, layers=(2,), heads=(1,), scale="frame"))
        assert outcome.status == status
    assert red_in(film_frames(films / outcome.episode / made[0])[2]) > 80
    for wrong, said in (({"layers": (7,)}, "layer 7: the maps hold 3"), ({"heads": (5,)}, "head 5: the maps hold 2")):
        with pytest.raises(FoveateError, match=said):
            video(VideoConfig(**common, **wrong))
        with pytest.raises(FoveateError, match=said):
            render(RenderConfig(results=str(results), **wrong))


def test_pictures_are_drawn_on_one_scale_when_asked(tmp_path):
    write(tmp_path / "data")
    plan = Plan(4, 2, drawing=Drawing(layers=(0,), size=(320, 240)), filming=None)
    (outcome,) = run(tmp_path / "data", tmp_path, attend=moving, plan=plan)
    look = {"results": str(tmp_path / "results"), "data_root": str(tmp_path / "data"), "size": (320, 240)}
    reds = {}
    for scale in ("frame", "episode"):
        render(RenderConfig(**look, out=str(tmp_path / scale), layers=(0,), smooth=False, scale=scale))
        with Image.open(tmp_path / scale / outcome.episode / "00008/L0_prefix_heads/head_01.jpg") as picture:
            reds[scale] = red_in(np.asarray(picture, int))
    assert reds["frame"] > 80 and reds["episode"] < 60
    # Films of pictures that were drawn again look like them.
    (done,), _ = video(VideoConfig(results=str(tmp_path / "episode"), video_out=str(tmp_path / "films")))
    assert done.status == "done"
    assert title_in(tmp_path / "films" / done.episode / "L0/H01_prefix.webm").endswith("one scale per episode, 4 fps")


def test_bad_episodes_are_named_and_the_rest_go_on(tmp_path):
    data = tmp_path / "data"
    folders = [write(data, outcome=outcome) for outcome in ("success", "failure", "failure", "failure", "success")]
    (folders[1] / "recordings/frames/varied_camera_1/00004.jpg").unlink()
    whole = (folders[2] / "trajectory.h5").read_bytes()
    (folders[2] / "trajectory.h5").write_bytes(whole[: len(whole) // 2])
    (folders[3] / "recordings/frames/hand_camera/00008.jpg").write_bytes(b"\xff\xd8\xff no picture")
    outcomes = {o.episode.rpartition("/")[2]: o for o in run(data, tmp_path)}
    assert [outcomes[f.name].status for f in folders] == ["done", "failed", "failed", "failed", "done"]
    for folder, what in zip(
        folders[1:4], ("varied_camera_1/00004.jpg", "trajectory.h5", "hand_camera/00008.jpg"), strict=True
    ):
        assert folder.name in outcomes[folder.name].error and what in outcomes[folder.name].error
        assert not (tmp_path / "results" / outcomes[folder.name].episode).exists()
    assert not list((tmp_path / "results" / PARTIAL).glob("*"))
    # Mended, the same call makes what is missing, and nothing else.
    shutil_copy(folders[0], folders[1])
    again = {o.episode.rpartition("/")[2]: o.status for o in run(data, tmp_path)}
    assert [again[f.name] for f in folders] == ["skipped", "done", "failed", "failed", "skipped"]


@pytest.mark.parametrize("where", ["reads", "attends", "draws", "films", "saves"])
@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_costs_one_episode(tmp_path, monkeypatch, where, error):
    keys = sorted(str(write(tmp_path / "data", rows=5).relative_to(tmp_path / "data")) for _ in range(3))
    module, name = {
        "reads": (Episode, "observations"), "attends": (None, ""), "draws": (pipeline, "draw_keyframe"),
        "films": (pipeline, "film_episode"), "saves": (EpisodeMaps, "save"),
    }[where]  # fmt: skip

    def odd(usual):
        def call(*arguments, **options):
            if keys[1] in str(arguments) or keys[1].replace("/", "__") in str(arguments):
                raise error
            return usual(*arguments, **options)

        return call

    if module is not None:
        monkeypatch.setattr(module, name, odd(getattr(module, name)))
    outcomes = {o.episode: o for o in run(tmp_path / "data", tmp_path, odd(attend) if module is None else attend)}
    assert [outcomes[key].status for key in keys] == ["done", "failed", "done"]
    assert outcomes[keys[1]].error.startswith(f"{keys[1]}: {type(error).__name__}")
    assert not (tmp_path / "results" / keys[1]).exists()
    assert not list((tmp_path / "results" / PARTIAL).glob("*"))


@pytest.mark.parametrize("where", ["draw_keyframe", "film_episode"])
def test_a_full_disk_ends_the_work_and_leaves_no_half_episode(tmp_path, monkeypatch, where):
    for _ in range(3):
        write(tmp_path / "data", rows=5)

    def full(*arguments, **options):
        raise av.error.OSError(28, "No space left on device", "some.webm")

    monkeypatch.setattr(pipeline, where, full)
    with pytest.raises(CannotWrite, match=r"some\.webm: the disk is full; free some space"):
        run(tmp_path / "data", tmp_path)
    assert not list(tmp_path.rglob(MARKER)) and not list((tmp_path / "results" / PARTIAL).glob("*"))


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_costs_one_redrawn_or_filmed_episode(tmp_path, monkeypatch, error):
    keys = sorted(str(write(tmp_path / "data", rows=5).relative_to(tmp_path / "data")) for _ in range(2))
    run(tmp_path / "data", tmp_path)

    def odd(folder, *arguments, **options):
        if keys[0] in str(folder) or keys[0].replace("/", "__") in str(folder):
            raise error
        return folder

    monkeypatch.setattr(redraw_module, "draw_keyframe", odd)
    monkeypatch.setattr(redraw_module, "film", odd)
    again = list(redraw(keys, tmp_path / "results", tmp_path / "data", tmp_path / "results", PLAN.drawing))
    filmed = list(film_all(keys, tmp_path / "results", tmp_path / "other", Filming()))
    for first, second in (again, filmed):
        assert (first.status, second.status) == ("failed", "done") and type(error).__name__ in first.error


def shutil_copy(source, target):
    name = "recordings/frames/varied_camera_1/00004.jpg"
    (target / name).write_bytes((source / name).read_bytes())


def test_a_pictureless_folder_cannot_be_filmed(tmp_path):
    with pytest.raises(FoveateError, match="no attention pictures"):
        clips_of(tmp_path)
    with pytest.raises(FoveateError, match="no such folder"):
        stored_episodes(tmp_path / "no")
    with pytest.raises(FoveateError, match="no finished episode"):
        pictured_episodes(tmp_path)
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000" / "prefix_L1_attn_vis_max.jpg").write_bytes(b"x")
    (clip,) = clips_of(tmp_path)
    with pytest.raises(FoveateError, match="not a readable picture"):
        film(tmp_path, tmp_path / "out", clip, Filming())
    assert not list((tmp_path / "out").glob("*.webm"))


CHILD = """
import sys
from pathlib import Path
from foveate.studies.attention.pipeline_test import run
for outcome in run(Path(sys.argv[1]), Path(sys.argv[2])):
    assert outcome.status != "failed", outcome
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again(tmp_path):
    """kill -9 at random moments: nothing half done is ever visible, nothing that is done is done again."""
    data, partial, rng = tmp_path / "data", tmp_path / "results" / PARTIAL, random.Random(0)
    for i in range(8):
        write(data, rows=14, outcome="success" if i % 2 else "failure")
    keys = [episode.key for episode in find_episodes(data)]
    finished: dict[str, int] = {}
    left_behind = 0
    for attempt in range(5):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(data), str(tmp_path)], cwd=REPO)
        if attempt < 4:
            stop_at_work(child, partial, entries=rng.randint(1, 6), delay=rng.uniform(0, 0.03))
            child.send_signal(signal.SIGKILL)
        status = child.wait()
        assert status == (0 if attempt == 4 else status)
        left_behind += any(partial.glob("*"))
        for key in keys:
            folder = tmp_path / "results" / key
            if folder.exists():
                check_whole(tmp_path, key)
                stamp = (folder / MARKER).stat().st_mtime_ns
                assert finished.setdefault(key, stamp) == stamp, "an episode was done twice"
    assert left_behind >= 2  # it was killed in the middle, not between
    assert set(finished) == set(keys)
    assert not any(partial.glob("*"))
    assert not list(tmp_path.rglob("*.draft*"))


REPO = Path(__file__).resolve().parents[3]


def entries_of(partial):
    """What is in the partial folders; one that is done, and renamed meanwhile, has nothing there."""
    found = set()
    for folder in partial.glob("*"):
        with suppress(FileNotFoundError):
            found.update(folder.iterdir())
    return found


def stop_at_work(child, partial, entries, delay):
    """Stop the process in the middle of an episode, a little after it has begun on some entries of partial folders; or
    return when it has ended by itself."""
    before, seen = entries_of(partial), set()
    while child.poll() is None and len(seen) < entries:
        seen |= entries_of(partial) - before
        time.sleep(0.001)
    time.sleep(delay)
    while child.poll() is None:
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if any(partial.glob("*")):
            return
        child.send_signal(signal.SIGCONT)  # it is between two episodes
        time.sleep(0.001)


def check_whole(root, key):
    folder, videos = root / "results" / key, root / "videos" / key
    assert (folder / MARKER).exists()
    for frame in (0, 4, 8, 12):
        pictures = list((folder / f"{frame:05d}").rglob("*.jpg"))
        assert len(pictures) == 6
        for path in pictures:
            with Image.open(path) as picture:
                picture.load()
    assert EpisodeMaps.load(folder / MAPS).about.keyframes == (0, 4, 8, 12)
    assert [length(path) for path in videos.rglob("*.webm")] == [4] * 6


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_episodes(tmp_path):
    data = tmp_path / "data"
    one = write(data, size=(120, 160))
    for i in range(99):
        copy = one.with_name(f"{one.name}_{i:02d}")
        os.symlink(one, copy)
    sizes = []
    pipeline = Pipeline(attend, READING, PLAN, tmp_path / "results", tmp_path / "videos", 2)
    for outcome in pipeline(find_episodes(data)):
        assert outcome.status == "done"
        sizes.append(resident_mb())
    assert len(sizes) == 100
    print("resident MB:", {n: round(sizes[n - 1]) for n in (1, 10, 25, 50, 75, 100)})
    assert sizes[99] < sizes[9] + 25


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
