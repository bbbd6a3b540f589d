"""Reading and writing weights: names, strictness, dtypes, memory."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.errors import FoveateError
from foveate.models.common.tensor_files import read_header
from foveate.models.pi0 import weights
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.model_test import TINY, make_model
from foveate.models.pi0.weights import (
    TIED_EMBEDDING,
    UNUSED,
    expected_shapes,
    load_weights,
    nearest,
    openpi_keys,
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


def before_4_52(key: str) -> str:
    key = key.replace("paligemma.model.language_model.", "paligemma.language_model.model.")
    key = key.replace("paligemma.lm_head", "paligemma.language_model.lm_head")
    key = key.replace("paligemma.model.vision_tower.", "paligemma.vision_tower.")
    return key.replace("paligemma.model.multi_modal_projector", "paligemma.multi_modal_projector")


@pytest.mark.parametrize(
    ("rename", "listed"),
    [
        (lambda key: key, ()),
        (lambda key: "model." + key, ()),
        (before_4_52, ("names of transformers before 4.52",)),
        (lambda key: "model." + before_4_52(key), ("names of transformers before 4.52",)),
        (lambda key: "_orig_mod.model." + key, ("wrapped by",)),
        (lambda key: "model._orig_mod." + key, ("wrapped by",)),
        (lambda key: "module._orig_mod.model." + key, ("wrapped by",)),
        (lambda key: key.replace("gemma_expert.", "gemma_expert._orig_mod."), ("wrapped by",)),
        (lambda key: key.replace("vision_tower.vision_model.", "vision_tower."), ("SigLIP without",)),
        (
            lambda key: "_orig_mod." + before_4_52(key).replace("vision_tower.vision_model.", "vision_tower."),
            ("wrapped by", "names of transformers before 4.52", "SigLIP without"),
        ),
    ],
)
@pytest.mark.parametrize("pi05", [True, False])
def test_known_other_names_are_understood_and_listed(
    tmp_path: Path, pi05: bool, rename: Callable[[str], str], listed: tuple[str, ...]
) -> None:
    model = make_model(pi05)
    path = tmp_path / "model.safetensors"
    write(path, {rename(key): value for key, value in openpi_state_dict(model).items()})
    loaded = load_weights(path, model.config)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    lines = openpi_keys(read_header(path)).renamed
    assert len(lines) == len(listed) and all(any(word in line for line in lines) for word in listed)


def test_two_keys_of_one_tensor_are_refused(tmp_path: Path) -> None:
    state = openpi_state_dict(make_model())
    state["model.action_in_proj.bias"] = torch.zeros_like(state["action_in_proj.bias"])
    with pytest.raises(
        FoveateError, match=r"'(model\.)?action_in_proj\.bias' and '(model\.)?action_in_proj\.bias' are two keys"
    ):
        load_weights(write(tmp_path / "model.safetensors", state), TINY)


def test_the_two_names_of_the_embedding_must_agree(tmp_path: Path) -> None:
    state = openpi_state_dict(make_model())
    state[TIED_EMBEDDING[1]] = state[TIED_EMBEDDING[0]] + 1
    with pytest.raises(FoveateError, match="are one tensor"):
        load_weights(write(tmp_path / "model.safetensors", state), TINY)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_no_floats_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in openpi_state_dict(make_model()).items()}
    with pytest.raises(FoveateError, match=r"are not supported; convert them to one of F64, F32, F16, BF16"):
        load_weights(write(tmp_path / "model.safetensors", state), TINY)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_with_their_key(tmp_path: Path, bad: float) -> None:
    state = openpi_state_dict(make_model())
    key = "paligemma_with_expert.gemma_expert.model.layers.1.self_attn.k_proj.weight"
    state[key][2, 3] = bad
    with pytest.raises(FoveateError, match=f"'{key}' holds NaN, infinity .* in 1 of"):
        load_weights(write(tmp_path / "model.safetensors", state), TINY)


def test_shards_load_like_one_file(tmp_path: Path) -> None:
    model = make_model()
    state = openpi_state_dict(model)
    keys = sorted(state)
    parts = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for name, part in parts.items():
        write(tmp_path / name, {key: state[key] for key in part})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in parts.items() for key in part}}))
    loaded = load_weights(index, model.config)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["model.vlm_with_expert.lm_expert.x"], "SmolVLA"),
        (["base_model.model.q_proj.lora_A.weight"], "adapters"),
        (["encoder.weight", "decoder.weight"], "nearest: none"),
    ],
)
def test_a_key_set_that_fits_nothing_says_what_is_nearest(keys: list[str], text: str) -> None:
    assert text in nearest(keys)


def test_a_key_set_that_nearly_fits_says_what_to_and_how() -> None:
    names = set(expected_shapes(dataclasses.replace(TINY, pi05=False)))
    assert nearest(names).startswith("nearest: π0, ")
    renamed = {name.replace("action_out_proj", "action_out_projection") for name in expected_shapes(TINY)}
    text = nearest(renamed)
    assert (
        text.startswith("nearest: π0.5, ") and "action_out_projection.weight in place of action_out_proj.weight" in text
    )
    assert "π0.5 with 'policy.net.' before its keys" in nearest(
        {"policy.net." + name for name in expected_shapes(TINY)}
    )


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
