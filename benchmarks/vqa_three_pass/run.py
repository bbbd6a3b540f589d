"""Questions per second of the three-pass evaluation against a plain loop at batch 1 of the same model.

    python benchmarks/vqa_three_pass/run.py --questions 256 --rounds 5 --out results.json

One question costs four passes either way: the text-first pass, NO, COARSE and FULL. Both sides take turns within each
round, on the same questions, in random order, and answers are compared. Then the rows of the whole matrix are looked up
in the cache, and their time is set against the passes'.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from foveate.data.vqa.load import load_vqa
from foveate.evaluation.vqa.config import EvalConfig, ModelConfig, VqaConfig
from foveate.evaluation.vqa.load import shipped_head
from foveate.evaluation.vqa.matrix import Experiment, matrix_rules
from foveate.evaluation.vqa.metrics import score_row
from foveate.evaluation.vqa.passes import inspect_images
from foveate.models.vlm.decoding import Decoding
from foveate.models.vlm.load import load_vlm
from foveate.util.provenance import provenance
from foveate.util.shipped import VLMS, shipped
from foveate.vision_value.baselines import EVERY_PASS
from foveate.vision_value.checkpoint import load_head

LEVELS = ("NO", "COARSE", "FULL")


def untrained():
    """The shipped model's twin with new weights: as fast, where the shipped one is not there."""
    from foveate.training.vlm.tiny import make_tiny
    from foveate.training.vlm.train import MixedQuestions

    return make_tiny(MixedQuestions().texts())


def plain_loop(vlm, samples) -> dict[str, tuple[str, ...]]:
    """Question by question, pass by pass, nothing reused: answers by id."""
    said = {}
    for sample in samples:
        vlm.text_pass([sample])
        answers = [vlm.answer([sample], level, decoding=Decoding(max_new_tokens=1))[0] for level in LEVELS]
        said[sample.id] = tuple(answer.text for answer in answers)
    return said


def three_passes(vlm, samples, folder: Path, batch_size: int) -> tuple[Experiment, dict[str, tuple[str, ...]]]:
    """As `foveate eval vqa` makes them, pictures checked and answers written to a cache."""
    config = VqaConfig(
        model=ModelConfig(path="tiny"),
        eval=EvalConfig(batch_size=batch_size, max_new_tokens=1, cache_dir=str(folder)),
        pareto=(0.0, 0.05, 0.1, 0.2, 0.5),
    )
    experiment = Experiment(config, vlm, score_row)
    inspect_images(samples, experiment.cache)
    experiment.make_passes(samples, EVERY_PASS)
    experiment.cache.close()
    scored = experiment.scored("mixed", samples, EVERY_PASS)
    said = {s.id: tuple(scored.answers[level][i]["text"] for level in LEVELS) for i, s in enumerate(scored.samples)}
    return experiment, said


def spread(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Plain loop over three passes, round by round."""
    ratios = [a / b for a, b in zip(seconds["plain loop, batch 1"], seconds["three passes"], strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch takes by itself")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    trained = "tiny_qwen3vl" in shipped(VLMS)
    vlm = load_vlm("tiny_qwen3vl", batch_size=options.batch_size) if trained else untrained()
    samples = load_vqa("mixed", split="test", max_samples=options.questions)
    heads = [load_head(shipped_head("tiny_qwen3vl"))] if trained else []
    plain_loop(vlm, samples[:4])
    times: dict[str, list[float]] = {"plain loop, batch 1": [], "three passes": [], "matrix": []}
    processor: dict[str, list[float]] = {name: [] for name in times}
    rows = differing = 0
    for number in range(options.rounds):
        sides = ["plain loop, batch 1", "three passes"]
        random.Random(number).shuffle(sides)
        said = {}
        with tempfile.TemporaryDirectory() as folder:
            for side in sides:
                start, busy = time.perf_counter(), time.process_time()
                if side == "three passes":
                    experiment, said[side] = three_passes(vlm, samples, Path(folder) / "cache", options.batch_size)
                else:
                    said[side] = plain_loop(vlm, samples)
                times[side].append(time.perf_counter() - start)
                processor[side].append(time.process_time() - busy)
            start, busy = time.perf_counter(), time.process_time()
            scored = experiment.scored("mixed", samples, EVERY_PASS)
            rows = len(experiment.rows(scored, matrix_rules(experiment.config, scored, heads)))
            times["matrix"].append(time.perf_counter() - start)
            processor["matrix"].append(time.process_time() - busy)
        differing += sum(said["plain loop, batch 1"][s.id] != said["three passes"][s.id] for s in samples)
    table = Table(
        "",
        "seconds",
        "questions/s",
        "processor seconds",
        caption=f"{len(samples)} questions, medians of {options.rounds}",
    )
    for name, seconds in times.items():
        median = statistics.median(seconds)
        rate = "" if name == "matrix" else f"{len(samples) / median:.1f}"
        label = f"{name}, {rows} rows" if name == "matrix" else name
        table.add_row(label, f"{median:.2f}", rate, f"{statistics.median(processor[name]):.2f}")
    Console().print(table)
    result = {
        "model": "tiny_qwen3vl" if trained else "tiny_qwen3vl, untrained weights",
        "questions": len(samples),
        "batch_size": options.batch_size,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "seconds": {name: [round(s, 3) for s in seconds] for name, seconds in times.items()},
        "processor_seconds": {name: [round(s, 3) for s in seconds] for name, seconds in processor.items()},
        "speedup": {"wall": spread(times), "processor": spread(processor)},
        "matrix_rows": rows,
        "passes_and_matrix_over_passes": {
            name: statistics.median(1 + m / t for m, t in zip(own["matrix"], own["three passes"], strict=True))
            for name, own in (("wall", times), ("processor", processor))
        },
        "answers_that_differ": differing,
        **provenance(),
        "argv": ["run.py", *sys.argv[1:]],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
