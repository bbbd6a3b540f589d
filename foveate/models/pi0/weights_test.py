"""Reading and writing weights: names, strictness, dtypes, memory."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.errors import FoveateError
from foveate.models.pi0 import weights
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.model_test import TINY, make_model
from foveate.models.pi0.weights import (
    TIED_EMBEDDING,
    UNUSED,
    expected_shapes,
    load_weights,
    openpi_state_dict,
    save_weights,
    split_parameter,
)


def write(path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file(state, path)
    return path


@pytest.mark.parametrize("pi05", [True, False])
def test_round_trip_is_bit_exact(tmp_path: Path, pi05: bool) -> None:
    model = make_model(pi05)
    save_weights(model, tmp_path / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    again = load_weights(tmp_path / "model.safetensors", model.config)
    theirs = dict(again.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
        assert theirs[name].requires_grad
    assert not again.training
    save_weights(again, tmp_path / "second.safetensors")
    assert (tmp_path / "second.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_fused_projections_are_stored_as_their_parts() -> None:
    model = make_model()
    state = openpi_state_dict(model)
    attention = "paligemma_with_expert.paligemma.model.language_model.layers.1.self_attn."
    fused = model.llm.layers[1].self_attn.qkv_proj.weight
    assert [state[f"{attention}{part}_proj.weight"].shape[0] for part in "qkv"] == [32, 8, 8]
    assert torch.equal(torch.cat([state[f"{attention}{part}_proj.weight"] for part in "qkv"]), fused)
    assert {key: tuple(value.shape) for key, value in state.items()} == expected_shapes(model.config)


def test_either_name_of_the_embedding_and_lerobots_prefix(tmp_path: Path) -> None:
    model = make_model()
    state = openpi_state_dict(model)
    lm_head, embed_tokens = TIED_EMBEDDING
    other = {embed_tokens if key == lm_head else key: value for key, value in state.items()}
    both = state | {embed_tokens: state[lm_head].clone()}
    lerobot = {f"model.{key}": value for key, value in other.items()}
    lerobot |= {"normalize_inputs.buffer_observation_state.mean": torch.zeros(3)}
    unused = state | {UNUSED[0]: torch.zeros(40, 16)}
    for name, variant in {"other": other, "both": both, "lerobot": lerobot, "unused": unused}.items():
        loaded = load_weights(write(tmp_path / f"{name}.safetensors", variant), model.config)
        for key, value in openpi_state_dict(loaded).items():
            assert torch.equal(value, state[key]), (name, key)


def test_every_wrong_key_is_listed_by_name(tmp_path: Path) -> None:
    model = make_model()
    state = openpi_state_dict(model)
    gone = ["action_in_proj.bias", "paligemma_with_expert.gemma_expert.model.layers.2.mlp.up_proj.weight"]
    for key in gone:
        del state[key]
    state["wrist_proj.weight"] = torch.zeros(2)
    state["depth_tower.bias"] = torch.zeros(2)
    path = write(tmp_path / "model.safetensors", state)
    with pytest.raises(FoveateError) as caught:
        load_weights(path, model.config)
    text = str(caught.value)
    assert str(path) in text and "missing (2)" in text and "unexpected (2)" in text
    assert all(key in text for key in [*gone, "wrist_proj.weight", "depth_tower.bias"])


def test_no_embedding_at_all_is_missing(tmp_path: Path) -> None:
    state = openpi_state_dict(make_model())
    del state[TIED_EMBEDDING[0]]
    with pytest.raises(FoveateError, match=r"missing \(1\): .*lm_head"):
        load_weights(write(tmp_path / "model.safetensors", state), TINY)


def test_every_wrong_shape_is_listed(tmp_path: Path) -> None:
    model = make_model()
    save_weights(model, tmp_path / "model.safetensors")
    config = dataclasses.replace(TINY, action_dim=6)
    with pytest.raises(FoveateError) as caught:
        load_weights(tmp_path / "model.safetensors", config)
    text = str(caught.value)
    assert "wrong shapes (3)" in text
    assert "action_in_proj.weight: expected (16, 6), got (16, 5)" in text
    assert "action_out_proj.weight: expected (6, 16), got (5, 16)" in text


def test_the_other_model_does_not_load(tmp_path: Path) -> None:
    save_weights(make_model(pi05=False), tmp_path / "model.safetensors")
    with pytest.raises(FoveateError, match=r"time_mlp_in\.weight"):
        load_weights(tmp_path / "model.safetensors", TINY)


def test_truncated_absent_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(FoveateError, match="no such file"):
        load_weights(path, TINY)
    save_weights(make_model(), path)
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) // 2, 100, 4, 0):
        path.write_bytes(whole[:cut])
        with pytest.raises(FoveateError, match="not a whole safetensors file"):
            load_weights(path, TINY)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(FoveateError, match="not a whole safetensors file"):
        load_weights(path, TINY)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path: Path, dtype: torch.dtype) -> None:
    """Values are widened without change; the model keeps the dtypes of its config."""
    model = make_model()
    path = tmp_path / "model.safetensors"
    save_weights(model, path, dtype)
    assert {value.dtype for value in load_file(path).values()} == {dtype}
    loaded = load_weights(path, TINY)
    for (name, ours), theirs in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs.to(dtype).float()), name


def test_bfloat16_model_keeps_its_float32_parameters(tmp_path: Path) -> None:
    save_weights(make_model(), tmp_path / "model.safetensors")
    loaded = load_weights(tmp_path / "model.safetensors", dataclasses.replace(TINY, dtype="bfloat16"))
    assert loaded.llm.layers[0].mlp.down_proj.weight.dtype == torch.bfloat16
    assert loaded.llm.layers[0].input_layernorm.weight.dtype == torch.float32
    assert loaded.action_out_proj.weight.dtype == torch.float32


def test_gradients_split_like_weights() -> None:
    model = make_model()
    for name, parameter in model.named_parameters():
        parts = split_parameter(name, torch.ones_like(parameter), TINY)
        assert sum(part.numel() for part in parts.values()) == parameter.numel()


def test_no_pickle_is_ever_executed() -> None:
    """The module calls no unpickler: neither `torch.load` nor `pickle`."""
    tree = ast.parse(Path(weights.__file__).read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {call for call in calls if call.endswith("load")}
    assert "pickle" not in imports


PROBE = """
import json, sys
from pathlib import Path
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.weights import expected_shapes
from foveate.models.pi0.weights import load_weights

def memory(name):  # bytes
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

config = Pi0Config.from_dict(json.loads(sys.argv[2]))
expected_shapes(config)  # brings in the code of the meta device, 70 MB whatever the size of the model
before = memory("VmRSS")
model = load_weights(sys.argv[1], config)
print(memory("VmHWM") - before, sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to read peak memory")
@pytest.mark.parametrize(
    ("file_dtype", "dtype"), [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16")]
)
@pytest.mark.slow
def test_peak_memory_is_at_most_a_fifth_above_file_or_model(tmp_path: Path, file_dtype: str, dtype: str) -> None:
    """On a checkpoint of 300 MB in float32, in a process of its own."""
    stack = {"width": 1024, "depth": 2, "mlp_dim": 4096, "num_heads": 8, "num_kv_heads": 1, "head_dim": 64}
    vision = {**dataclasses.asdict(TINY.vision), "projection_dim": 1024}
    values = {**TINY.to_dict(), "vocab_size": 36_000, "llm": stack, "expert": {**stack, "width": 256}, "vision": vision}
    state = {
        name: torch.full(shape, 0.01, dtype=getattr(torch, file_dtype))
        for name, shape in expected_shapes(Pi0Config.from_dict(values)).items()
    }
    path = write(tmp_path / "model.safetensors", state)
    size = path.stat().st_size
    del state
    command = [sys.executable, "-c", PROBE, str(path), json.dumps({**values, "dtype": dtype})]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, model_bytes = map(int, done.stdout.split())
    assert max(size, model_bytes) > 250e6
    assert peak <= 1.2 * max(size, model_bytes), (
        f"peak {peak / 1e6:.0f} MB, file {size / 1e6:.0f}, model {model_bytes / 1e6:.0f}"
    )
