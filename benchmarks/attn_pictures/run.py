"""Attention pictures per second on one core, against matplotlib in the same run; and the videos of one episode.

    taskset -c 0 python benchmarks/attn_pictures/run.py pictures --rounds 15
    python benchmarks/attn_pictures/run.py videos --threads 2

`pictures`: enlarge the map, colour it, blend it with the camera's picture, encode a JPEG (quality 85), write the file.
The cases are interleaved round by round in a shuffled order; medians and the middle half of the rounds, of wall-clock
time and of processor time (what one core would take that nobody else uses). Matplotlib draws the same thing the way it
is usually done: `imshow` twice with `alpha`, title and colour bar, `savefig` to JPEG at the same size.

`videos`: 23 keyframes x 5 layers x (1 summary + 8 heads) of two 1280x720 cameras are drawn, then filmed from their maps
on one scale per layer, as `foveate attn episodes` does: 45 VP9 videos.
Both write their part of results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from foveate.studies.attention.archive import About, EpisodeMaps
from foveate.studies.attention.clips import Filming, clips_of, film
from foveate.studies.attention.pictures import Drawing, draw_keyframe
from foveate.studies.attention.reel import Reel
from foveate.testing.runs import picture
from foveate.types import AttentionMaps
from foveate.viz.attention import Sheet, Style, save_jpeg

HERE = Path(__file__).parent
LAYERS, HEADS, KEYFRAMES = (1, 4, 5, 7, 10), tuple(range(8)), 23
BARE = Style(names=False, colorbar=False)


def moment(views: dict[str, tuple[int, int]], seed: int = 0) -> tuple[dict[str, np.ndarray], AttentionMaps]:
    """Pictures [H, W] of the views, and maps of 5 layers x 8 heads over grids of 16 x 16."""
    rng = np.random.default_rng(seed)
    images = {view: picture(rng, (0.4, 0.6), *hw) for view, hw in views.items()}
    y, x = np.mgrid[0:16, 0:16]
    centres = rng.uniform(3, 12, (len(LAYERS), len(HEADS), len(views), 2, 1, 1))
    maps = 0.02 * np.exp(-((y - centres[..., 0, :, :]) ** 2 + (x - centres[..., 1, :, :]) ** 2) / 6)
    maps = (maps + rng.uniform(0, 0.002, maps.shape)).astype(np.float16)
    return images, AttentionMaps("prefix", LAYERS, HEADS, tuple(views), maps, np.ones((len(views), 16, 16), bool))


def foveate_case(views: dict[str, tuple[int, int]], style: Style, title: str, out: Path) -> Callable[[], int]:
    """One keyframe: the sheet is made once, then 40 heads; returns the number of pictures."""
    images, maps = moment(views)

    def draw() -> int:
        sheet = Sheet(images, (224, 224), title=title, style=style)
        for i, layer in enumerate(LAYERS):
            for j in HEADS:
                grids = dict(zip(views, maps.maps[i, j], strict=True))
                save_jpeg(out / "ours.jpg", sheet.draw(grids, f"prefix L{layer} H{j}" if title else ""))
        return len(LAYERS) * len(HEADS)

    draw()
    return draw


def matplotlib_case(views: dict[str, tuple[int, int]], title: str, out: Path) -> Callable[[], int]:
    """The same keyframe's first two heads."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    images, maps = moment(views)

    def draw() -> int:
        for j in range(2):
            figure, axes = plt.subplots(1, len(views), figsize=(6.4, 4.8), dpi=100, squeeze=False)
            for v, (view, image) in enumerate(images.items()):
                height, width = image.shape[:2]
                axes[0, v].imshow(image)
                heat = axes[0, v].imshow(
                    maps.maps[0, j, v].astype(np.float32), cmap="turbo", alpha=0.5, interpolation="bilinear",
                    extent=(0, width, height, 0),
                )  # fmt: skip
                axes[0, v].axis("off")
                if title:
                    axes[0, v].set_title(view, fontsize=9)
            if title:
                figure.suptitle(title, fontsize=10)
                figure.colorbar(heat, ax=list(axes[0]))
            figure.savefig(out / "matplotlib.jpg", pil_kwargs={"quality": 85})
            plt.close(figure)
        return 2

    draw()
    return draw


def pictures(rounds: int, seed: int = 0) -> list[dict[str, Any]]:
    full, two = {"camera": (480, 640)}, {"exterior": (720, 1280), "wrist": (720, 1280)}
    prompt = "place cube with G into the purple bowl"
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        out = Path(folder)
        cases = {
            "foveate, 640x480 filled by one view": foveate_case(full, BARE, "", out),
            "foveate, one view, title, bar": foveate_case(full, Style(), prompt, out),
            "foveate, two views of 1280x720": foveate_case(two, Style(), prompt, out),
            "matplotlib, 640x480 filled by one view": matplotlib_case(full, "", out),
            "matplotlib, two views of 1280x720": matplotlib_case(two, prompt, out),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        order, rng = list(cases), random.Random(seed)
        for _ in range(rounds):
            rng.shuffle(order)
            for name in order:
                wall, cpu = time.perf_counter(), time.process_time()
                count = cases[name]()
                times[name].append(((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))
    rows = []
    for name in cases:
        wall, cpu = (np.array(column) * 1e3 for column in zip(*times[name], strict=True))
        row: dict[str, Any] = {"case": name}
        for kind, values in (("wall", wall), ("cpu", cpu)):
            low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
            row |= {f"{kind}_ms": round(middle, 2), f"{kind}_ms_middle_half": [round(low, 2), round(high, 2)]}
            row[f"{kind}_per_s"] = round(1000 / middle, 1)
        rows.append(row)
    return rows


def videos(threads: int) -> dict[str, Any]:
    """Draw one episode and film it."""
    views = {"exterior": (720, 1280), "wrist": (720, 1280)}
    moments = [moment(views, k) for k in range(KEYFRAMES)]
    frames = tuple(8 * k for k in range(KEYFRAMES))
    prompt = "place cube with G into the purple bowl"
    about = About("success/day/one", "success", prompt, 8 * KEYFRAMES, frames, LAYERS, HEADS, dict.fromkeys(views, ""),
                  (224, 224), "made up", 0)  # fmt: skip
    stored, drawing = EpisodeMaps.gather(about, [{"prefix": maps} for _, maps in moments]), Drawing()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        results, out = Path(folder) / "results", Path(folder) / "videos"
        begun, cpu = time.perf_counter(), time.process_time()

        def draw(frame: int, images: dict[str, np.ndarray], maps: AttentionMaps) -> None:
            place = results / f"{frame:05d}"
            draw_keyframe(place, images, {"prefix": maps}, drawing, model_hw=(224, 224), title=prompt)

        for job in [pool.submit(draw, frame, *here) for frame, here in zip(frames, moments, strict=True)]:
            job.result()
        drawn, drawn_cpu = time.perf_counter(), time.process_time()
        reel = Reel(stored, [images for images, _ in moments], drawing)
        paths = list(pool.map(lambda clip: film(results, out, clip, Filming(), reel), clips_of(results)))
        filmed = time.perf_counter()
        pictures = list(results.rglob("*.jpg"))
        return {
            "threads": threads,
            "pictures": len(pictures),
            "mean_picture_kb": round(sum(path.stat().st_size for path in pictures) / len(pictures) / 1e3),
            "draw_wall_s": round(drawn - begun, 2),
            "draw_cpu_s": round(drawn_cpu - cpu, 2),
            "videos": len(paths),
            "videos_wall_s": round(filmed - drawn, 2),
            "videos_cpu_s": round(time.process_time() - drawn_cpu, 2),
            "mean_video_kb": round(sum(path.stat().st_size for path in paths) / len(paths) / 1e3),
        }


def machine() -> dict[str, Any]:
    name = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")), platform.machine())  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    return {"date": date.today().isoformat(), "cpu": name, "cores": cores, "load_before": round(os.getloadavg()[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pictures", "videos"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    facts = machine()
    measured: Any = pictures(args.rounds) if args.what == "pictures" else videos(args.threads)
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    facts["load_after"] = round(os.getloadavg()[0], 1)
    results[args.what] = {"machine": facts, "measured": measured}
    path.write_text(json.dumps(results, indent=1) + "\n")
    for row in measured if isinstance(measured, list) else [measured]:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(json.dumps(results[args.what]))


if __name__ == "__main__":
    main()
