"""`foveate trace predict`, called as users call it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import foveate.policy
from foveate.cli.main import main
from foveate.pruning import Random
from foveate.tracing.schema import validate
from foveate.tracing.store import dump_paths, read_dump


@pytest.fixture
def predict(policy, tmp_path, monkeypatch):
    """`foveate trace predict` with a random policy, in an empty folder with a picture per view."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foveate.policy.LoadOptions, "load", lambda self: policy)
    monkeypatch.setattr(foveate.policy.LoadOptions, "check_layers", lambda *_: None)
    rng = np.random.default_rng(0)
    for name in policy.spec.views:
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(f"{name}, a.png")
    return lambda *words: main(["trace", "predict", "--policy", "p", "--prompt", "push it", *words])


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
    assert dump["meta"]["instruction"] == "push it" and dump["meta"]["variant"] == "lightvla"
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


def test_predict_works_without_pictures_and_prompt(policy, tmp_path, monkeypatch, capsys):
    """As the users' script did: a checkpoint, a name, device and dtype."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foveate.policy.LoadOptions, "load", lambda self: policy)
    monkeypatch.setattr(foveate.policy.LoadOptions, "check_layers", lambda *_: None)
    inferred = []
    infer = policy.infer
    monkeypatch.setattr(
        policy, "infer", lambda *a, session=None, **k: inferred.append(session) or infer(*a, session=session, **k)
    )
    words = [
        "--checkpoint",
        "p",
        "--exp_name",
        "min",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--trace_attn_layers",
        "1",
    ]
    assert main(["trace", "predict", *words]) == 0
    assert "made-up ones are used" in capsys.readouterr().out
    assert inferred == ["warm-up", "predict"]
    (path,) = dump_paths(tmp_path / "runs/min")
    dump = read_dump(path)
    assert validate(dump) == [] and dump["meta"]["instruction"] == "pick up the object"
    assert dump["align"]["num_images_in_input"] == len(policy.spec.views)
    assert (tmp_path / "runs/min/report/index.html").exists()


def test_predict_checks_layers_before_it_infers(predict, policy, capsys, monkeypatch):
    monkeypatch.setattr(policy, "infer", lambda *a, **k: pytest.fail("it inferred"))
    assert predict("--exp_name", "x", "--trace_attn_layers", "0,5") == 1
    assert "--trace_attn_layers 5: the backbone has layers 0 to 1" in capsys.readouterr().err


def test_predict_checks_layers_before_it_loads(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foveate.policy.LoadOptions, "load", lambda self: pytest.fail("it loaded"))
    words = ["--policy", "metaworld_tiny", "--exp_name", "x", "--trace_attn_layers", "1,31"]
    assert main(["trace", "predict", *words]) == 1
    said = capsys.readouterr()
    assert "--trace_attn_layers 31: the backbone has layers 0 to" in said.err and said.out == ""


@pytest.mark.parametrize("pictures", [[], ["--image", "a.png"]])
def test_a_blank_prompt_is_none(pictures, capsys):
    assert main(["trace", "predict", "--policy", "p", "--prompt", "  ", *pictures, "--exp_name", "x"]) == 1
    assert "--prompt: expected an instruction, got an empty one" in capsys.readouterr().err


def test_pictures_need_a_prompt(capsys):
    assert main(["trace", "predict", "--policy", "p", "--image", "a.png", "--exp_name", "x"]) == 1
    assert "--prompt: expected an instruction, got none" in capsys.readouterr().err


def test_predict_asks_where_to(capsys):
    assert main(["trace", "predict", "--policy", "p", "--image", "a.png", "--prompt", "go"]) == 1
    error = capsys.readouterr().err
    assert "where to?" in error and error.count("\n") == 1


def test_what_a_checkpoint_lacks_can_be_given(policy, monkeypatch, tmp_path, capsys):
    asked = {}
    monkeypatch.setattr(foveate.policy.LoadOptions, "check_layers", lambda *_: None)
    monkeypatch.setattr(foveate.policy.LoadOptions, "load", lambda self: asked.update(vars(self)) or policy)
    given = {"robot": "droid", "tokenizer": "t.model", "asset_id": "mine", "action_horizon": 15, "num_steps": 3}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    words += ["--pruner", "random", "--pruner.keep_ratio", "0.25"]
    out = ["--prompt", "go", "--trace_out_dir", str(tmp_path)]
    assert main(["trace", "predict", "--checkpoint", "p", *out, *words]) == 1
    assert "a picture of each of its views" in capsys.readouterr().err  # it got as far as the pictures
    said = {**given, "pruner": Random(keep_ratio=0.25), "device": "cpu", "dtype": "float32", "policy": "p"}
    assert {name: asked[name] for name in said} == said


def test_actions_that_are_not_finite_are_an_error_and_no_file(predict, policy, tmp_path, capsys, monkeypatch):
    real = policy.processor.actions
    monkeypatch.setattr(policy.processor, "actions", lambda *args: real(*args) * np.nan)
    pictures = [word for name in policy.spec.views for word in ("--image", f"{name}, a.png")]
    assert predict(*pictures, "--trace_out_dir", "out") == 1
    assert "actions that are not finite" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("actions.json"))
