"""Made-up runs for tests and for the look of the report: a ball that moves over a table, and a pruner that follows it.

No policy and no simulator; the dumps go through the real store.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from foveate.tracing.store import TraceStore
from foveate.types import Observation, Span, TokenLayout, Trace

VIEWS = ("corner", "gripperPOV")
TASKS = ("reach", "push", "drawer-open")


def layout(grid: tuple[int, int] = (8, 8), views: tuple[str, ...] = VIEWS, text: int = 12) -> TokenLayout:
    """Image spans of one grid each, then a text span."""
    size = grid[0] * grid[1]
    spans = [Span(view, "image", i * size, (i + 1) * size, grid) for i, view in enumerate(views)]
    return TokenLayout((*spans, Span("text", "text", len(views) * size, len(views) * size + text)))


def picture(rng: np.random.Generator, ball: tuple[float, float], height: int = 224, width: int = 224) -> np.ndarray:
    """uint8 [height, width, 3]: a shaded table with a ball at (x, y), each in 0..1."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    wall = np.stack([0.55 + 0.2 * x, 0.6 + 0.1 * y, 0.68 - 0.1 * x], -1)
    wood = np.stack([0.62 - 0.1 * y, 0.45 - 0.08 * x, 0.3 + 0.02 * np.sin(40 * x + 6 * y)], -1)
    image = np.where((y > 0.42)[..., None], wood, wall)
    distance = np.hypot((x - ball[0]) * width / height, y - ball[1])
    image[distance < 0.09] = np.array([0.8, 0.2, 0.15])
    image *= (1 - 0.35 * np.exp(-(((x - ball[0]) * 9) ** 2 + ((y - ball[1] - 0.1) * 22) ** 2)))[..., None]
    return (255 * (image + rng.normal(0, 0.012, image.shape)).clip(0, 1)).astype(np.uint8)


def inference(
    rng: np.random.Generator, time: float, keep: int | None, tokens: TokenLayout, side: tuple[int, int] = (224, 224)
) -> tuple[Trace, Observation]:
    """One moment of an episode, `time` in 0..1; `keep` patches survive, None keeps all and scores nothing."""
    balls = {v: (0.2 + 0.55 * time, 0.55 + 0.2 * np.sin(5 * time + i)) for i, v in enumerate(tokens.view_slices)}
    images = {view: picture(rng, ball, *side) for view, ball in balls.items()}
    near, attention = [], []
    for span in tokens.images:
        assert span.grid is not None
        rows, columns = span.grid
        y, x = (np.mgrid[0:rows, 0:columns] + 0.5) / np.array(span.grid).reshape(2, 1, 1)
        bump = np.exp(-12 * ((x - balls[span.name][0]) ** 2 + (y - balls[span.name][1]) ** 2)).ravel()
        near.append(bump + rng.uniform(0, 0.25, bump.size))
        attention.append(bump[None] ** np.linspace(0.5, 3, 4)[:, None])
    scores = np.concatenate(near).astype(np.float32)
    mask = np.ones(scores.size, bool) if keep is None else scores >= np.sort(scores)[-keep]
    kept = int(mask.sum())
    evidence = {"keep_mask": mask, "valid": np.ones_like(mask)}
    if keep is not None:
        evidence |= {
            "router_scores": scores,
            "max_per_query": scores + 0.1,
            "tied_per_query": np.zeros_like(scores),
            "entropy_per_query": rng.uniform(2.5, 3.5, scores.size).astype(np.float32),
        }
    weights = np.concatenate(attention, 1).astype(np.float32) * mask
    weights *= 0.6 / weights.sum(1, keepdims=True)
    text = len(tokens) - tokens.num_patches
    stages = {"vision": 7 + rng.uniform(0, 1), "prune": 0.0 if keep is None else 0.9, "prefill": 3 + kept / 20}
    stages["denoise"] = 6 + rng.uniform(0, 2)
    trace = Trace(
        layout=tokens,
        keep=evidence,
        attn={1: weights, 2: weights[::-1].copy()},
        seq_lens={
            "pre_seq_len": len(tokens) - 2,
            "post_seq_len": kept + text - 2,
            "padded_seq_len": len(tokens),
            "pre_task_len": text - 2,
            "post_task_len": text - 2,
        },
        timings_ms={**stages, "total": sum(stages.values()) + 1},
    )
    return trace, Observation(images, np.zeros(4), "push the red ball to the right")


def actions(time: float, drift: float, horizon: int = 5) -> np.ndarray:
    """float32 [horizon, 4] in [-1, 1]: a chunk from `time` (0..1) on, by so much beside the plan."""
    t = time + np.arange(horizon)[:, None] / 100
    return (0.6 * np.sin(6 * t + np.arange(4)) + drift).astype(np.float32)


def write_run(
    run_dir: Path,
    *,
    variant: str = "lightvla",
    keep: int | None = 20,
    tasks: tuple[str, ...] = TASKS,
    episodes: int = 2,
    queries: int = 6,
    grid: tuple[int, int] = (8, 8),
    side: tuple[int, int] = (224, 224),
    seed: int = 0,
) -> Path:
    """A run folder with dumps, pictures and `episodes.jsonl`; every third episode fails, the last one crashes."""
    rng = np.random.default_rng(seed)
    tokens = layout(grid)
    lines = []
    with TraceStore(run_dir, model_image_size=16 * grid[0]) as store:
        for task_id, task in enumerate(tasks):
            for episode in range(episodes):
                kept, total = [], []
                for query in range(queries):
                    budget = None if keep is None else max(2, keep + int(rng.integers(-5, 6)))
                    trace, observation = inference(rng, query / queries, budget, tokens, side)
                    meta = {"task": task, "task_id": task_id, "episode": episode, "step": 5 * query, "query": query}
                    meta |= {
                        "instruction": observation.prompt,
                        "checkpoint": "tiny",
                        "variant": variant,
                        "seed": episode,
                    }
                    drift = 0.0 if keep is None else 0.1 * max(0, query - 1)
                    store.submit(trace, observation, meta, actions(query / queries, drift))
                    kept.append(trace.seq_lens["post_seq_len"] - trace.seq_lens["post_task_len"])
                    total.append(trace.timings_ms["total"])
                number = task_id * episodes + episode
                status = (
                    "crash" if number == len(tasks) * episodes - 1 else ("failure" if number % 3 == 2 else "success")
                )
                lines.append(
                    {
                        **{"task": task, "episode": episode, "seed": episode, "variant": variant, "status": status},
                        **{"steps": 5 * queries, "queries": queries, "instruction": observation.prompt},
                        **{"kept_mean": float(np.mean(kept)), "patches": tokens.num_patches},
                        **{"latency_ms_p50": float(np.median(total)), "wall_s": 1.0, "error": "", "extra": {}},
                    }
                )
    (run_dir / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_dir
