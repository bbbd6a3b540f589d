"""How long one waits for the viewer, in headless Chromium over made-up runs of 2,000 and 10,000 dumps.

    python benchmarks/viewer/run.py

open    from the navigation to the first picture that stands, in a fresh page each time
step    the slider moved by one inference, as with an arrow key held: the neighbour has been fetched ahead
jump    the slider moved to an inference that was not looked at before, in another place of the episode

Two views of 224 x 224, 16 x 16 patches each, score overlay. Writes results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from foveate.testing.runs import write_run
from foveate.tracing.tokens import write_token_log
from foveate.util.provenance import machine
from foveate.viz.viewer.run import ViewedRun
from foveate.viz.viewer.server import serve

HERE = Path(__file__).parent
TASKS, EPISODES, QUERIES = 2, 4, 50
VIEWS = 2
FIRST_PICTURE = """(() => {
  const look = () => {
    if (document.querySelector(".views canvas[aria-label]")) window.firstPicture = performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})();"""
MOVE = """([to, views]) => new Promise((resolve) => {
  const put = CanvasRenderingContext2D.prototype.putImageData;
  const began = performance.now();
  let drawn = 0;
  CanvasRenderingContext2D.prototype.putImageData = function (...given) {
    put.apply(this, given);
    if (this.canvas.closest(".views") && ++drawn === views) {
      CanvasRenderingContext2D.prototype.putImageData = put;
      requestAnimationFrame(() => resolve(performance.now() - began));
    }
  };
  const slider = document.getElementById("time");
  slider.value = to;
  slider.dispatchEvent(new Event("input"));
})"""


def grow(made: Path, large: Path, times: int) -> None:
    """The same episodes as further tasks, by hard links: names and logs are what the index is made of."""
    rows = [json.loads(line) for line in (made / "report/tokens.jsonl").read_text().splitlines()]
    ended = [json.loads(line) for line in (made / "episodes.jsonl").read_text().splitlines()]
    names = {row["task"]: row["task_id"] for row in rows}
    (large / "report").mkdir(parents=True)
    tokens, episodes = [], []
    for i in range(times):
        for kind in ("dumps", "images"):
            for task in sorted((made / kind).iterdir()):
                number = int(task.name[4:]) + i * TASKS
                shutil.copytree(task, large / kind / f"task{number:03d}", copy_function=os.link)
        for row in rows:
            number = row["task_id"] + i * TASKS
            dump = row["dump"].replace(f"task{row['task_id']:03d}", f"task{number:03d}")
            tokens.append({**row, "task_id": number, "task": f"{row['task']}-{i}", "dump": dump})
        for row in ended:
            extra = {"task_id": names[row["task"]] + i * TASKS}
            episodes.append({**row, "task": f"{row['task']}-{i}", "extra": extra})
    for name, lines in (("report/tokens.jsonl", tokens), ("episodes.jsonl", episodes)):
        (large / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def measure(page: Page, url: str, steps: int, rng: random.Random) -> dict[str, list[float]]:
    """One page: opened, then moved about in."""
    page.goto("about:blank")
    page.goto(f"{url}#episode={rng.randrange(TASKS)}.{rng.randrange(EPISODES)}&overlay=score")
    page.wait_for_selector("html[data-ready]", timeout=120_000)
    found = {"open": [page.evaluate("window.firstPicture")], "step": [], "jump": []}
    for n in range(1, steps):
        page.wait_for_timeout(60)  # no faster than a key repeats
        found["step"].append(page.evaluate(MOVE, [n, VIEWS]))
    fresh = list(range(steps + 2, QUERIES, 3))
    rng.shuffle(fresh)
    for n in fresh:
        page.wait_for_timeout(200)
        found["jump"].append(page.evaluate(MOVE, [n, VIEWS]))
    return found


def of(values: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(values, [50, 95])
    return {
        "n": len(values),
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "max_ms": round(max(values), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="pages that are opened over each run")
    parser.add_argument("--steps", type=int, default=15, help="steps of the slider in each page")
    options = parser.parse_args()
    program = os.environ.get("FOVEATE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    results: dict[str, Any] = {"date": date.today().isoformat(), "machine": machine(), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        made, small, large = (Path(scratch, name) for name in ("made", "small", "large"))
        write_run(made, tasks=tuple(f"t{i}" for i in range(TASKS)), episodes=EPISODES, queries=QUERIES, grid=(16, 16))
        write_token_log(made)
        grow(made, small, 5)
        grow(made, large, 25)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for folder in (small, large):
            began = time.perf_counter()
            inferences = sum(episode.traced for episode in ViewedRun(folder).episodes())
            index_s = time.perf_counter() - began
            rng, found = random.Random(0), {"open": [], "step": [], "jump": []}
            for round_ in range(options.rounds):
                ready: queue.Queue[str] = queue.Queue()
                if round_ == 0:
                    threading.Thread(target=serve, args=([folder], 0, None, ready.put), daemon=True).start()
                    url = ready.get(timeout=60)
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                context.add_init_script(FIRST_PICTURE)
                for kind, values in measure(context.new_page(), url, options.steps, rng).items():
                    found[kind] += values
                context.close()
            row = {"index_ms": round(1e3 * index_s, 1), **{kind: of(values) for kind, values in found.items()}}
            results[f"{inferences} dumps"] = {**row, "first_open_ms": round(found["open"][0], 1)}
            print(inferences, "dumps:", json.dumps(results[f"{inferences} dumps"]), flush=True)
        browser.close()
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
