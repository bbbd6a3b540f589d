"""The verbs of `foveate trace`, called as users call them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import foveate.policy
from foveate.bench.trace import MID, random_policy
from foveate.cli.main import main
from foveate.models.pi0.config import GemmaConfig, VisionConfig
from foveate.tracing.schema import validate
from foveate.tracing.store import dump_paths, read_dump
from foveate.tracing.synthetic import write_run

_GEMMA = GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=2, num_kv_heads=1, head_dim=16)
_VISION = VisionConfig(32, 1, 2, 64, 14, 56, 32)
TINY = replace(MID, action_dim=4, max_token_len=32, llm=_GEMMA, expert=_GEMMA, vision=_VISION, num_steps=2)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs/try", tasks=("reach",), episodes=1, queries=3, side=(48, 64))


@pytest.mark.parametrize(
    "words", [["--exp_dir", "runs/try"], ["--run-root=runs/try"], ["--exp-name", "try"], ["runs/try"]]
)
def test_a_run_is_named_as_users_do(run, words):
    assert main(["trace", "tokens", *words]) == 0
    for name in ("tokens.jsonl", "tokens_summary.json", "capabilities.json"):
        assert (run / "report" / name).exists()


def test_plot_and_report(run, capsys):
    assert main(["trace", "plot", "--exp_dir", "runs/try", "--limit", "2"]) == 0
    assert len(list((run / "plots/score_heatmap").glob("*.png"))) == 4
    assert "1 inferences left out" in capsys.readouterr().out
    assert main(["trace", "report", "--run_root", "runs/try", "--compare", "runs/try", "--out", "both"]) == 0
    assert (run.parent.parent / "both/index.html").exists()
    assert main(["trace", "report", "--exp_name", "try"]) == 0
    assert (run / "report/index.html").exists()


def test_a_damaged_dump_is_named_and_the_status_says_so(run, capsys):
    dump_paths(run)[1].write_bytes(b"")
    for verb in ("plot", "tokens", "report"):
        assert main(["trace", verb, "runs/try"]) == 3
        out = capsys.readouterr().out
        assert "damaged:" in out and "step00005.pt" in out
    assert len((run / "report/tokens.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokens"], "which run?"),
        (["plot", "--exp_name", "trie"], "no such run folder"),
        (["plot", "runs/try", "--limit", "0"], "--limit: expected at least 1"),
        (["report", "runs/try", "--compare", "runs/none"], "no such run folder"),
        (["predict", "--policy", "p", "--image", "a.png", "--prompt", "go"], "where to?"),
    ],
)
def test_mistakes_are_one_sentence(run, capsys, words, said):
    assert main(["trace", *words]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def policy():
    with random_policy(TINY, "lightvla") as built:
        yield built


@pytest.fixture
def predict(policy, tmp_path, monkeypatch):
    """`foveate trace predict` with a random policy, in an empty folder with a picture per view."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foveate.policy, "load_policy", lambda *args, **options: policy)
    rng = np.random.default_rng(0)
    for name in policy.spec.views:
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(f"{name}, a.png")
    yield lambda *words: main(["trace", "predict", "--policy", "p", "--prompt", "push it", *words])
    policy.trace = None


def test_predict_leaves_a_full_run_folder(predict, policy, tmp_path, capsys):
    pictures = [word for name in policy.spec.views for word in ("--image", f"{name}, a.png")]
    state = ",".join(["0.1"] * policy.spec.state_dim)
    assert (
        predict(*pictures, "--state", state, "--exp_name", "one", "--store_raw_score", "--trace_attn_layers", "0,-1")
        == 0
    )
    run = tmp_path / "runs/one"
    dump = read_dump(dump_paths(run)[0])
    assert validate(dump) == []
    views, patches = len(policy.spec.views), policy.spec.patches
    assert dump["meta"]["instruction"] == "push it"
    assert dump["align"]["num_images_in_input"] == views
    assert dump["align"]["model_image_size"] == [56, 56]
    assert set(dump["attn"]["task_to_vis"]) == {0, 1}
    assert dump["routing"]["raw_score"].shape[1] == patches
    assert len(list((run / "images").rglob("*.png"))) == views
    assert len(list((run / "plots").rglob("*.png"))) == views * 4
    for name in ("report/index.html", "report/tokens.jsonl", "report/capabilities.json", "config.yaml", "run.json"):
        assert (run / name).exists(), name
    actions = json.loads((run / "actions.json").read_text())["actions"]
    assert np.shape(actions) == (policy.spec.action_horizon, policy.spec.action_dim)
    assert "state: none given" not in capsys.readouterr().out


def test_predict_takes_views_by_name_and_no_attention(predict, policy, tmp_path, capsys):
    pictures = [f"{name}={name}, a.png" for name in reversed(policy.spec.views)]
    assert predict("--image", *pictures, "--trace_out_dir", "out", "--trace_dump_attn", "false") == 0
    dump = read_dump(dump_paths(tmp_path / "out")[0])
    assert "attn" not in dump and "raw_score" not in dump["routing"]
    assert "zeros are used" in capsys.readouterr().out


def test_predict_says_what_is_wrong_with_its_pictures(predict, policy, capsys):
    assert (
        predict("--image", "a.png", "--image", "b.png", "--image", "c.png", "--image", "d.png", "--exp_name", "x") == 1
    )
    assert "a picture of each of its views" in capsys.readouterr().err
    assert predict("--image", "nowhere=a.png", "--exp_name", "x") == 1
    assert "unknown view 'nowhere'" in capsys.readouterr().err
    (first, *others) = policy.spec.views
    words = [f"{first}=missing.png", *(f"{name}={name}, a.png" for name in others)]
    assert predict("--image", *words, "--exp_name", "x") == 1
    assert "missing.png: not a readable picture" in capsys.readouterr().err
