"""Commands that are killed at random moments and started again, against the same ones undisturbed.

    python benchmarks/kills/run.py --kills 20                    # every verb; prints a table, writes results.json
    python benchmarks/kills/run.py --kills 3 --verbs eval_sim

Each command is a child (`fork`, so that libraries are loaded once) that gets SIGKILL after a random part of the time
that an undisturbed run takes. After every kill: what was committed before is there unchanged, nothing is there twice,
nothing committed lacks its data, and no process of the run is left. Then the same command again, until it ends by
itself: what is there now must be what an undisturbed run leaves; numbers of a model's answers may differ by rounding.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import math
import os
import platform
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import foveate.cli.eval.sim
import foveate.cli.value.verbs  # noqa: F401 - loaded once, for all children
from foveate.cli.main import main
from foveate.data.demos import write_episode, write_meta
from foveate.data.droid.writer import DroidWriter
from foveate.tracing.store import read_dump
from foveate.training.policy.train import TrainPolicyConfig
from foveate.util.files import read_json_lines, write_json
from foveate.util.run_folder import to_dict

HERE = Path(__file__).resolve()
REPO = HERE.parents[2]
MARK = "FOVEATE_KILLED"
"""Variable in the environment of all processes of one child."""
MEASURED = ("latency", "mem", "ms", "seconds", "samples_per_s")
"""Columns that no two runs have in common."""

Records = Mapping[Any, Any]
"""What is committed: its name -> its content, or a hash of it."""


@dataclass(frozen=True)
class Case:
    """A verb, and how to tell what it has left."""

    name: str
    argv: Callable[[Path, Path], list[str]]
    """(inputs, run folder) -> command line."""
    committed: Callable[[Path], Records]
    """Of a folder at any moment; an AssertionError says what is there twice, or lacks its data."""
    result: Callable[[Path], Any]
    """Of a folder whose command has ended."""


@dataclass(frozen=True)
class Told:
    """What became of one verb."""

    verb: str
    kills: int
    runs: int
    """Times that the command came to its end between them."""
    committed: int
    """Records that were there at the moment of a kill, all kills together."""
    seconds: float
    """Of an undisturbed run."""


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unique(rows: list[tuple[Any, Any]], what: str) -> dict[Any, Any]:
    found = dict(rows)
    assert len(found) == len(rows), f"{what}: {len(rows) - len(found)} are there twice"
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return read_json_lines(path) if path.exists() else []


def table(path: Path) -> list[dict[str, str]]:
    """A CSV file without what was measured."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if not any(m in k for m in MEASURED)} for row in csv.DictReader(file)]


def same(found: Any, expected: Any) -> bool:
    """Equal, but for the rounding of numbers: a question that is asked again after a kill goes through the model with
    other ones, and without what the text-first pass has left in memory."""
    if isinstance(expected, Mapping):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    try:
        return found == expected or math.isclose(float(found), float(expected), rel_tol=1e-4, abs_tol=1e-6)
    except (TypeError, ValueError):
        return False


# eval sim: traced and recorded


def sim(inputs: Path, out: Path) -> list[str]:
    return [
        "eval", "sim", "--policy", "metaworld_tiny", "--env", "fake_env:LineEnv", "--task_suite_name", "go,fail",
        "--num_trials_per_task", "6", "--max_batch", "1", "--record", "video", "--trace_max_plots", "2",
        "--trace_out_dir", str(out),
    ]  # fmt: skip


PARTS = ("dumps", "images", "videos")


def sim_committed(out: Path) -> Records:
    found = unique([((e["task"], e["episode"]), e) for e in lines(out / "episodes.jsonl")], "episodes")
    asked = lines(out / "queries.jsonl")
    unique([((q["task"], q["episode"], q["query"]), q) for q in asked], "inferences")
    for (task, number), episode in found.items():
        mine = [q for q in asked if (q["task"], q["episode"]) == (task, number)]
        assert len(mine) == episode["queries"], f"{task} {number}: inferences lack in the log"
        folder = out / f"dumps/task{episode['extra']['task_id']:03d}/ep{number:03d}"
        for query in mine:
            read_dump(folder / f"step{query['step']:05d}.pt")
        assert (out / "videos" / f"{task}_ep{number:03d}_{episode['status']}.mp4").stat().st_size
    return {key: json.dumps(episode) for key, episode in found.items()}


def sim_result(out: Path) -> Any:
    episodes = lines(out / "episodes.jsonl")
    return {
        "episodes": sorted((e["task"], e["episode"], e["status"], e["steps"], e["queries"]) for e in episodes),
        "files": sorted(str(path.relative_to(out)) for part in PARTS for path in files(out / part)),
        "results": table(out / "results.csv"),
        "inferences": json.loads((out / "summary.json").read_text())["total"]["inferences"],
    }


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# attn episodes


def attention(inputs: Path, out: Path) -> list[str]:
    return [
        "attn", "episodes", str(inputs / "droid"), "--policy", "metaworld_tiny", "--out", str(out / "maps"),
        "--video_out", str(out / "videos"), "--layers", "0,2", "--size", "160,120", "--keyframe_interval", "4",
    ]  # fmt: skip


def attention_committed(out: Path) -> Records:
    found: dict[str, Any] = {}
    for marker in (out / "maps").glob("[!.]*/*/*/pi05.md"):
        episode = marker.parent
        key = str(episode.relative_to(out / "maps"))
        with np.load(episode / "maps.npz") as maps:
            found[key] = {name: hashlib.sha256(maps[name].tobytes()).hexdigest() for name in maps.files}
        found[key]["pictures"] = sorted((str(p.relative_to(episode)), hash_of(p)) for p in episode.rglob("*.jpg"))
        found[key]["videos"] = sorted(str(p.relative_to(out)) for p in (out / "videos" / key).rglob("[!.]*.webm"))
        assert found[key]["pictures"] and found[key]["videos"], f"{key} is marked as done, and lacks files"
    return found


def attention_result(out: Path) -> Any:
    assert not files(out / "maps" / ".partial"), "half an episode is left"
    assert not [path for path in files(out) if ".draft" in path.name], "a draft is left"
    return attention_committed(out)


# eval vqa, value paper


def vqa(inputs: Path, out: Path) -> list[str]:
    return [
        "eval", "vqa", "--model.path", "tiny_qwen3vl", "--dataset_config", "mixed", "--max_samples", "240",
        "--eval.batch_size", "8", "--eval.bootstrap", "20", "--ratios", "0.5", "--output_dir", str(out / "out"),
        "--eval.cache_dir", str(out / "cache"),
    ]  # fmt: skip


def cached(out: Path) -> dict[Any, Any]:
    found: list[tuple[Any, Any]] = []
    for path in (out / "cache").glob("*.jsonl"):
        found += [((path.name.partition(".")[0], row["key"]), json.dumps(row)) for row in lines(path)]
    return unique(found, "answers")


def vqa_result(out: Path) -> Any:
    return {"answers": sorted(cached(out)), "rows": table(out / "out" / "eval_matrix.csv")}


def paper(inputs: Path, out: Path) -> list[str]:
    return [
        "value", "paper", "--model.path", "fake_vlm:FakeVLM", "--data.train_jsonl", "mixed", "--max_train_samples",
        "60", "--dataset_config", "mixed", "--max_samples", "24", "--training.stage2_epochs", "2", "--seeds", "0", "1",
        "--eval.profile_samples", "2", "--eval.bootstrap", "20", "--pareto", "0.05", "0.5", "--output_dir",
        str(out / "paper"), "--eval.cache_dir", str(out / "cache"),
    ]  # fmt: skip


def paper_committed(out: Path) -> Records:
    steps = {path.parent.name: path.read_text() for path in (out / "paper").glob("*/done.json")}
    return {**cached(out), **steps}


def paper_result(out: Path) -> Any:
    steps = sorted(path.parent.name for path in (out / "paper").glob("*/done.json"))
    assert len(steps) == 8, f"{len(steps)} of 8 steps are done"
    return {"answers": sorted(cached(out)), "rows": table(out / "paper" / "results.csv")}


# train policy


def training(inputs: Path, out: Path) -> list[str]:
    return ["train", "policy", "--config", str(inputs / "train.yaml"), "--out", str(out)]


def training_committed(out: Path) -> Records:
    found = {path.name: hash_of(path / "model.safetensors") for path in (out / "checkpoints").glob("step_*")}
    for path in (out / "checkpoints").glob("step_*"):
        torch.load(path / "state.pt", weights_only=True)
    steps = unique([(row["step"], row["loss"]) for row in lines(out / "metrics.jsonl")], "steps in metrics.jsonl")
    newest = max((int(name.removeprefix("step_")) for name in found), default=0)
    return {**found, **{step: loss for step, loss in steps.items() if step <= newest}}


def training_result(out: Path) -> Any:
    return {"weights": hash_of(out / "policy" / "model.safetensors"), "committed": training_committed(out)}


CASES = {
    case.name: case
    for case in (
        Case("eval_sim", sim, sim_committed, sim_result),
        Case("attn_episodes", attention, attention_committed, attention_result),
        Case("eval_vqa", vqa, cached, vqa_result),
        Case("train_policy", training, training_committed, training_result),
        Case("value_paper", paper, paper_committed, paper_result),
    )
}


def make_inputs(folder: Path) -> Path:
    """Recordings for attention, demonstrations and a configuration for training."""
    import yaml

    from foveate.training.config import DataConfig, LoopConfig, OptimConfig
    from foveate.training.policy.data_test import MODEL, episode

    rng = np.random.default_rng(0)
    for number in range(6):
        begun = DroidWriter(folder / "droid").begin(("corner", "gripperPOV"))
        for i in range(9):
            images = {view: rng.integers(0, 255, (64, 64, 3)).astype(np.uint8) for view in begun.cameras}
            begun.add(images, np.array([0.01 * i, 0.6, 0.2, 1.0]), np.zeros(4))
        begun.finish(("success", "failure")[number % 2], "push the puck", 80.0, "eef_xyz+gripper", {})
    for number in range(4):
        write_episode(folder / "demos", number, episode(number), 0, fps=80.0)
    write_meta(folder / "demos", ["push the puck to the goal"], 80.0, 2, {})
    loop = LoopConfig(steps=120, batch_size=4, log_every=2, save_every=5, keep_checkpoints=100, device="cpu", threads=1)
    data = DataConfig(path=(str(folder / "demos"),), flow_samples=2, shift_px=1, brightness=0.1)
    config = TrainPolicyConfig(model=MODEL, data=data, optim=OptimConfig(lr=1e-3, warmup_steps=1), loop=loop)
    values = to_dict(config)
    del values["out"]
    (folder / "train.yaml").write_text(yaml.safe_dump(values))
    return folder


def start(argv: list[str], log: Path, mark: str) -> int:
    """The process id of a child that works through a command line."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ[MARK] = mark
        torch.set_num_threads(1)
        status = main(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(status)


def ended(child: int) -> int | None:
    """The exit status; None: it still works."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def left(mark: str) -> list[str]:
    """Processes that carry the mark."""
    found = []
    for process in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}\0".encode() in Path(f"/proc/{process}/environ").read_bytes():
                found.append(process)
    return found


def finish(case: Case, argv: list[str], folder: Path, log: Path) -> float:
    """Run a command to its end; its seconds."""
    begun = time.monotonic()
    child = start(argv, log, str(folder))
    while (status := ended(child)) is None:
        time.sleep(0.01)
    assert status == 0, f"{case.name} ended with {status}: {log.read_text()[-2000:]}"
    return time.monotonic() - begun


def kill_often(case: Case, root: Path, kills: int, seed: int = 0) -> Told:
    """Kill one verb so often; an AssertionError says what was lost or doubled."""
    rng, inputs = random.Random(seed), root / "inputs"
    whole, log = root / case.name / "whole", root / f"{case.name}.log"
    whole.mkdir(parents=True)
    seconds = finish(case, case.argv(inputs, whole), whole, log)
    expected = case.result(whole)
    killed = runs = held = 0
    while killed < kills:
        folder = root / case.name / f"killed{runs}"
        folder.mkdir()
        argv, before = case.argv(inputs, folder), dict[Any, Any]()
        status: int | None = None
        while killed < kills and status is None:
            child = start(argv, log, f"{folder}.{killed}")
            moment = time.monotonic() + rng.uniform(0.0, 0.9) * seconds
            while (status := ended(child)) is None and time.monotonic() < moment:
                time.sleep(0.005)
            if status is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                killed += 1
                gone = time.monotonic() + 20
                while rest := left(f"{folder}.{killed - 1}"):
                    assert time.monotonic() < gone, f"{case.name}: processes {rest} outlive their run"
                    time.sleep(0.02)
            else:
                assert status == 0, f"{case.name} ended with {status}: {log.read_text()[-2000:]}"
            now = case.committed(folder)
            lost = [key for key, value in before.items() if now.get(key) != value]
            assert not lost, f"{case.name}: {len(lost)} are lost or changed after a kill, the first: {lost[0]}"
            before = dict(now)
            held += len(now) if status is None else 0
        if status is None:
            finish(case, argv, folder, log)
        runs += 1
        assert same(case.result(folder), expected), f"{case.name}: {folder} differs from {whole}"
    return Told(case.name, killed, runs, held, round(seconds, 1))


def measure(root: Path, kills: int, verbs: list[str], seed: int = 0) -> list[Told]:
    for_tests = str(REPO / "tests")  # the simulator and the model of arithmetic are those of the tests
    sys.path.insert(0, for_tests)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [for_tests, os.environ.get("PYTHONPATH")]))
    make_inputs(root / "inputs")
    found = []
    for verb in verbs:
        told = kill_often(CASES[verb], root, kills, seed)
        print(f"{told.verb:14s} {told.kills} kills, {told.committed} records held, {told.runs} runs came to their end, "
              f"undisturbed {told.seconds} s", flush=True)  # fmt: skip
        found.append(told)
    return found


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each verb")
    parser.add_argument("--verbs", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=REPO / "build" / "kills", help="folder that is not there yet")
    parser.add_argument("--json", type=Path, default=HERE.parent / "results.json", help="where the numbers go")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True)
    told = measure(asked.out.resolve(), asked.kills, asked.verbs, asked.seed)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    known = json.loads(asked.json.read_text()) if asked.json.exists() else {}
    write_json(asked.json, known | {t.verb: {"date": str(date.today()), **machine, **asdict(t)} for t in told})


if __name__ == "__main__":
    command()
