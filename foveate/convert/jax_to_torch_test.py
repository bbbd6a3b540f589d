"""openpi's JAX checkpoints as PyTorch folders: golden actions, layouts of orbax, bad input. Needs tensorstore."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("tensorstore", reason='needs tensorstore: pip install "foveate[convert]"')

from foveate.cli.main import main
from foveate.convert import jax_to_torch as module
from foveate.convert.jax_to_torch import JaxToTorchConfig, jax_to_torch
from foveate.convert.jax_tree_test import random_tree
from foveate.convert.orbax_test import SMALL, write_orbax
from foveate.errors import FoveateError
from foveate.models.common.tensor_files import read_header
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.model_test import golden_inputs
from foveate.models.pi0.weights import TIED_EMBEDDING, UNUSED, load_weights
from foveate.policy import load_policy
from foveate.testing.golden import golden_dir
from foveate.types import Observation
from foveate.util.shipped import TINY_TOKENIZER

pytestmark = pytest.mark.peer

GOLDEN = ("tiny_pi05", "tiny_pi05_bf16", "tiny_pi05_lora")


def convert(source: Path, out: Path, **options) -> module.JaxConversion:
    settings = {"config_name": "debug_pi05", "precision": "float32", "action_horizon": 6} | options
    return jax_to_torch(JaxToTorchConfig(str(source), str(out), **settings))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_actions_come_back(tmp_path, name):
    """Against what openpi's JAX model samples from these checkpoints; 5e-5 is the tolerance that the data suggest."""
    source = golden_dir("jax", name) / name
    result = convert(source, tmp_path / "out")
    config = Pi0Config.from_dict(json.loads((tmp_path / "out" / "config.json").read_text())["model"])
    assert config == result.model
    inputs, noise = golden_inputs(golden_dir("pi0"), "tiny")
    model = load_weights(tmp_path / "out" / "model.safetensors", config)
    golden = load_file(source.with_name(f"{name}.jax_actions.safetensors"))
    with torch.no_grad():
        for steps in (10, 3, 1):
            actions = model.decode(model.prefill(model.embed_prefix(inputs)), inputs, noise, steps)
            wanted = golden[f"sample{steps}.actions.float64_time"]
            assert (actions - wanted).abs().max() < 5e-5, (steps, (actions - wanted).abs().max())
    assert result.unused == ()
    assert len(result.merged) == (10 if name.endswith("lora") else 0)
    stats = next((source / "assets").rglob("norm_stats.json"))
    copied = tmp_path / "out" / stats.relative_to(source)
    assert copied.read_bytes() == stats.read_bytes()


def test_weights_are_bit_equal_to_the_golden_ones(tmp_path):
    convert(golden_dir("jax", "tiny_pi05") / "tiny_pi05", tmp_path / "out")
    ours, golden = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(golden_dir("pi0", "tiny_pi05.model.safetensors") / "tiny_pi05.model.safetensors"),
    )
    golden.pop(TIED_EMBEDDING[1])  # which files of openpi's own leave out
    assert ours.keys() == golden.keys()
    assert [name for name in golden if name not in UNUSED and not torch.equal(ours[name], golden[name])] == []


def test_bfloat16_leaves_in_float32_what_openpi_does(tmp_path):
    convert(golden_dir("jax", "tiny_pi05") / "tiny_pi05", tmp_path / "out", precision="bfloat16")
    file = golden_dir("pi0", "tiny_pi05.bf16_dtypes.json") / "tiny_pi05.bf16_dtypes.json"
    theirs = {
        name: {"float32": "F32", "bfloat16": "BF16"}[dtype] for name, dtype in json.loads(file.read_text()).items()
    }
    ours = {name: stored.dtype for name, stored in read_header(tmp_path / "out" / "model.safetensors").items()}
    assert ours == {name: theirs[name] for name in ours}


def test_a_pi0_with_adapters_and_its_robot_runs(tmp_path):
    """π0 with two key heads, adapters on the backbone alone, in bfloat16: from the folder to actions."""
    stats = {key: {"mean": [0.0] * 8, "std": [1.0] * 8} for key in ("state", "actions")}
    step = write_orbax(tmp_path / "step", random_tree(SMALL, lora=(2, 0)), dtype="bfloat16")
    asset = step / "assets" / "lab" / "arm"
    asset.mkdir(parents=True)
    (asset / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}))
    result = convert(
        step, tmp_path / "out", config_name="debug", robot="libero", tokenizer=str(TINY_TOKENIZER), precision="bfloat16"
    )
    assert len(result.merged) == 5 and result.model.llm.num_kv_heads == 2
    policy = load_policy(tmp_path / "out")
    image = np.zeros((32, 32, 3), np.uint8)
    chunk = policy.infer(Observation({"image": image, "wrist_image": image}, np.zeros(8, np.float32), "open"))
    assert chunk.actions.shape == (6, 7) and np.isfinite(chunk.actions).all()
    again = convert(step / "params", tmp_path / "again", config_name="debug", precision="bfloat16")
    assert again.arrays == result.arrays
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert first == second


def test_the_command_line(tmp_path, capsys):
    write_orbax(tmp_path / "step", random_tree(SMALL) | {"spare": np.zeros(2, np.float32)})
    verb = ["convert", "jax-to-torch", "--config_name", "debug", "--checkpoint_dir", str(tmp_path / "step")]
    assert main([*verb, "--inspect_only"]) == 0
    out = capsys.readouterr().out
    assert "action_in_proj/kernel [8, 12] float32" in out and not (tmp_path / "out").exists()
    assert main([*verb, "--output_path", str(tmp_path / "out"), "--precision", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert "unused: spare" in out and "no norm stats" in out and "2 for keys" in out
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["unused"] == ["spare"] and record["arrays"]["spare"] == {"shape": [2], "dtype": "float32"}
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "2 for keys" in capsys.readouterr().out


def test_names_and_sizes_that_do_not_fit(tmp_path):
    step = write_orbax(tmp_path / "step", random_tree(SMALL))
    with pytest.raises(FoveateError, match="tokenizer /nowhere: no such file"):
        convert(step, tmp_path / "out", tokenizer="/nowhere")
    cases = {
        "unknown openpi config 'pi0_librero'; did you mean 'pi0_libero'": {"config_name": "pi0_librero"},
        "the tree is a π0's, and pi05_droid is a π0.5's": {"config_name": "pi05_droid"},
        r"sizes are not those of pi0_droid:\n  llm.width: 2048 in pi0_droid, 20 in the checkpoint": {
            "config_name": "pi0_droid"
        },
        "does not tell how many actions": {"config_name": None, "action_horizon": None},
        "robot aloha takes actions of 14 numbers, the checkpoint's have 8": {"config_name": "debug", "robot": "aloha"},
        "norm stats in .*: 'droid'": {"config_name": "debug", "asset_id": "droid"},
    }
    for message, options in cases.items():
        with pytest.raises(FoveateError, match=message):
            convert(step, tmp_path / "out", **options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step"]


def test_folders_that_are_no_checkpoint(tmp_path):
    write_orbax(tmp_path / "run" / "100", random_tree(SMALL))
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "model.safetensors").touch()
    (tmp_path / "begun" / "params.orbax-checkpoint-tmp-1").mkdir(parents=True)
    (tmp_path / "old" / "params").mkdir(parents=True)
    (tmp_path / "old" / "params" / "checkpoint").touch()
    other = write_orbax(tmp_path / "other", {"dense/kernel": np.zeros((2, 2), np.float32)})
    cases = {
        "no such checkpoint folder": tmp_path / "nowhere",
        r"holds 1 training step: name one of them, as .*/100": tmp_path / "run",
        "it is a PyTorch folder already": tmp_path / "torch",
        "did not come to an end": tmp_path / "begun",
        "msgpack": tmp_path / "old",
        r"no tree of π0 or π0.5.*top level holds 'dense'": other,
    }
    for message, folder in cases.items():
        with pytest.raises(FoveateError, match=message):
            convert(folder, tmp_path / "out", config_name="debug")


def test_damaged_checkpoints(tmp_path):
    """A piece that is gone would be read as zeros."""
    step = write_orbax(tmp_path / "files", random_tree(SMALL), database=False, pieces=3)
    (step / "params" / "params.PaliGemma.llm.layers.mlp.linear.value" / "0.0.1").unlink()
    with pytest.raises(FoveateError, match=r"mlp.linear.value: 2 of 3 pieces are there"):
        convert(step, tmp_path / "out", config_name="debug")
    step = write_orbax(tmp_path / "database", random_tree(SMALL))
    for file in (step / "params" / "d").iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(FoveateError, match="copy or download"):
        convert(step, tmp_path / "out", config_name="debug")
    tree = random_tree(SMALL)
    tree["action_in_proj/kernel"][0, 0] = np.nan
    step = write_orbax(tmp_path / "nan", tree)
    with pytest.raises(FoveateError, match=r"action_in_proj/kernel \(8, 12\): action_in_proj.weight: NaN.* in 1 of 96"):
        convert(step, tmp_path / "out", config_name="debug")
    tree = random_tree(SMALL) | {"PaliGemma/llm/final_norm/scale": np.zeros(7, np.float32)}
    step = write_orbax(tmp_path / "shape", tree)
    with pytest.raises(FoveateError, match=r"final_norm/scale \(7,\): .*expected shape \(20,\), got \(7,\)"):
        convert(step, tmp_path / "out", config_name="debug")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_nothing_else_is_overwritten(tmp_path):
    step = write_orbax(tmp_path / "step", random_tree(SMALL))
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("draft")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(FoveateError, match="something is there that is no conversion"):
            convert(step, precious, config_name="debug", **options)
    assert (precious / "thesis.tex").read_text() == "draft"
    convert(step, tmp_path / "out", config_name="debug")
    with pytest.raises(FoveateError, match="holds an earlier conversion; replace it with --overwrite"):
        convert(step, tmp_path / "out", config_name="debug")
    convert(step, tmp_path / "out", config_name="debug", overwrite=True)


def test_a_killed_conversion_leaves_nothing_that_looks_whole_and_starts_anew(tmp_path):
    step = write_orbax(tmp_path / "step", random_tree(SMALL))
    script = (
        "import sys, time\n"
        "from foveate.convert import jax_to_torch as module\n"
        "write = module.TensorWriter.write\n"
        "def slow(self, name, tensor):\n"
        "    write(self, name, tensor); print(name, flush=True); time.sleep(60)\n"
        "module.TensorWriter.write = slow\n"
        "module.jax_to_torch(module.JaxToTorchConfig(sys.argv[1], sys.argv[2], 'debug'))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(step), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline()
    with pytest.raises(FoveateError, match=f"process {process.pid} is converting there"):
        convert(step, tmp_path / "out", config_name="debug")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.draft").exists()
    convert(step, tmp_path / "out", config_name="debug")
    assert not (tmp_path / ".out.draft").exists()
    assert (tmp_path / "out" / "conversion.json").exists()
