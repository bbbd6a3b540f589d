"""Gains on recorded episodes, the head that learns them, and the head as a rule of a policy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.bench.trace import observations
from foveate.cli.main import main
from foveate.data.demos import write_episode, write_meta
from foveate.errors import FoveateError
from foveate.policy import Policy, TraceOptions
from foveate.studies.fit.critical import of_robot
from foveate.studies.fit.episodes import RecordedEpisode
from foveate.studies.looking import train
from foveate.studies.looking.config import LookingTrainConfig
from foveate.studies.looking.dataset import CHANGE, dataset, split
from foveate.studies.looking.gains import episode_gains
from foveate.studies.looking.train import Trained, always, decide, fit_head, point
from foveate.training.policy import untrained
from foveate.training.policy.data_test import episode, open_gates
from foveate.training.policy.untrained import random_policy
from foveate.util.shipped import find_policy
from foveate.vision_value.checkpoint import load_head
from foveate.vision_value.looking import Head
from foveate.vision_value.looking.head import thumbnail, view_features

VIEWS = ("corner", "gripperPOV")
CONFIG = LookingTrainConfig(policy="x", episodes="y", max_age=2, epochs=40, width=16)


@pytest.fixture(scope="module")
def plain() -> Iterator[Policy]:
    with random_policy(replace(untrained.TINY, action_horizon=6), None) as built:
        open_gates(built.engine.model)  # or actions would not depend on what is seen
        yield built


def made_up(number: int) -> dict[str, Any]:
    """A row whose views are worth a look where their picture has changed."""
    rng = np.random.default_rng(number)
    moving = rng.random(12) < 0.4
    fact = {"gripper": [[0.0, 1.0]], "before": 1.0, "after": 1.0, "bend": 0.0}
    row: dict[str, Any] = {"episode": number, "task": "go", "facts": [fact] * 12, "views": {}}
    for view in VIEWS:
        features = {}
        for age in (1, 2):
            seen = rng.normal(size=(12 - age, CHANGE + 2 + 2 + 8)).astype(np.float32) * 0.1
            seen[:, CHANGE] = 0.1 * moving[age:]
            features[str(age)] = seen.tolist()
        off = {str(age): (0.5 * moving[age:]).tolist() for age in (1, 2)}
        gflops = [0.8, 0.5, 1.0]
        row["views"][view] = {"coarse": [0.2] * 12, "no": off, "features": features, "gflops": gflops}
    return row


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    out = tmp_path_factory.mktemp("head")
    rows = [made_up(number) for number in range(20)]
    return fit_head(rows, replace(CONFIG, out=str(out), budget=0.7), {"policy": "made up"}), out


def test_a_head_learns_where_a_look_pays_and_is_tested_on_other_episodes(trained) -> None:
    done, out = trained
    cost, error = done.chosen
    assert cost <= 0.8 and error < min(done.curve["no"][0][1], done.curve["coarse"][0][1]) / 2
    assert done.curve["full"] == [(1.0, 0.0)] and done.curve["coarse"][0][0] == 0
    assert done.facts["costs"] == [pytest.approx([0.6, 0.0, 1.0])] * 2
    document = json.loads((out / "curve.json").read_text())
    assert document["chosen"] == list(done.chosen) and document["moments"]["train"] == 12 * (11 + 10) * 2
    assert done.facts["state_dim"] == 4


def test_one_view_at_full_is_measured_beside_the_head() -> None:
    row = made_up(0)
    for v, view in enumerate(VIEWS):
        row["views"][view]["coarse"] = [0.2 * (v + 1)] * 12
        for seen in row["views"][view]["features"].values():
            for features in seen:
                features[CHANGE + 2 : CHANGE + 4] = [float(v == 0), float(v == 1)]
    points = always(dataset([{**row, "episode": number} for number in range(5)], 0.25), VIEWS)
    assert points["full"] == [(1.0, 0.0)] and points["coarse"] == [pytest.approx((0.0, 0.3))]
    assert points[f"only {VIEWS[0]}"] == [pytest.approx((0.5, 0.2))]  # what is left is the other view's coarse look
    assert points[f"only {VIEWS[1]}"] == [pytest.approx((0.5, 0.1))]


def test_no_episode_is_in_two_parts() -> None:
    episodes = np.repeat(np.arange(10), 3)
    parts = split(episodes, seed=1)
    assert (np.stack(parts).sum(0) == 1).all()
    assert [len(set(episodes[part])) for part in parts] == [6, 2, 2]
    assert set.intersection(*(set(episodes[part]) for part in parts)) == set()


def test_errors_outside_of_critical_intervals_count_less() -> None:
    rows = [made_up(number) for number in range(6)]
    dull = {"gripper": [[0.0, 0.0]], "before": 1.0, "after": 1.0, "bend": 0.0}
    rows = [{**row, "facts": [row["facts"][0]] * 6 + [dull] * 6} for row in rows]
    data = dataset(rows, elsewhere=0.25)
    assert sorted(set(data.loss[:, 1].round(6))) == [0.05, 0.2]
    assert (data.loss[data.critical, 1] == 0.2).all() and data.critical.mean() == pytest.approx((5 + 4) / (11 + 10))
    levels = decide_all(data, 2)
    assert point(data, levels) == (1.0, 0.0)


def decide_all(data, level: int) -> np.ndarray:
    return np.full(len(data), level)


def test_too_little_to_learn_from_is_told() -> None:
    rows = [made_up(number) for number in range(6)]
    with pytest.raises(FoveateError, match="4 episodes: too few to train on some"):
        dataset(rows[:4], 0.25)
    dull = {"gripper": [[0.0, 0.0]], "before": 1.0, "after": 1.0, "bend": 0.0}
    with pytest.raises(FoveateError, match=r"0 of 72 moments are critical .* and a head needs 30 at least"):
        dataset([{**row, "facts": [dull] * 12} for row in rows], 0.25)
    with pytest.raises(FoveateError, match="looking: gains are measured against a policy that looks at everything"):
        replace(CONFIG, looking=Head(path="x"))
    with pytest.raises(FoveateError, match=r"budget: expected a share in \(0, 1\], got 0"):
        replace(CONFIG, budget=0.0)


def test_gains_are_those_of_one_view_changed(plain) -> None:
    frames = observations(plain, 4)
    corner = frames[0].images["corner"]
    frames = [replace(frame, images={**frame.images, "corner": corner}) for frame in frames]  # that camera stands still
    states = np.stack([frame.state for frame in frames]).astype(np.float32)
    episode = RecordedEpisode(3, "go", states, np.zeros((4, 4), np.float32), (0, 1, 2, 3), tuple(frames))
    row = episode_gains(plain, episode, of_robot(plain.processor.robot), CONFIG)
    still, moving = (row["views"][view] for view in VIEWS)
    assert np.max(still["no"]["1"] + still["no"]["2"]) < 1e-6 and min(moving["no"]["1"]) > 1e-4
    assert min(still["coarse"]) > 1e-4 and [len(still["no"][age]) for age in ("1", "2")] == [3, 2]
    no, coarse, full = still["gflops"]
    tower = plain.flops(1, 1)["vision"]
    assert full - no == pytest.approx(tower) and full - coarse > 0.75 * tower
    seen = view_features(1, 2, frames[2].images["gripperPOV"], frames[0].images["gripperPOV"], 2, states[2], states[1])
    np.testing.assert_allclose(moving["features"]["2"][0], seen, atol=1e-4)
    assert json.loads(json.dumps(row)) == row


def test_a_study_goes_on_where_it_stopped_and_is_of_one_policy(tmp_path, monkeypatch, capsys) -> None:
    demos, policy = tmp_path / "demos", tmp_path / "policy"
    for i in range(6):
        write_episode(demos, i, episode(i, steps=24), 0, fps=80.0)
    write_meta(demos, ["push the puck to the goal"], 80.0, 2, {})
    shutil.copytree(find_policy("metaworld_tiny"), policy)
    words = [str(policy), str(demos), "--out", str(tmp_path / "out"), "--replan_steps", "2", "--max_age", "2"]
    words += ["--epochs", "2", "--num_steps", "1"]
    with monkeypatch.context() as patch:
        asked: list[int] = []

        def fails(policy: Policy, found: RecordedEpisode, *more: Any) -> dict[str, Any]:
            asked.append(found.number)
            return episode_gains(policy, found, *more) if len(asked) < 4 else pytest.fail("stopped")

        patch.setattr(train, "episode_gains", fails)
        with pytest.raises(pytest.fail.Exception, match="stopped"):
            main(["train", "looking", *words])
    assert len((tmp_path / "out" / "gains.jsonl").read_text().splitlines()) == 3
    monkeypatch.setattr(train, "episode_gains", lambda *a: asked.append(a[1].number) or episode_gains(*a))
    assert main(["train", "looking", *words]) == 0
    assert sorted(asked) == sorted([*range(6), asked[3]])
    assert "motion, at about the head's cost" in capsys.readouterr().out
    assert load_head(tmp_path / "out").facts["views"] == list(VIEWS)
    (policy / "README.md").unlink()
    with (policy / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x3c")
    assert main(["train", "looking", *words]) == 1
    assert "holds the gains of another checkpoint" in capsys.readouterr().err


def test_a_thumbnail_is_the_mean_of_its_cells() -> None:
    picture = np.zeros((20, 16, 3), np.uint8)
    picture[:2, :2] = 255
    picture[2:5, 4:6] = (255, 0, 0)
    small = thumbnail(picture)
    assert small[0, 0] == pytest.approx(1) and small[1, 2] == pytest.approx(1 / 3) and small.sum() < 1.5


def test_the_head_as_a_rule(plain, trained) -> None:
    _, out = trained
    policy = Policy(plain.engine, plain.processor, looking=Head(path=str(out)))
    still, looked = observations(plain, 1)[0], []
    for _ in range(8):
        trace = policy.infer(still, np.zeros((6, 4), np.float32), evidence=TraceOptions(), session="a").trace
        looked.append([trace.decision.level[view] for view in VIEWS])
    assert looked[0] == ["FULL", "FULL"]  # there is nothing to reuse yet
    assert trace.decision.scores.keys() <= set(VIEWS) and {level for one in looked[1:] for level in one} != {"FULL"}
    for view in zip(*looked, strict=True):  # no look grows older than those that the head knows
        assert "NO NO NO" not in " ".join(view) and "COARSE NO" not in " ".join(view)
    always = Policy(plain.engine, plain.processor, looking=Head(path=str(out), lambda_cost=0.0))
    assert always.looking.label == "head_0"


def test_what_is_no_head_for_looking_is_told(plain, trained, tmp_path) -> None:
    done, out = trained
    with pytest.raises(FoveateError, match=r"expected a checkpoint-\*\.pt or a folder of them"):
        Policy(plain.engine, plain.processor, looking=Head(path=str(tmp_path)))
    with pytest.raises(FoveateError, match="looking head: it has learnt what reusing a look costs"):
        Head(path="x", no="leave_out")
    with pytest.raises(FoveateError, match="a head for the views corner, gripperPOV, and the policy has left, right"):
        Head(path=str(out)).check(("left", "right"))
    assert load_head(out).facts["chosen_lambda"] == done.chosen_lambda
    data = dataset([made_up(number) for number in range(6)], 0.25)
    assert set(decide(load_head(out), data, 1e9)) == {1}
