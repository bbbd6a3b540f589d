"""OpenVLA-OFT on the tiny golden checkpoint: traces against the reference's numbers, every verb and every pruner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import foveate
from foveate.models.base import ModelInputs
from foveate.models.openvla_oft.processing import EMPTY, pad_prompts
from foveate.policy import Policy, TraceOptions
from foveate.testing.golden import golden_dir
from foveate.testing.openvla_oft import oft_observation, runnable_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runnable_checkpoint(tmp_path_factory.mktemp("oft") / "oft--40000_chkpt")


@pytest.fixture
def seeing_golden(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """The policy with LightVLA, its processor giving the reference's own inputs."""
    policy = foveate.load_policy(checkpoint, pruner="lightvla")
    given = load_file(golden_dir("openvla_oft", "inputs.safetensors") / "inputs.safetensors")
    pixels = given["pixel_values"]
    tokens, masks = pad_prompts([[*given["input_ids"][0].tolist(), EMPTY]])
    images = torch.stack((pixels[:, 3:6], pixels[:, 9:12]), 1)
    inputs = ModelInputs(images, torch.ones(1, 2, dtype=torch.bool), tokens, masks, given["proprio"])
    monkeypatch.setattr(policy.processor, "inputs", lambda observations: inputs)
    return policy


def test_a_trace_holds_what_the_reference_computes(seeing_golden: Policy) -> None:
    """Scores, lengths and attention as LightVLA's tracer defines them, recomputed from the reference's tensors."""
    golden = load_file(golden_dir("openvla_oft", "outputs_fp32.safetensors") / "outputs_fp32.safetensors")
    options = TraceOptions(attn_layers=(0, -1), raw_score=True)
    trace = seeing_golden.infer(oft_observation(), evidence=options).trace
    assert trace is not None and trace.keep is not None
    keep, score = golden["pruner.keep_mask"][0].bool(), golden["pruner.score"][0].double()
    np.testing.assert_array_equal(trace.keep["keep_mask"], keep)
    np.testing.assert_allclose(trace.keep["raw_score"], score, atol=2e-4)
    np.testing.assert_allclose(trace.keep["router_scores"], score.amax(0), atol=2e-4)
    np.testing.assert_allclose(trace.keep["max_per_query"], score.amax(1), atol=2e-4)
    entropy = -(score.softmax(1) * score.log_softmax(1)).sum(1)
    np.testing.assert_allclose(trace.keep["entropy_per_query"], entropy, atol=2e-4)

    before, after = golden["embeddings"].shape[1], golden["pruned.tokens"].shape[1]
    patches, kept = len(keep), int(keep.sum())
    assert trace.seq_lens["pre_seq_len"] == before == 605 and trace.seq_lens["post_seq_len"] == after == 128
    assert trace.seq_lens["pre_task_len"] == before - patches - 1 == 92
    assert trace.seq_lens["post_task_len"] == after - 1 - kept == 92

    assert set(trace.attn) == {0, 2}
    for layer, attention in trace.attn.items():
        task_to_vision = golden[f"pruned.attn_task_to_vision.{layer}"][0]  # [heads, 92 task tokens, kept patches]
        expected = np.zeros((4, patches))
        expected[:, keep] = task_to_vision.mean(1)
        np.testing.assert_allclose(attention, expected, atol=1e-5)


def test_lengths_of_all_tokens_and_of_padded_rows(checkpoint: Path) -> None:
    """Without a pruner nothing is dropped; a shorter prompt of a batch counts its own words."""
    batch = [oft_observation(), oft_observation("open the top drawer of the wooden cabinet")]
    full = foveate.load_policy(checkpoint).infer_batch(batch, evidence=TraceOptions())
    pruned = foveate.load_policy(checkpoint, pruner="lightvla").infer_batch(batch, evidence=TraceOptions())
    for whole, chosen in zip(full, pruned, strict=True):
        lengths, kept = chosen.trace.seq_lens, int(chosen.trace.keep["keep_mask"].sum())
        assert whole.trace.seq_lens == {**lengths, "post_seq_len": lengths["pre_seq_len"]}
        assert lengths["pre_seq_len"] - lengths["post_seq_len"] == 512 - kept
        assert lengths["pre_task_len"] == lengths["pre_seq_len"] - 512 - 1 == lengths["post_task_len"]
    assert pruned[0].trace.seq_lens["pre_task_len"] < pruned[1].trace.seq_lens["pre_task_len"]
