"""`foveate fit` as a user runs it, on made-up demonstrations and a small random policy; and `--pruner fit.yaml`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_eval_sim import make_policy

import foveate
from foveate.bench.clock import Rounds
from foveate.cli.config import parse
from foveate.cli.main import main
from foveate.data.conversion.demos import DemosSource
from foveate.data.conversion.droid import write_droid
from foveate.data.demos import DemoEpisode, write_episode, write_meta
from foveate.errors import FoveateError
from foveate.evaluation.recorded import columns_of
from foveate.evaluation.sim.simulate import SimConfig
from foveate.pruning import DivPrune, UniformStride
from foveate.pruning.fitted import read_fitted, write_fitted
from foveate.studies.fit import timing
from foveate.studies.fit.config import FitConfig
from foveate.studies.fit.episodes import open_episodes, read_episode
from foveate.studies.fit.fit import fit_pruning
from foveate.testing.runs import write_run
from foveate.training.policy.train import TrainPolicyConfig
from foveate.util.files import write_text
from foveate.util.noise import action_noise

STEPS, EVERY = 24, 2


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """With weights in place of the zeros that a new model begins with: its actions depend on what it sees."""
    folder = make_policy(tmp_path_factory.mktemp("policies") / "random")
    weights, draws = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(1)
    for name, value in weights.items():
        if not value.any():
            weights[name] = 0.3 * torch.randn(value.shape, generator=draws)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_demos(root: Path, episodes: int = 6, alike: bool = False, broken: tuple[int, ...] = ()) -> Path:
    """A hand that goes out, turns and closes, seen by two cameras of noise.

    Args:
        broken: episodes with a state that is no number.
    """
    for number in range(episodes):
        rng = np.random.default_rng(0 if alike else number)
        way = np.where(np.arange(STEPS)[:, None] < 12, [0.02, 0, 0], [0, 0.02, 0]) + rng.normal(0, 1e-3, (STEPS, 3))
        opening = (np.arange(STEPS) < 18).astype(np.float32)[:, None]
        states = np.concatenate([way.cumsum(0), opening], axis=1).astype(np.float32)
        states[3, 0] = np.nan if number in broken else states[3, 0]
        actions = np.concatenate([way * 50, 1 - 2 * opening], axis=1).astype(np.float32)
        frames = np.arange(0, STEPS, EVERY)
        shape = (1 if alike else len(frames), 28, 28, 3)
        images = {v: rng.integers(0, 256, shape, np.uint8) for v in ("corner", "gripperPOV")}
        images = {v: np.broadcast_to(p, (len(frames), *shape[1:])) for v, p in images.items()}
        episode = DemoEpisode("go there", "go", number, STEPS, states, actions, images, frames)
        write_episode(root, number, episode, 0, 20.0)
    write_meta(root, ["go there"], 20.0, EVERY, {"complete": True})
    return root


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are taken once."""
    monkeypatch.setattr(timing, "ROUNDS", Rounds(least=1, most=1, warmup=0))


@pytest.fixture(scope="module")
def demos(tmp_path_factory) -> Path:
    return write_demos(tmp_path_factory.mktemp("demos"))


def test_a_fit_measures_ranks_and_goes_on_where_it_stopped(policy: Path, demos: Path, tmp_path: Path, capsys) -> None:
    words = ["fit", str(policy), str(demos), "--out", str(tmp_path), "--methods", "divprune,vla_adp,depth_drop"]
    words += ["--budgets", "0.5", "--max_episodes", "6", "--minutes", "1e-9"]
    assert main(words) == 1, "time is up after one episode, and one is too few"
    told = " ".join(capsys.readouterr().out.split())
    assert "minutes are up after 1 of 6 episodes" in told and "nan" not in told
    assert main([*words[:-1], "10"]) in (0, 1)
    log = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    methods = ("random", "stride", "depth_drop", "divprune", "vla_adp")
    labels = ["none", "blind", "noise", *(f"{method}_0.5" for method in methods)]
    assert sorted((row["episode"], row["label"]) for row in log) == sorted((n, la) for n in range(6) for la in labels)
    document = json.loads((tmp_path / "fit.json").read_text())
    assert (document["episodes"], document["frames"]) == (6, 24)  # pictures at every 2nd step, 6 apart
    assert document["critical_frames"]["gripper"] >= 6
    rows = {row["method"]: row for row in document["rows"]}
    assert [row["columns"]["critical"]["mean"] for row in document["rows"]] == sorted(
        row["columns"]["critical"]["mean"] for row in rows.values()
    )
    assert rows["divprune"]["kept"] == 4 and rows["depth_drop"]["kept"] == 8 and rows["vla_adp"]["kept"] > 4
    assert set(rows["divprune"]["against"]) == {"random", "stride"} and set(rows["stride"]["against"]) == {"random"}
    assert rows["divprune"]["ms"]["total"] > 0 and rows["divprune"]["ms"]["stages"]["prefill"] > 0
    assert rows["stride"]["columns"]["overlap"]["mean"] == 1 and rows["divprune"]["columns"]["overlap"]["mean"] < 1
    assert rows["divprune"]["columns"]["covered"]["frames"] == 6
    assert rows["depth_drop"]["columns"]["covered"]["frames"] == 0, "it drops no patch"
    written = (tmp_path / "fit.md").read_text()
    assert written.count("| divprune | 50 % |") == 1
    assert f"from other noise {document['noise']['critical']['mean']:.3f}" in written
    _errors_are_those_of_the_policy(log, policy, demos)
    before = (tmp_path / "frames.jsonl").stat().st_mtime_ns
    _ranks_against_a_sweep([*words[:-1], "10"], document, tmp_path, capsys)
    assert (tmp_path / "frames.jsonl").stat().st_mtime_ns == before, "nothing is measured again"


def _errors_are_those_of_the_policy(log: list[dict], policy: Path, demos: Path) -> None:
    """One episode's errors of the stride, computed anew from whole inferences."""
    full, pruned = (foveate.load_policy(policy, pruner=p) for p in (None, UniformStride(keep_ratio=0.5)))
    source = DemosSource(demos)
    episode = read_episode(source, 3, columns_of(source, full.processor.robot), apart=5, most=16)
    expected = []
    for step, seen in zip(episode.keyframes, episode.observations, strict=True):
        noise = action_noise(full.spec.noise_shape, 0, 3, step, 0)
        a, b = (one.infer(seen, noise).actions[:5].astype(np.float64) for one in (full, pruned))
        expected.append(np.sqrt(((a - b) ** 2).mean()))  # statistics are -1 to 1: the policy's units are the robot's
    found = next(row["error"] for row in log if (row["episode"], row["label"]) == (3, "stride_0.5"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def _ranks_against_a_sweep(words: list[str], document: dict, out: Path, capsys) -> None:
    """A sweep in which success falls with the error on critical frames is ranked without a fault."""
    for place, row in enumerate(document["rows"]):
        ended = ["failure"] * place + ["success"] * (10 - place)
        lines = [json.dumps({"variant": row["label"], "status": status}) for status in ended]
        (out / "sweep" / row["label"]).mkdir(parents=True)
        (out / "sweep" / row["label"] / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    (out / "sweep" / "random_0.5" / "episodes.jsonl").write_text(lines[0] + "\n")  # it goes on
    main([*words, "--against", str(out / "sweep")])
    assert "against success" in capsys.readouterr().out
    found = {row["column"]: row for row in json.loads((out / "validation.json").read_text())["rows"]}
    assert found["critical"]["rho"] == pytest.approx(-1) and found["critical"]["within"] == pytest.approx(-1)
    assert found["kept"]["rows"] == 4
    assert "seam" in found and "contact" not in found, "no frame of the set is of that kind"


def test_recordings_of_other_formats_are_read_by_the_same_door(policy: Path, demos: Path, tmp_path: Path) -> None:
    robot = foveate.load_policy(policy).processor.robot
    write_droid(DemosSource(demos), tmp_path / "run" / "droid", lambda done, total: None)
    write_run(tmp_path / "traced", tasks=("reach",), episodes=1, queries=4)
    for folder, apart, steps in ((tmp_path / "run", 5, (0, 5, 10, 15, 20)), (tmp_path / "traced", 5, (0, 5, 10, 15))):
        source = open_episodes(str(folder), robot)
        episode = read_episode(source, 0, columns_of(source, robot), apart, 16)
        assert episode.keyframes == steps and len(episode.observations) == len(steps)
        assert episode.states.shape[1] == episode.actions.shape[1] == 4
        assert set(episode.observations[0].images) == {"corner", "gripperPOV"}


def test_recordings_that_say_nothing_are_refused(policy: Path, demos: Path, tmp_path: Path) -> None:
    same = write_demos(tmp_path / "same", episodes=3, alike=True)
    options = {"policy": str(policy), "methods": ("stride",), "budgets": (0.5,)}
    (tmp_path / "new").mkdir()
    blind = {**options, "policy": str(make_policy(tmp_path / "new" / "policy")), "max_episodes": 1}
    with pytest.raises(FoveateError, match="answers grey pictures as it answers those of 4 frames"):
        fit_pruning(FitConfig(episodes=str(demos), out=str(tmp_path / "blind"), **blind))
    with pytest.raises(FoveateError, match="all 8 frames of 2 episodes show the same pictures"):
        fit_pruning(FitConfig(episodes=str(same), out=str(tmp_path / "a"), **options))
    with pytest.raises(FoveateError, match=r"robot 'libero' expects|no camera"):
        fit_pruning(FitConfig(episodes=str(same), out=str(tmp_path / "b"), **{**options, "policy": "libero_tiny"}))
    (tmp_path / "played").mkdir()
    (tmp_path / "played" / "episodes.jsonl").touch()
    with pytest.raises(FoveateError, match="a run that left no pictures; play it with --record droid"):
        fit_pruning(FitConfig(episodes=str(tmp_path / "played"), out=str(tmp_path / "d"), **options))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FoveateError, match="no format that is known"):
        fit_pruning(FitConfig(episodes=str(tmp_path / "empty"), out=str(tmp_path / "c"), **options))
    wrong = [
        ({"methods": ("fastvv",)}, "did you mean 'fastv'"),
        ({"budgets": (2.0,)}, "shares between"),
        ({"minutes": 0.0}, "above 0"),
        ({"pruner": DivPrune(keep_ratio=0.5)}, "--methods"),
    ]
    for given, told in wrong:
        with pytest.raises(FoveateError, match=told):
            FitConfig(episodes="x", **{**options, **given})


def test_one_damaged_episode_and_a_budget_named_twice_change_nothing_else(policy: Path, tmp_path: Path) -> None:
    demos = write_demos(tmp_path / "demos", episodes=3, broken=(0,))
    options = {"policy": str(policy), "episodes": str(demos), "methods": ("stride",)}
    done = fit_pruning(FitConfig(**options, budgets=(0.5, 0.25, 0.5), out=str(tmp_path / "fit")))
    assert done.table.episodes == 2
    assert sorted(row.label for row in done.table.rows) == ["random_0.25", "random_0.5", "stride_0.25", "stride_0.5"]
    assert not any("beats random" in line for line in done.recommendation.lines)


def test_a_wrong_sweep_is_told_of_before_anything_is_measured(policy: Path, demos: Path, tmp_path: Path) -> None:
    options = {"policy": str(policy), "episodes": str(demos), "methods": ("dart",), "budgets": (0.5,)}
    sweep = tmp_path / "sweep"
    for label in ("random_0.5", "stride_0.5", "dart_0.5"):
        line = json.dumps({"variant": label, "status": "success"})
        write_text(sweep / label / "episodes.jsonl", line + "\n")
        write_text(sweep / label / "config.yaml", "policy: metaworld_tiny\n")
    for folder, told in (
        (tmp_path / "none", "0 of the fitted"),
        (sweep, "policy metaworld_tiny, which is not the one"),
    ):
        with pytest.raises(FoveateError, match=told):
            fit_pruning(FitConfig(**options, against=str(folder), out=str(tmp_path / "fit")))
    assert not (tmp_path / "fit" / "frames.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["compiled", "openvino"])
def test_what_an_engine_does_not_prepare_is_said_to_run_as_written(
    engine: str, policy: Path, demos: Path, tmp_path: Path, capsys
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    words = ["fit", str(policy), str(demos), "--out", str(tmp_path), "--methods", "divprune,fastv"]
    words += ["--budgets", "0.5", "--max_episodes", "1", "--engine", engine, "--engine.max_buckets", "1"]
    assert main(words) == 1, "one episode is too few"
    document = json.loads((tmp_path / "fit.json").read_text())
    rows = [document["unpruned"], *document["rows"]]
    inside = {row["label"] for row in rows if row["ms"]["as_written"]}
    assert inside == {"fastv_0.5"}
    for row in rows:
        assert set(row["ms"]["stages"]) == {"vision", "prune", "prefill", "denoise"} and row["ms"]["total"] > 0
    assert "fastv_0.5 (as written)" in " ".join(capsys.readouterr().out.split())


def test_fit_yaml_is_taken_by_every_verb_and_refused_for_another_checkpoint(policy: Path, tmp_path: Path) -> None:
    from foveate.engine.record import hash_folder

    path = tmp_path / "fit.yaml"
    write_fitted(path, {"name": "divprune", "keep_ratio": 0.25}, hash_folder(policy), "random", {"frames": 24})
    words = ["--policy", str(policy), "--pruner", str(path)]
    assert parse(SimConfig, words, "x").pruner == DivPrune(keep_ratio=0.25)
    assert parse(SimConfig, [*words, "--pruner.keep_ratio", "0.5"], "x").pruner == DivPrune(keep_ratio=0.5)
    (tmp_path / "run.yaml").write_text(f"pruner: {path}\n")
    told = parse(SimConfig, ["--policy", str(policy), "--config", str(tmp_path / "run.yaml")], "x")
    assert told.pruner == DivPrune(keep_ratio=0.25)
    trained = parse(TrainPolicyConfig, ["--init_from", str(policy), "--pruner", str(path)], "x")
    assert trained.pruner == DivPrune(keep_ratio=0.25)
    assert foveate.load_policy(policy, pruner=str(path)).pruner.config == DivPrune(keep_ratio=0.25)
    for other in (lambda: parse(SimConfig, ["--policy", "metaworld_tiny", "--pruner", str(path)], "x"),
                  lambda: foveate.load_policy("metaworld_tiny", pruner=str(path))):  # fmt: skip
        with pytest.raises(FoveateError, match=r"was made for checkpoint random .* run `foveate fit metaworld_tiny"):
            other()
    with pytest.raises(FoveateError, match="none is named"):
        parse(TrainPolicyConfig, ["--pruner", str(path)], "x")
    with pytest.raises(FoveateError, match="cannot be read"):
        parse(SimConfig, ["--policy", str(policy), "--pruner", str(tmp_path / "none.yaml")], "x")
    path.write_text("name: divprune\n")
    with pytest.raises(FoveateError, match=r"expected a fit\.yaml"):
        read_fitted(path)
