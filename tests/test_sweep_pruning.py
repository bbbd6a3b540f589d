"""`foveate sweep pruning --env ...` as a user runs it, on a simulator without physics and a small random policy."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from fake_env import on_the_path
from test_eval_sim import make_policy

from foveate.cli.main import main
from foveate.errors import FoveateError
from foveate.evaluation.sim.simulate import EnvConfig
from foveate.studies.pruning import sweep
from foveate.studies.pruning.sweep import METHODS, SweepPruningConfig, sweep_pruning
from foveate.studies.pruning.table import SweepRow, compared
from foveate.util.files import FolderHeld
from foveate.util.stats import holm, paired_difference, sign_test

WORDS = ["--env", "fake_env:LineEnv", "--task_suite_name", "go,fail", "--env.timeout_s", "600", "--num_workers", "1"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policies") / "random")


@pytest.fixture(autouse=True)
def fake_env_on_the_path(monkeypatch):
    on_the_path(monkeypatch)


def test_two_rounds_write_a_table_and_go_on_where_they_stopped(policy: Path, tmp_path: Path, capsys) -> None:
    words = ["sweep", "pruning", *WORDS, "--policy", str(policy), "--out", str(tmp_path), "--budgets", "0.5,0.25"]
    words += ["--methods", "stride,divprune,fastv", "--num_trials_per_task", "1", "--finalists", "1"]
    assert main([*words, "--final_trials", "2"]) == 0
    assert "second round: divprune and the controls" in " ".join(capsys.readouterr().out.split())
    document = json.loads((tmp_path / "pruning.json").read_text())
    rows = {(row["method"], row["budget"]): row for row in document["rows"]}
    methods = ("random", "stride", "divprune", "fastv")
    assert list(rows) == [("none", None), *((m, b) for m in methods for b in (0.5, 0.25))]
    for (method, budget), row in rows.items():
        assert row["episodes"] == (2 if method == "fastv" else 4) and row["successes"] == row["episodes"] // 2
        assert row["kept"] == 8 * (budget or 1) and row["ms"]["played"] > 0
        assert row["gflops"] <= rows["none", None]["gflops"]
        assert (row["p_holm"] is None) == (method in ("none", "random"))
    # Behind a layer fewer layers see fewer tokens.
    assert rows["divprune", 0.25]["gflops"] < rows["fastv", 0.25]["gflops"] < rows["none", None]["gflops"]
    with (tmp_path / "pruning.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)][:2] == ["none", "random"]
    assert (tmp_path / "pruning.png").stat().st_size > 10_000
    assert (tmp_path / "pruning.md").read_text().startswith("| method | budget | success |")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("episodes.jsonl")}
    assert main([*words, "--final_trials", "2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is played again"
    assert len({json.dumps(r["ci95"]) for r in json.loads((tmp_path / "pruning.json").read_text())["rows"]}) == 2


def test_processes_share_a_sweep_and_tuned_policies_stand_beside(policy: Path, tmp_path: Path, monkeypatch) -> None:
    """What another process is playing is left to it, and looked at again when all else is done."""
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "random_0.5").symlink_to(policy)
    config = SweepPruningConfig(
        env=EnvConfig(name="fake_env:LineEnv"), task_suite_name="go", policy=str(policy), methods=("stride",),
        budgets=(0.5,), num_trials_per_task=1, num_workers=1, out=str(tmp_path / "sweep"), tuned=str(tuned),
    )  # fmt: skip
    asked, real = [], sweep.evaluate

    def evaluate(simulation, *rest):
        asked.append(simulation.variant)
        if asked == ["none"]:
            raise FolderHeld("by another")
        return real(simulation, *rest)

    monkeypatch.setattr(sweep, "evaluate", evaluate)
    done = sweep_pruning(config)
    assert asked == ["none", "random_0.5", "random_0.5_tuned", "stride_0.5", "none"]
    assert [(row.method, row.tuned) for row in done.rows] == [
        ("none", False), ("random", False), ("random", True), ("stride", False),
    ]  # fmt: skip
    of_the_run = (tmp_path / "sweep/random_0.5_tuned/config.yaml").read_text()
    assert f"policy: {tuned / 'random_0.5'}" in of_the_run
    assert "| random, tuned | 50 % |" in (tmp_path / "sweep/pruning.md").read_text()
    with pytest.raises(FoveateError, match=r"holds no folder named as a row of the sweep: none, random_0.5"):
        sweep_pruning(dataclasses.replace(config, tuned=str(tmp_path)))


def test_differences_are_of_the_same_episodes_and_corrected_together() -> None:
    def row(method: str, budget: float, ended: list[bool]) -> SweepRow:
        outcomes = {("go", i): success for i, success in enumerate(ended)}
        return SweepRow(method, budget, sum(ended), len(ended), 0, (0, 1), 4.0, 8.0, 1.0, {}, outcomes)

    random, better, longer = [False] * 6 + [True] * 4, [True] * 10, [True] * 14
    rows = compared([row("random", 0.5, random), row("divprune", 0.5, better), row("fastv", 0.5, longer)])
    assert rows[0].difference is None and rows[0].p is None
    for told in rows[1:]:  # the episodes that random did not play count for nothing
        assert told.difference == pytest.approx(0.6)
        assert told.difference_ci95 == paired_difference(better, random)
        assert told.p == sign_test(better, random) == 2 / 64
    assert [told.p_holm for told in rows[1:]] == holm([2 / 64, 2 / 64]) == [4 / 64, 4 / 64]
    assert compared([row("random", 0.5, random), row("stride", 0.25, better)])[1].p is None, "another budget"
    tuned = dataclasses.replace(row("stride", 0.5, better), tuned=True)
    assert compared([row("random", 0.5, random), tuned])[1].p is None, "random was not fine-tuned"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("fastvv",)}, "did you mean 'fastv'"),
        ({"budgets": (25.0,)}, "shares between 0 and 1"),
        ({"budgets": ()}, "shares between 0 and 1"),
        ({"finalists": 0}, "at least 1"),
        ({"engines": ("fastest",)}, "engine"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_played(options: dict, message: str) -> None:
    with pytest.raises(FoveateError, match=message):
        SweepPruningConfig(**options)


def test_a_policy_ships_for_each_simulator() -> None:
    assert SweepPruningConfig().policy == "metaworld_tiny"
    libero = SweepPruningConfig(env=EnvConfig(name="libero"))
    assert (libero.policy, libero.task_suite_name) == ("libero_tiny", "libero_object")
    with pytest.raises(FoveateError, match="name one with --policy"):
        SweepPruningConfig(env=EnvConfig(name="fake_env:LineEnv"))
    assert METHODS[:5] == ("random", "stride", "topk_norm", "downsample", "depth_drop")
    assert {"none", "lightvla"} & set(METHODS) == {"lightvla"}
