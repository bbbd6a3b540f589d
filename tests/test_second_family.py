"""A second family fits: `toy_oft`, shaped like OpenVLA-OFT, through every place that runs a policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toy_oft.load as toy
import toy_oft.recipe as toy_recipe
from fake_env import on_the_path
from PIL import Image

import foveate
from foveate.attention.maps import load_maps
from foveate.cli.main import main
from foveate.data.demos import DemoEpisode, write_episode, write_meta
from foveate.errors import FoveateError
from foveate.models import registry
from foveate.policy import Policy, TraceOptions
from foveate.testing.pruning import WITHOUT_WEIGHTS, quarter
from foveate.training.policy import recipe
from foveate.types import AttentionRequest, Observation
from foveate.util.attention import attention_rows

PRUNERS = [quarter(name) for name in WITHOUT_WEIGHTS if name != "visionzip"]  # it has no tower


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FAMILIES", list(registry.FAMILIES))
    registry.register(toy.FAMILY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("toy") / "toy_policy")


def frames(policy: Policy, count: int = 3) -> list[Observation]:
    rng = np.random.default_rng(0)
    prompts = ["push the puck", "open it", "close the drawer now"]
    return [
        Observation(
            {view: rng.integers(0, 256, (40, 40, 3), np.uint8) for view in policy.spec.views},
            rng.normal(size=policy.spec.state_dim).astype(np.float32),
            prompts[i],
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner["name"])
def test_every_pruner(folder: Path, pruner: dict) -> None:
    """Rows of a batch act as they do alone, whatever was dropped, and the evidence says what that was."""
    policy = foveate.load_policy(folder, pruner=pruner)
    names = ["a", "b", "c"]
    evidence = TraceOptions(attn_layers=(0, -1), raw_score=True)
    batch = policy.infer_batch(frames(policy), evidence=evidence, sessions=names)
    full = foveate.load_policy(folder).infer_batch(frames(policy))
    for i, chunk in enumerate(batch):
        assert chunk.actions.shape == (8, 4) and chunk.trace is not None
        kept = int(chunk.trace.keep["keep_mask"].sum())
        assert chunk.trace.seq_lens["pre_seq_len"] - chunk.trace.seq_lens["post_seq_len"] == 32 - kept
        assert set(chunk.trace.attn) == {0, 2}
        if pruner["name"] == "none":
            assert kept == 32
            np.testing.assert_allclose(chunk.actions, full[i].actions, atol=1e-5)
        else:
            assert kept == 32 if pruner["name"] == "depth_drop" else 0 < kept < 32
            assert np.abs(chunk.actions - full[i].actions).max() > 1e-6
            if pruner["name"] != "random":  # it draws anew
                policy.reset()
                alone = policy.infer(frames(policy)[i], session="alone")
                np.testing.assert_allclose(alone.actions, chunk.actions, atol=1e-5)


def test_a_method_that_needs_a_tower_is_refused(folder: Path) -> None:
    policy = foveate.load_policy(folder, pruner={"name": "visionzip", "keep_ratio": 0.25})
    with pytest.raises(FoveateError, match="VisionZip goes by attention of its vision tower, and ToyOFT shows none"):
        policy.infer(frames(policy)[0])


def test_where_text_and_actions_looked(folder: Path) -> None:
    """Action rows stand in the prefix: their maps against the whole softmax of the layer's own q and k."""
    policy = foveate.load_policy(folder, pruner="lightvla")
    batch = frames(policy)
    seen = {}
    layer = policy.engine.model.layers[1].self_attn
    layer.observer = lambda q, k, mask: seen.update(rows=attention_rows(q.double(), k.double(), mask))
    try:
        answers = policy.attend(batch, AttentionRequest((1,), ("prefix", "suffix")))
    finally:
        layer.observer = None
    plain = policy.infer_batch(batch)
    traced = policy.infer_batch(batch, evidence=TraceOptions())
    for b, (chunk, maps) in enumerate(answers):
        np.testing.assert_array_equal(chunk.actions, plain[b].actions)
        kept = np.flatnonzero(traced[b].trace.keep["keep_mask"])
        words = len(batch[b].prompt)
        for phase, start, count in (("prefix", len(kept), words), ("suffix", len(kept) + words, 8)):
            expected = np.zeros((2, 32))
            rows = seen["rows"][b][:, start : start + count, : len(kept)].mean(1)
            expected[:, kept] = rows.numpy()
            np.testing.assert_allclose(maps[phase].maps.reshape(2, 32), expected, atol=1e-3)
    assert all(module.observer is None for module in policy.engine.model.modules() if hasattr(module, "observer"))


def test_frame_predict_and_inspect(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pictures = []
    for view in ("corner", "gripperPOV"):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(f"{view}.png")
        pictures += ["--image", f"{view}={view}.png"]
    words = ["--policy", str(folder), *pictures, "--prompt", "push the puck"]
    assert main(["attn", "frame", *words, "--tokens", "puck", "--out", "look"]) == 0
    maps = load_maps(tmp_path / "look" / "maps.npz")
    assert {"prefix", "suffix"} <= set(maps) and maps["suffix"].maps[..., maps["suffix"].valid].max() > 0
    assert main(["trace", "predict", *words, "--pruner", "lightvla", "--trace_out_dir", "seen"]) == 0
    assert len(json.loads((tmp_path / "seen" / "actions.json").read_text())["actions"]) == 8
    assert main(["inspect", str(folder)]) == 0
    assert "a toy OFT" in capsys.readouterr().out


def test_eval_sim(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_path(monkeypatch)
    words = ["--policy", str(folder), "--env", "fake_env:LineEnv", "--task_suite_name", "go", "--pruner", "stride"]
    more = ["--pruner.keep_ratio", "0.25", "--num_trials_per_task", "2", "--trace_out_dir", str(tmp_path / "run")]
    assert main(["eval", "sim", *words, *more]) == 0
    episodes = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()]
    assert [e["status"] for e in episodes] == ["success", "success"]
    assert {e["kept_mean"] for e in episodes} == {8.0} and all(e["gflops_mean"] > 0 for e in episodes)


def test_a_folder_of_no_family_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match=r"no model\.safetensors"):
        foveate.load_policy(tmp_path)


def test_it_is_trained_by_the_same_verb(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A family brings batches, loss and export; the run knows none by name, and refuses one that brings nothing."""
    rng = np.random.default_rng(0)
    steps, frames = 12, np.arange(0, 12, 3)
    images = {view: rng.integers(0, 256, (4, 28, 28, 3), np.uint8) for view in ("corner", "gripperPOV")}
    states, actions = (rng.uniform(-1, 1, (steps, 4)).astype(np.float32) for _ in range(2))
    demos = tmp_path / "demos"
    write_episode(demos, 0, DemoEpisode("push it", "push-v3", 0, 0, states, actions, images, frames), 0, 80.0)
    write_meta(demos, ["push it"], 80.0, 3, {})
    words = f"--init_from {folder} --data.path {demos} --out {tmp_path / 'run'} --loop.steps 30 --loop.batch_size 4"
    words += " --loop.log_every 1 --optim.lr 0.01 --optim.warmup_steps 0 --loop.device cpu"
    monkeypatch.setattr(recipe, "RECIPES", dict(recipe.RECIPES))
    assert main(["train", "policy", *words.split()]) == 1
    assert "toy_oft cannot be trained; pi0, openvla_oft can" in capsys.readouterr().err
    recipe.register("toy_oft", toy_recipe.ToyRecipe)
    assert main(["train", "policy", *words.split()]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[0]
    trained = foveate.load_policy(tmp_path / "run" / "policy")
    seen = Observation({view: pictures[0] for view, pictures in images.items()}, states[0], "push it")
    assert np.abs(trained.infer(seen).actions - actions[:8]).mean() < 0.5
