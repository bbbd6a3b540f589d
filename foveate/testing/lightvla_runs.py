"""A run folder as LightVLA's own trace scripts write one: two pictures of 16 x 16 patches in one joint sequence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GRID, PICTURES, TASK_LEN = (16, 16), 2, 92
PATCHES = PICTURES * GRID[0] * GRID[1]


def write_lightvla_run(run_dir: Path, *, tasks: int = 2, queries: int = 3, written_from: Path | None = None) -> Path:
    """Dumps, pictures and `report/capabilities.json`, of one episode per task.

    Args:
        written_from: where the scripts ran, which their paths start from; None: the paths are absolute.
    """
    rng = np.random.default_rng(0)
    for task in range(tasks):
        place = f"task{task:03d}/ep000"
        for kind in ("dumps", "images"):
            (run_dir / kind / place).mkdir(parents=True)
        for query in range(queries):
            sample = f"task{task:03d}_ep000_t{10 + 8 * query:04d}_q{query:03d}_4711_{rng.integers(16**10):010x}"
            paths = [run_dir / "images" / place / f"{sample}__img{i}.png" for i in range(PICTURES)]
            for path in paths:
                Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8)).save(path)
            said = [str(path if written_from is None else path.relative_to(written_from)) for path in paths]
            meta = {"task_suite": "libero_spatial", "task_id": task, "episode_idx": 0, "step_idx": 10 + 8 * query}
            dump = lightvla_dump(rng, {"sample_id": sample, **meta}, said)
            torch.save(dump, run_dir / "dumps" / place / f"{sample}.pt")
    (run_dir / "report").mkdir()
    extra = {"task_suite": "libero_spatial", "final_success_rate": 0.9}
    (run_dir / "report/capabilities.json").write_text(
        json.dumps({"num_dumps_scanned": tasks * queries, "extra": extra})
    )
    return run_dir


def lightvla_dump(rng: np.random.Generator, meta: dict[str, Any], image_paths: list[str]) -> dict[str, Any]:
    """One dump of `run_libero_eval.py`: bfloat16 numbers, a batch axis of one, attention of layers 1 and 31."""
    score = torch.from_numpy(rng.normal(size=(1, PATCHES, PATCHES)) + 3 * rng.normal(size=PATCHES)).bfloat16()
    chosen = score.argmax(-1)
    votes = torch.bincount(chosen[0], minlength=PATCHES)[None]
    keep = votes > 0
    kept = keep.sum(-1)
    looks = {str(layer): keep * torch.from_numpy(rng.uniform(0, 0.01, (1, PATCHES))).bfloat16() for layer in (1, 31)}
    entropy: Tensor = torch.distributions.Categorical(logits=score.float()).entropy().bfloat16()
    return {
        "schema_version": "v1",
        "meta": {
            **meta,
            "timestamp": "2026-01-12T18:13:20Z",
            "model_id": "oft--40000_chkpt",
            "instruction": "pick up the black bowl between the plate and the ramekin and place it on the plate",
            "checkpoint_path": "/models/oft--40000_chkpt",
        },
        "align": {
            "image_size_hw": [(224, 224)] * PICTURES,
            "image_paths": image_paths,
            "patch_grid_hw": GRID,
            "num_images_in_input": PICTURES,
            "num_patches_per_image": PATCHES // PICTURES,
            "num_patches_total": PATCHES,
            "seq_layout": {
                "cls_range": (0, 1),
                "vision_range": (1, 1 + PATCHES),
                "task_range": (1 + PATCHES, None),
            },
        },
        "routing": {
            "num_patches": PATCHES,
            "selection_mode": "inference_hard_mask",
            "router_scores": votes.float() / PATCHES,
            "indices": chosen,
            "keep_mask": keep,
            "keep_counts": votes,
            "num_kept": kept,
            "kept_ratio": kept.float() / PATCHES,
            "seq_lens": {
                "pre_seq_len": 1 + PATCHES + TASK_LEN,
                "post_seq_len": 1 + int(kept) + TASK_LEN,
                "pre_task_len": TASK_LEN,
                "post_task_len": TASK_LEN,
            },
            "score_stats": {"max_per_query": score.amax(-1), "entropy_per_query": entropy},
        },
        "attn": {"task_to_vis": looks, "layers": [1, 31], "reduce": "head_mean + task_query_mean"},
        "perf": {"forward_latency_s": 0.0815},
        "capabilities": [
            "routing_scores",
            "routing_indices",
            "routing_keep_mask",
            "routing_keep_counts",
            "patch_grid_hw",
            "token_counts",
            "routing_score_max_per_query",
            "routing_score_entropy_per_query",
            "attn_task_to_vis",
        ],
    }
