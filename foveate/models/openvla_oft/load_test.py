"""Folders in the published layout, through every verb that takes a policy; damaged ones are told apart."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import foveate
from foveate.cli.main import main
from foveate.errors import FoveateError
from foveate.policy import TraceOptions
from foveate.testing.golden import golden_dir
from foveate.testing.openvla_oft import oft_observation, runnable_checkpoint
from foveate.types import AttentionRequest


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return runnable_checkpoint(tmp_path / "oft--40000_chkpt")


def test_it_acts_is_pruned_and_traced(checkpoint: Path) -> None:
    policy = foveate.load_policy(checkpoint, pruner="lightvla")
    assert policy.spec.noise_shape is None and policy.spec.patches == 512
    batch = [oft_observation(), oft_observation("open the top drawer of the cabinet")]
    chunks = policy.infer_batch(batch, evidence=TraceOptions(attn_layers=(0, -1)))
    for chunk, seen in zip(chunks, batch, strict=True):
        assert chunk.actions.shape == (8, 7) and set(np.unique(chunk.actions[:, 6])) <= {-1, 0, 1}
        kept = int(chunk.trace.keep["keep_mask"].sum())
        assert (
            0 < kept < 512 and chunk.trace.seq_lens["pre_seq_len"] - chunk.trace.seq_lens["post_seq_len"] == 512 - kept
        )
        assert set(chunk.trace.attn) == {0, 2}
        np.testing.assert_allclose(policy.infer(seen).actions, chunk.actions, atol=1e-4)
    (_, maps), _ = policy.attend(batch, AttentionRequest((1,), ("prefix", "suffix")))
    assert maps["suffix"].maps.shape == (1, 4, 2, 16, 16) and maps["suffix"].maps.max() > 0
    assert policy.flops(2, 100)["total"] < policy.flops(2, 600)["total"]


def test_the_rows_of_lightvlas_inference_are_an_option(checkpoint: Path) -> None:
    """What either choice computes is held to the reference's numbers in `check golden`."""
    trained, theirs = (foveate.load_policy(checkpoint, action_rows=rows) for rows in (None, "lightvla"))
    assert trained.engine.model.config.action_rows == "trained"
    assert theirs.engine.model.config.action_rows == "lightvla"
    seen = oft_observation()
    assert np.abs(trained.infer(seen).actions - theirs.infer(seen).actions).max() > 1e-3
    with pytest.raises(FoveateError, match=r"action_rows: π0 and π0.* have no action head"):
        foveate.load_policy("libero_tiny", action_rows="lightvla")


def test_the_verbs_take_it(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = []
    for view, pixels in oft_observation().images.items():
        Image.fromarray(pixels).save(f"{view}.png")
        pictures += ["--image", f"{view}={view}.png"]
    words = ["--policy", str(checkpoint), *pictures, "--prompt", "put the bowl on the plate"]
    assert main(["trace", "predict", *words, "--pruner", "lightvla", "--trace_out_dir", "seen"]) == 0
    assert len(json.loads((tmp_path / "seen" / "actions.json").read_text())["actions"]) == 8
    assert main(["attn", "frame", *words, "--layers", "0,2", "--out", "look"]) == 0
    assert (tmp_path / "look" / "maps.npz").exists()
    assert main(["inspect", str(checkpoint)]) == 0
    text = capsys.readouterr().out
    assert "OpenVLA-OFT, L1 regression" in text and "nothing is missing to run it" in text


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config) -> Path:
    folder.mkdir()
    plain = {"peft_type": "LORA", "r": 32, "lora_alpha": 16, **config}
    (folder / "adapter_config.json").write_text(json.dumps(plain))
    save_file(
        {f"base_model.model.{key}": value for key, value in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def test_an_adapter_is_merged_to_the_bit(checkpoint: Path, tmp_path: Path) -> None:
    """The golden triples of base, A and B: what is loaded is what peft merged, and nothing else moves."""
    golden = load_file(golden_dir("openvla_oft", "lora_merge.safetensors") / "lora_merge.safetensors")
    modules = [key.removesuffix(".merged") for key in golden if key.endswith(".merged")]
    pairs = {f"{m}.{p}.weight": golden[f"{m}.{p}"] for m in modules for p in ("lora_A", "lora_B")}
    adapter = write_adapter(tmp_path / "lora_adapter", pairs)
    plain = foveate.load_policy(checkpoint).engine.model
    adapted = foveate.load_policy(checkpoint, lora_adapter=str(adapter)).engine.model
    changed = {n for n, p in adapted.named_parameters() if not torch.equal(p, dict(plain.named_parameters())[n])}
    assert changed == {"llm.layers.0.self_attn.qkv_proj.weight", "projector.2.weight", "dino.layers.0.qkv_proj.weight"}
    expected = golden["projector.fc2.merged"].float()
    torch.testing.assert_close(adapted.projector[2].weight.data, expected, rtol=0, atol=0)
    rows = adapted.llm.layers[0].self_attn.qkv_proj.weight[:64]
    torch.testing.assert_close(rows.data, golden[f"{modules[0]}.merged"].float(), rtol=0, atol=0)
    wrong = {**pairs, f"{modules[0]}.lora_A.weight": torch.zeros(32, 7)}
    with pytest.raises(FoveateError, match=r"q_proj: adapter of shapes A \(32, 7\).* does not fit"):
        foveate.load_policy(checkpoint, lora_adapter=str(write_adapter(tmp_path / "wrong", wrong)))
    with pytest.raises(FoveateError, match="expected a plain LoRA adapter, got 'LOHA'"):
        foveate.load_policy(checkpoint, lora_adapter=str(write_adapter(tmp_path / "loha", pairs, peft_type="LOHA")))
    for config, match in (
        ({"r": 16}, r"lora_A has rank 32, adapter_config.json says r 16"),
        ({"r": 0}, r"r: expected a whole number of 1"),
        ({"lora_alpha": None}, r"lora_alpha: expected a finite number"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern gives some modules a scale of their own"),
    ):
        folder = write_adapter(tmp_path / "-".join(config), pairs, **config)
        with pytest.raises(FoveateError, match=match):
            foveate.load_policy(checkpoint, lora_adapter=str(folder))
        shutil.rmtree(folder)
    strange = {"nowhere.lora_A.weight": torch.zeros(2, 2), "nowhere.lora_B.weight": torch.zeros(2, 2)}
    with pytest.raises(FoveateError, match=r"adapts 'nowhere', which .* does not hold"):
        foveate.load_policy(checkpoint, lora_adapter=str(write_adapter(tmp_path / "strange", strange)))


class Harm:
    def __reduce__(self):
        return (open, ("harm-was-done", "w"))


def test_what_is_wrong_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(match: str, **options) -> None:
        with pytest.raises(FoveateError, match=match):
            foveate.load_policy(checkpoint, **options)

    refused("no statistics of the data set 'nowhere'; there are those of 'libero_tiny_no_noops'", asset_id="nowhere")
    refused("num_steps: OpenVLA-OFT decodes in one pass", num_steps=4)
    (head,) = checkpoint.glob("action_head--*.pt")
    good = head.read_bytes()
    torch.save({"model.fc1.weight": Harm()}, head)
    refused(r"action_head--.*pt: it holds a Python object \(.*open\), and code is not run")
    head.write_bytes(pickle.dumps({"model.fc1.weight": Harm()}))
    refused(r"action_head--.*pt: not a checkpoint")
    assert not (tmp_path / "harm-was-done").exists()
    torch.save({"module.model.fc2.weight": torch.tensor([[float("nan")] * 64] * 7)}, head)
    refused("'model.fc2.weight' holds NaN")
    torch.save({"fc2.weight": torch.zeros(7, 64)}, head)
    refused("no action_head is in it, it lacks 'model.fc2.weight'")
    head.write_bytes(good)
    shutil.copyfile(head, checkpoint / "action_head--50000_checkpoint.pt")
    refused("several files of the action_head")
    (checkpoint / "action_head--50000_checkpoint.pt").unlink()
    (checkpoint / "vision_backbone--40000_checkpoint.pt").touch()
    refused("belongs to FiLM")
    (checkpoint / "vision_backbone--40000_checkpoint.pt").unlink()
    statistics = json.loads((checkpoint / "dataset_statistics.json").read_text())
    (only,) = statistics.values()
    (checkpoint / "dataset_statistics.json").write_text(json.dumps({"libero_goal": only, "libero_10": only}))
    refused("statistics of several data sets.*libero_goal.*pass --asset_id")
    assert foveate.load_policy(checkpoint, asset_id="libero_goal").spec.action_dim == 7
    tensors = torch.load(head, weights_only=True)
    for key in [key for key in tensors if ".model.fc2." in key]:
        tensors[key] = tensors[key].repeat(2, *[1] * (tensors[key].dim() - 1))
    torch.save(tensors, head)
    refused("action head gives actions of 14 numbers, robot 'libero_oft' has 7: .* --robot", asset_id="libero_goal")
    head.unlink()
    (checkpoint / "tokenizer.model").unlink()
    refused(r"(?s)cannot run yet, missing:.*tokenizer.*action_head: no action_head--\*_checkpoint.pt")
