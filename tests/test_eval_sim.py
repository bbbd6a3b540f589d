"""`foveate eval sim` as a user runs it, on a simulator without physics and a small random policy."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_env import on_the_path

from foveate.cli.main import main
from foveate.data.masks.source import open_masks
from foveate.models.common.normalize import NormStats
from foveate.models.common.robots import RobotMapping
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.model import Pi0
from foveate.testing.faults import UNEXPECTED
from foveate.testing.golden import REPO
from foveate.training.policy.pi0.export import export_policy

TOKENIZER = REPO / "foveate" / "policies" / "metaworld_tiny" / "tokenizer.model"


def make_policy(folder: Path, broken: bool = False) -> Path:
    gemma = GemmaConfig(width=32, depth=2, mlp_dim=32, num_heads=2, num_kv_heads=1, head_dim=16)
    config = Pi0Config(
        action_dim=4,
        action_horizon=10,
        max_token_len=24,
        vocab_size=1024,
        llm=gemma,
        expert=gemma,
        vision=VisionConfig(32, 1, 2, 32, patch_size=14, image_size=28, projection_dim=32),
        views=("corner", "gripperPOV"),
        num_steps=2,
    )
    torch.manual_seed(0)
    model = Pi0(config)
    flat = NormStats(np.zeros(4), np.ones(4), -np.ones(4), np.ones(4))
    stats = {"state": flat, "actions": flat}
    if broken:  # every number in the folder is finite, what comes out is not
        torch.nn.init.constant_(model.action_out_proj.bias, 6e4)
        stats["actions"] = NormStats(np.zeros(4), np.ones(4), np.full(4, -1e38), np.full(4, 1e38))
    info = {"loop": {"steps": 0, "batch_size": 0}}
    robot = RobotMapping.load("metaworld")
    return export_policy(folder, model, robot, stats, TOKENIZER, pruner=None, train_config=info, tasks=["none"])


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policies") / "random")


@pytest.fixture(autouse=True)
def fake_env_on_the_path(monkeypatch):
    on_the_path(monkeypatch)


def command(
    policy: Path, out: Path, *more: str, tasks: str = "go,walk", episodes: int = 3, traced: bool = False
) -> list[str]:
    return [
        "eval", "sim", "--policy", str(policy), "--env", "fake_env:LineEnv", "--task_suite_name", tasks,
        "--num_trials_per_task", str(episodes), "--trace_out_dir" if traced else "--out", str(out), *more,
    ]  # fmt: skip


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcome(path: Path) -> dict:
    return {(e["task"], e["episode"]): (e["status"], e["steps"]) for e in lines(path / "episodes.jsonl")}


def test_a_traced_run_leaves_everything(policy, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["--pruner", "lightvla", "--trace-dump-attn", "true", "--trace_attn_layers", "0,1"]
    assert main(command(policy, out, *flags, traced=True)) == 0
    episodes, queries = lines(out / "episodes.jsonl"), lines(out / "queries.jsonl")
    assert len(outcome(out)) == len(episodes) == 6
    assert {e["status"] for e in episodes} == {"success"} and {e["variant"] for e in episodes} == {"lightvla"}
    assert sum(e["queries"] for e in episodes) == len(queries)
    assert all(0 < q["kept"] <= q["patches"] == 8 and q["gflops"] > 0 for q in queries)
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [(r["task"], r["successes"], r["episodes"]) for r in rows] == [("go", "3", "3"), ("walk", "3", "3")]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["total"]["success_rate"] == 1.0 and summary["config"]["pruner"]["name"] == "lightvla"
    assert summary["seed"] == 0 and summary["versions"]["torch"] == torch.__version__
    dumps = sorted((out / "dumps").rglob("*.pt"))
    assert len(dumps) == len(queries) and dumps[0].relative_to(out / "dumps").parts[:2] == ("task000", "ep000")
    dump = torch.load(dumps[0], weights_only=True)
    assert dump["meta"]["task"] == "go" and dump["meta"]["variant"] == "lightvla" and dump["meta"]["seed"] == 0
    assert dump["meta"]["instruction"] == "do the go"
    for name in ("config.yaml", "run.json", "report/capabilities.json", "report/tokens.jsonl", "report/index.html"):
        assert (out / name).stat().st_size > 0, name
    assert len(lines(out / "report" / "tokens.jsonl")) == len(queries)
    assert list((out / "plots" / "mask_heatmap").rglob("*.png"))
    shown = capsys.readouterr().out
    assert "lightvla" in shown and "3/3 (44–100 %)" in shown and "index.html" in shown


def test_looking_is_told_query_by_query_and_a_run_goes_on_with_the_same_alone(policy, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(command(policy, out, "--looking", "alternate", traced=True)) == 0
    queries = lines(out / "queries.jsonl")
    first, *later = [(q["look_corner"], q["look_gripperPOV"]) for q in queries if q["episode"] == 0]
    assert first == ("FULL", "FULL") and later and set(later) <= {("FULL", "NO"), ("NO", "FULL"), ("FULL", "FULL")}
    shares = json.loads((out / "summary.json").read_text())["total"]["looks"]
    assert shares["COARSE"] == 0 and 0 < shares["NO"] < 0.5 and sum(shares.values()) == pytest.approx(1)
    (variant,) = {e["variant"] for e in lines(out / "episodes.jsonl")}
    assert variant == "full_look_alternate" and lines(out / "episodes.jsonl")[0]["extra"]["look_coarse"] == 0
    dump = torch.load(sorted((out / "dumps").rglob("*.pt"))[0], weights_only=True)
    assert dump["decision"]["level"] == {"corner": "FULL", "gripperPOV": "FULL"}
    assert main(command(policy, out, "--looking", "motion", traced=True)) == 1
    assert "looking" in capsys.readouterr().err
    assert main(command(policy, out, "--looking", "motoin")) == 1
    assert "did you mean 'motion'" in capsys.readouterr().err
    assert main(["eval", "sim", "--policy", "ws://127.0.0.1:1", "--looking", "coarse"]) == 1
    assert "looking: the server at ws://127.0.0.1:1 settles that" in capsys.readouterr().err


def test_a_capped_trace_spreads_over_the_run_and_the_summary_says_how_much(policy, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(command(policy, out, "--trace_max_dumps_per_run", "6", traced=True)) == 0
    dumps = sorted((out / "dumps").rglob("*.pt"))
    assert [dump.parent.relative_to(out / "dumps").as_posix() for dump in dumps] == [
        f"task{task:03d}/ep{episode:03d}" for task in range(2) for episode in range(3)
    ]
    inferences = len(lines(out / "queries.jsonl"))
    assert json.loads((out / "summary.json").read_text())["traced"] == {
        "inferences": 6, "of_inferences": inferences, "episodes": 6, "of_episodes": 6,
    }  # fmt: skip
    assert f"traced:  6 of {inferences} inferences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--trace_dump_attn", "true", "--trace_attn_layers", "1,31"],
            "--trace_attn_layers 31: the backbone has layers 0 to 1 (2 layers)",
        ),
        (["--env", "libero", "--task_suite_name", "libero_goal"], "LIBERO is not installed in the interpreter"),
        (["--env.python", "/no/such/python"], "env.python '/no/such/python': there is no such program"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_loaded(policy, tmp_path, capsys, monkeypatch, flags, told):
    monkeypatch.setattr("foveate.policy.LoadOptions.load", lambda self: pytest.fail("the policy was loaded"))
    monkeypatch.setattr("foveate.envs.libero.install.interpreter", lambda: None)
    monkeypatch.setattr("foveate.envs.libero.install.importlib.util.find_spec", lambda name: None)
    assert main([*command(policy, tmp_path / "run", traced=True), *flags]) == 1
    said = capsys.readouterr()
    assert told in said.err and said.out == "" and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_kill_9_loses_nothing_and_doubles_nothing(policy, tmp_path):
    out, whole = tmp_path / "killed", tmp_path / "whole"
    flags = ["--pruner", "lightvla", "--max_batch", "1"]
    arguments = command(policy, out, *flags, episodes=6)
    environ = {**os.environ, "FAKE_DELAY": "0.02"}
    with subprocess.Popen(
        [sys.executable, "-m", "foveate", *arguments], env=environ, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 300
        log = out / "episodes.jsonl"
        while not (log.exists() and log.read_text().count("\n") >= 3):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    before = lines(log)
    assert 3 <= len(before) < 12
    with log.open("a") as file:
        file.write('{"task": "walk", "epis')  # as if the kill had come in the middle of a line
    assert main(arguments) == 0
    after = lines(log)
    assert after[: len(before)] == before
    assert len({(e["task"], e["episode"]) for e in after}) == len(after) == 12
    assert sum(e["queries"] for e in after) == len(lines(out / "queries.jsonl"))
    assert main(command(policy, whole, *flags, episodes=6)) == 0
    assert outcome(out) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_end_it_says_what_is_kept_and_takes_its_workers_with_it(policy, tmp_path, stop, status):
    out = tmp_path / "run"
    arguments = command(policy, out, episodes=20)
    environ = {**os.environ, "FAKE_DELAY": "0.02", "FOVEATE_TEST": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "foveate", *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts its background jobs with SIGINT ignored, and they hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        log, deadline = out / "episodes.jsonl", time.monotonic() + 300
        while not (log.exists() and log.read_text().count("\n") >= 2):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(stop)
        said, complained = process.communicate()
    assert process.returncode == status and b"Traceback" not in complained
    told = re.search(r": (\d+) of 40 episodes; the same command goes on", " ".join(said.decode().split()))
    assert told is not None and len(lines(log)) - int(told[1]) in (0, 1)  # it may end between the line and its count
    marked = f"FOVEATE_TEST={tmp_path}\0".encode()
    while time.monotonic() < deadline and _has_process(marked):  # workers end when they see that it has gone
        time.sleep(0.1)
    assert not _has_process(marked), "a worker outlives its run"


def _has_process(marked: bytes) -> bool:
    """Whether a process of this machine has these bytes in its environment."""
    for other in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if marked in Path(f"/proc/{other}/environ").read_bytes():
                return True
    return False


def test_the_same_command_again_plays_nothing(policy, tmp_path):
    assert main(command(policy, tmp_path / "run", episodes=1)) == 0
    before = (tmp_path / "run" / "episodes.jsonl").read_text()
    assert main(command(policy, tmp_path / "run", episodes=1)) == 0
    assert (tmp_path / "run" / "episodes.jsonl").read_text() == before
    assert main(command(policy, tmp_path / "run", "--num_workers", "1", episodes=2)) == 0
    assert (tmp_path / "run" / "episodes.jsonl").read_text().startswith(before)
    assert len(outcome(tmp_path / "run")) == 4


def test_the_written_configuration_repeats_the_run(policy, tmp_path):
    flags = ["--pruner", "random", "--pruner.keep_ratio", "0.5", "--num_workers", "1"]
    assert main(command(policy, tmp_path / "run", *flags, episodes=1)) == 0
    written = str(tmp_path / "run" / "config.yaml")
    assert main(["eval", "sim", "--config", written, "--out", str(tmp_path / "again")]) == 0
    assert outcome(tmp_path / "again") == outcome(tmp_path / "run")
    assert lines(tmp_path / "again" / "episodes.jsonl")[0]["variant"] == "random_0.5"
    assert {q["kept"] for q in lines(tmp_path / "again" / "queries.jsonl")} == {4}


def test_a_folder_that_was_moved_or_is_spelt_otherwise_goes_on(policy, tmp_path, capsys, monkeypatch):
    assert main(command(policy, tmp_path / "run", episodes=1)) == 0
    before = (tmp_path / "run" / "episodes.jsonl").read_text()
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    spelt = policy.parent / ".." / policy.parent.name / policy.name
    for again in (Path("moved"), Path("./nowhere/../moved"), tmp_path / "moved"):
        assert main(command(spelt, again, episodes=1)) == 0
    assert (tmp_path / "moved" / "episodes.jsonl").read_text() == before and not (tmp_path / "run").exists()
    assert main(command(policy, tmp_path / "moved", episodes=1, traced=True)) == 1
    assert "holds a run without a trace; go on with it by --out" in capsys.readouterr().err


def test_foreign_words_are_shown_as_they_are(policy, tmp_path, capsys):
    out = tmp_path / "run[red]y [" / "b]"
    assert main(command(policy, out, "--variant", "[state, 7]", "--record", "video", tasks="crash,go", episodes=1)) == 0
    shown = capsys.readouterr().out
    assert f"results: {out}/results.csv" in shown and f"report:  {out}/report/index.html" in shown
    assert shown.count("[state, 7]") >= 3 and "1 crashed" in shown


def test_a_second_run_in_the_folder_is_refused(policy, tmp_path, capsys):
    arguments = command(policy, tmp_path / "run", episodes=1)
    hold = "import sys, pathlib; from foveate.util.files import one_process\n"
    hold += "with one_process(pathlib.Path(sys.argv[1]), 'evaluating'): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert main(arguments) == 1
        assert f"process {other.pid} is evaluating there" in capsys.readouterr().err
        assert not (tmp_path / "run" / "episodes.jsonl").exists()
        other.stdin.close()
    assert main(arguments) == 0


def test_episodes_that_two_runs_wrote_are_counted_once_and_named(policy, tmp_path, capsys):
    assert main(command(policy, tmp_path / "run", episodes=2)) == 0
    for name in ("episodes.jsonl", "queries.jsonl"):
        path = tmp_path / "run" / name
        path.write_text(path.read_text() * 2)
    capsys.readouterr()
    assert main(command(policy, tmp_path / "run", episodes=2)) == 0
    assert "written twice, the first counts: " in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["total"]["episodes"] == len(lines(tmp_path / "run" / "episodes.jsonl")) == 4
    assert any("written twice" in warning for warning in summary["warnings"])


def test_an_episode_is_logged_when_its_dumps_are_there(policy, tmp_path, monkeypatch):
    from foveate.evaluation.sim.results import RunLog
    from foveate.tracing.store import TraceStore

    write, add, lacking = TraceStore._write, RunLog.add, []

    def slow(store, sample):
        time.sleep(0.05)
        write(store, sample)

    def look(log, episode, queries):
        folder = log.folder / f"dumps/task{episode.extra['task_id']:03d}/ep{episode.episode:03d}"
        lacking.extend(q for q in queries if not (folder / f"step{q['step']:05d}.pt").exists())
        add(log, episode, queries)

    monkeypatch.setattr(TraceStore, "_write", slow)
    monkeypatch.setattr(RunLog, "add", look)
    assert main(command(policy, tmp_path / "run", episodes=2, traced=True)) == 0
    assert lacking == [] and len(outcome(tmp_path / "run")) == 4
    lost = sorted((tmp_path / "run" / "dumps").rglob("*.pt"))[1]
    lost.unlink()
    assert main(command(policy, tmp_path / "run", episodes=2, traced=True)) == 0
    warnings = json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"]
    assert f"trace: no dump of 1 inference: task000_ep000_{lost.stem}" in warnings


@pytest.mark.parametrize("error", [*UNEXPECTED, OSError(28, "No space left on device")], ids=repr)
def test_an_overlay_that_fails_costs_neither_table_nor_log_nor_report(policy, tmp_path, capsys, monkeypatch, error):
    from foveate.evaluation import evidence

    def fails(*_):
        raise error

    monkeypatch.setattr(evidence, "plot_run", fails)
    full = isinstance(error, OSError)
    assert main(command(policy, tmp_path / "run", episodes=1, traced=True)) == full
    shown = capsys.readouterr()
    assert ("1/1 (21–100 %)" in shown.out and type(error).__name__ in shown.out) or full
    assert full == ("the disk is full" in shown.err) and "Traceback" not in shown.err
    for name in ("results.csv", "summary.json", "report/tokens.jsonl", "report/index.html"):
        assert (tmp_path / "run" / name).stat().st_size > 0


@pytest.mark.parametrize(("task", "told"), [("blinks", "gripperPOV"), ("grows", "state")])
def test_a_malformed_observation_is_one_crashed_episode(policy, tmp_path, task, told):
    assert main(command(policy, tmp_path / "run", tasks=f"go,{task}", episodes=2)) == 0
    assert {t: s for (t, _), (s, _) in outcome(tmp_path / "run").items()} == {"go": "success", task: "crash"}
    crashed = [e for e in lines(tmp_path / "run" / "episodes.jsonl") if e["status"] == "crash"]
    assert len(crashed) == 2 and all(told in e["error"] and e["steps"] in (9, 10) for e in crashed)


def test_another_configuration_in_the_same_folder_is_refused(policy, tmp_path, capsys):
    assert main(command(policy, tmp_path / "run", episodes=1)) == 0
    assert (
        main(command(policy, tmp_path / "run", "--seed", "5", "--pruner", "stride", "--pruner.keep_ratio", "0.5")) == 1
    )
    told = capsys.readouterr().err
    assert "another configuration" in told and "seed: 0 there, 5 now" in told and "pruner" in told
    assert "num_trials" not in told


def test_crashes_hangs_and_failures_are_counted_apart(policy, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["--env.timeout_s", "6", "--record", "video"]
    assert main(command(policy, out, *flags, tasks="crash,fail,go,hang", episodes=2)) == 0
    statuses = {
        task: {s for (t, _), (s, _) in outcome(out).items() if t == task} for task in ("crash", "fail", "go", "hang")
    }
    assert statuses == {"crash": {"crash"}, "fail": {"failure"}, "go": {"success"}, "hang": {"crash"}}
    total = json.loads((out / "summary.json").read_text())["total"]
    assert (total["successes"], total["failures"], total["crashes"]) == (2, 2, 4)
    assert all(e["error"] for e in lines(out / "episodes.jsonl") if e["status"] == "crash")
    assert "2 crashed" in capsys.readouterr().out
    assert len(list((out / "videos").glob("go_ep*_success.mp4"))) == 2
    assert len(list((out / "videos").glob("crash_ep*_crash.mp4"))) == 2


def test_nan_actions_are_a_crash_with_its_reason(tmp_path):
    broken = make_policy(tmp_path / "nan", broken=True)
    assert main(command(broken, tmp_path / "run", tasks="go", episodes=2)) == 1  # not one episode came to its end
    episodes = lines(tmp_path / "run" / "episodes.jsonl")
    assert [e["status"] for e in episodes] == ["crash"] * 2 and "not finite" in episodes[0]["error"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--env", "metaworld", "--task_suite_name", "pusch"], "did you mean.*push"),
        (["--pruner", "lightvla", "--pruner.keep_ratio", "1.5"], r"\(0, 1\]"),
        (["--num_trial", "3"], "num_trials_per_task"),
        (["--policy", "/no/such/policy"], "/no/such/policy"),
        (["--instruction", "shuffled", "--task_suite_name", "go"], "at least two tasks"),
        (["--trace_out_dir", "elsewhere"], "both name the run folder"),
    ],
)
def test_bad_input_stops_before_episode_1(policy, tmp_path, capsys, flags, expected):
    assert main([*command(policy, tmp_path / "run"), *flags]) == 1
    assert re.search(expected, capsys.readouterr().err)
    log = tmp_path / "run" / "episodes.jsonl"
    assert not log.exists() or not log.read_text()


def test_a_view_that_the_simulator_lacks(policy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FAKE_VIEWS", "corner")
    assert main(command(policy, tmp_path / "run")) == 1
    assert "gripperPOV" in capsys.readouterr().err and not (tmp_path / "run" / "episodes.jsonl").read_text()


def test_other_conventions(policy, tmp_path, capsys):
    import yaml

    changed = tmp_path / "absolute"
    changed.mkdir()
    for file in policy.iterdir():
        (changed / file.name).symlink_to(file)
    robot = yaml.safe_load((policy / "robot.yaml").read_text())
    robot["conventions"]["delta"] = False
    (changed / "robot.yaml").unlink()
    (changed / "robot.yaml").write_text(yaml.safe_dump(robot))
    assert main(command(changed, tmp_path / "run")) == 1
    assert "delta: environment True, policy False" in capsys.readouterr().err
    assert not (tmp_path / "run" / "episodes.jsonl").read_text()


def test_a_folder_that_cannot_be_written(policy, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(command(policy, tmp_path / "file" / "run")) == 1
    assert "cannot be written there" in capsys.readouterr().err


def test_controls_change_what_is_seen(policy, tmp_path):
    out = tmp_path / "run"
    flags = ["--vision", "blind", "--instruction", "shuffled", "--record", "droid"]
    assert main(command(policy, out, *flags, episodes=1, traced=True)) == 0
    episodes = {e["task"]: e for e in lines(out / "episodes.jsonl")}
    assert episodes["go"]["instruction"] == "do the walk" and episodes["go"]["variant"] == "blind_shuffled_instruction"
    from PIL import Image

    picture = np.asarray(Image.open(next((out / "images").rglob("*.png"))))
    assert (picture == 128).all()
    folders = list((out / "droid" / "success").glob("*/*"))
    assert len(folders) == 2 and all((folder / "trajectory.h5").exists() for folder in folders)
    frame = np.asarray(Image.open(folders[0] / "recordings" / "frames" / "hand_camera" / "00000.jpg"))
    assert frame.std() > 20  # the record shows the scene, not what the control left of it


@pytest.mark.slow
def test_recordings_of_another_size(policy, tmp_path, capsys):
    import h5py
    from PIL import Image

    flags = ["--record", "droid", "--record_size", "64,48", "--env", "fake_env:SeeingEnv", "--trace_save_policy_images"]
    flags.append("--record_masks")
    assert main(command(policy, tmp_path / "run", *flags, tasks="go,fail", episodes=1, traced=True)) == 0
    droid = tmp_path / "run" / "droid"
    (success,), (failure,) = droid.glob("success/*/*"), droid.glob("failure/*/*")
    with Image.open(success / "recordings/frames/varied_camera_1/00000.jpg") as picture:
        assert picture.size == (64, 48)
    with Image.open(next((tmp_path / "run" / "images").rglob("*.png"))) as picture:
        assert picture.size == (28, 28)  # the policy saw what it always sees
    with h5py.File(failure / "trajectory.h5") as file:
        joints = file["observation/robot_state/joint_positions"][:, 0]
        assert joints.tolist() == list(range(30)) and (file["action/joint_position"][:, 0] == joints + 1).all()
        assert file["action/controller_info/failure"][-1] and not file["action/controller_info/success"][:].any()
    assert json.loads((failure / "calibration.json").read_text())["hand_camera"]["extrinsics"] == [0, 1, 2, 3, 4, 5]
    masks = open_masks(success / "recordings/masks").at("hand_camera", 5, np.zeros((48, 64, 3), np.uint8))
    assert masks["left"].sum() == 4 * 48 and masks["robot"].sum() == 5 * 48
    assert main(command(policy, tmp_path / "other", "--record", "droid", "--record_size", "64,48")) == 1
    assert "renders no other pictures than the policy's" in capsys.readouterr().err
    assert main(command(policy, tmp_path / "third", "--record_size", "64,48")) == 1
    assert main(command(policy, tmp_path / "fourth", "--record", "droid", "--record_masks")) == 1
    assert "cannot tell objects apart" in capsys.readouterr().err
    assert main(command(policy, tmp_path / "fifth", "--record_masks")) == 1


def test_a_run_that_never_began_does_not_hold_its_folder(policy, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("FAKE_VIEWS", "corner")
        assert main(command(policy, tmp_path / "run")) == 1
    assert main(command(policy, tmp_path / "run", "--seed", "3", episodes=1)) == 0


def test_the_simulator_goes_on_while_the_policy_thinks(policy, tmp_path, capsys):
    plain, none, slow = tmp_path / "plain", tmp_path / "none", tmp_path / "slow"
    assert main(command(policy, plain, "--max_batch", "1")) == 0
    assert main(command(policy, none, "--max_batch", "1", "--inject_latency", "0")) == 0
    assert main(command(policy, slow, "--inject_latency", "50")) == 0  # 80 Hz: four steps
    assert outcome(plain) == outcome(none) and not (plain / "environment.json").exists()
    timed = lambda row: {k: v for k, v in row.items() if not k.endswith("_ms") and k not in ("variant", "delay_steps")}  # noqa: E731
    where = lambda row: (row["task"], row["episode"], row["query"])  # noqa: E731  (workers answer in any order)
    before, after = ([*map(timed, sorted(lines(run / "queries.jsonl"), key=where))] for run in (plain, none))
    assert before == after
    queries = lines(slow / "queries.jsonl")
    assert {q["delay_steps"] for q in queries} == {4} and {q["step"] % 9 for q in queries} == {0}
    episodes = lines(slow / "episodes.jsonl")
    assert {e["variant"] for e in episodes} == {"full_latency_50ms"}
    assert all(e["extra"]["delay_steps"] == 4 * e["queries"] for e in episodes)
    settings = json.loads((slow / "environment.json").read_text())["settings"]
    assert (settings["inject_latency"], settings["control_hz"]) == (50.0, 80.0)
    assert "steps that passed per inference" in (slow / "report" / "index.html").read_text()
    capsys.readouterr()
    assert main(command(policy, slow, "--inject_latency", "60")) == 1
    assert "inject_latency: 50.0 there, 60.0 now" in capsys.readouterr().err


def test_every_reuse_of_a_prefix_is_counted(policy, tmp_path):
    close = ["--engine.prefix_cache.pixels", "1", "--engine.prefix_cache.state", "100", "--max_batch", "1"]
    assert main(command(policy, tmp_path / "run", *close, tasks="go", episodes=2)) == 0
    queries = lines(tmp_path / "run" / "queries.jsonl")
    assert len(queries) > 2 and all(q["prefix_reused"] == (q["query"] > 0) for q in queries)
    assert all((q["prefill_ms"] == 0) == q["prefix_reused"] for q in queries)
    total = json.loads((tmp_path / "run" / "summary.json").read_text())["total"]
    assert total["prefix_reused"] == pytest.approx(1 - 2 / len(queries))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--inject_latency", "-1"], "expected milliseconds from 0 on, got -1"),
        (["--chunking", "real_time"], "chunking real_time: is what happens during a latency; add --inject_latency"),
        (["--inject_latency", ".nan"], "expected milliseconds from 0 on, got nan"),
        (["--inject_latency", "mesured"], "expected one of measured or a number or null, got 'mesured'"),
        (["--inject_latency", "measured", "--max_batch", "2"], "leave max_batch 2 out"),
    ],
)
def test_a_latency_that_makes_no_sense_is_named(policy, tmp_path, capsys, flags, told):
    assert main(command(policy, tmp_path / "run", *flags)) == 1
    assert told in capsys.readouterr().err
