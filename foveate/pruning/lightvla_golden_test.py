"""LightVLA against golden numbers of the reference: scores, choices, both modes, gradients, noise, padding."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from foveate.pruning.lightvla_test import pruner, relative
from foveate.testing.golden import golden_dir
from foveate.testing.pruning import prune
from foveate.types import Prefix, Span, TokenLayout

EXACT = [
    *(f"rand_P16_T5_D32_s{s}" for s in (1, 2)),
    "rand_P16_T5_D64_s3",
    *(f"rand_P16_T20_D32_s{s}" for s in (5, 6)),
    "rand_P16_T20_D64_s7",
    *(f"rand_P64_T5_D32_s{s}" for s in (9, 10)),
    "rand_P64_T5_D64_s11",
    *(f"rand_P64_T20_D32_s{s}" for s in (13, 14)),
    "rand_P64_T20_D64_s15",
    "rand_P256_T5_D32_s17",
    "clustered_P64_T20_D64",
    "zero_task_P64_T20_D64",
    "T1_P16_D32",
    "T1_P64_D64",
    "nomask_P16_T5_D32",
    "posoff_P16_T5_D32",
]
TIED = ["dup_P16_T5_D32", "allequal_P16_T5_D32"]
"""float32, but ties decide which patch is chosen: only scores are compared."""
BF16 = ["bf16_P64_T20_D64", "bf16_clustered_P64_T20_D64"]
"""The reference scores in bfloat16, foveate in float32: close, not equal, and near ties fall otherwise."""


def golden(case: str) -> tuple[dict[str, torch.Tensor], Prefix]:
    folder = golden_dir("lightvla", "pruner.safetensors")
    facts = {c["name"]: c for c in json.loads((folder / "index.json").read_text())["cases"]}
    if case not in facts:
        pytest.skip(f"{case} is not in {folder}")
    tensors = {
        k.split("/")[1]: v for k, v in load_file(folder / "pruner.safetensors").items() if k.startswith(case + "/")
    }
    # The reference never looks at the mask in its score, so it is all ones here; see the test on padding below.
    return tensors, bos_prefix(tensors["tokens"], tensors["position_ids"], facts[case]["P"])


def bos_prefix(tokens: torch.Tensor, positions: torch.Tensor, patches: int, mask: torch.Tensor | None = None) -> Prefix:
    """[BOS | patches | task], as the reference orders them; BOS stands before the images and asks nothing."""
    spans = (
        Span("bos", "text", 0, 1),
        Span("image", "image", 1, 1 + patches),
        Span("text", "text", 1 + patches, tokens.shape[1]),
    )
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
    return Prefix(tokens, mask, positions, TokenLayout(spans))


@pytest.mark.parametrize("case", [*EXACT, *TIED, "batch3_P16_T5_D32"])
def test_golden_score(case):
    expected, prefix = golden(case)
    _, keep = prune(pruner(scope="joint", store_raw_score=True), prefix)
    torch.testing.assert_close(keep.raw_score, expected["score"], rtol=0, atol=1e-5)
    torch.testing.assert_close(keep.scores, expected["score"].amax(-2), rtol=0, atol=1e-5)
    if case not in TIED:
        assert torch.equal(keep.raw_score.argmax(-1), expected["argmax"])
        assert torch.equal(keep.keep_mask, expected["keep_mask"])


@pytest.mark.parametrize("scope", ["joint", "view"])  # with one image they are the same
@pytest.mark.parametrize("case", EXACT)
def test_golden_evaluation(case, scope):
    expected, prefix = golden(case)
    thin, keep = prune(pruner(scope=scope), prefix)
    assert torch.equal(keep.keep_mask, expected["keep_mask"])
    assert torch.equal(thin.embeds, expected["eval.tokens"])
    assert torch.equal(thin.position_ids, expected["eval.position_ids"])
    if "eval.attention_mask" in expected:
        assert torch.equal(thin.mask, expected["eval.attention_mask"])


@pytest.mark.parametrize("case", [*EXACT, "batch3_P16_T5_D32"])
def test_golden_training(case):
    expected, prefix = golden(case)
    leaf = prefix.embeds.clone().requires_grad_()
    out, _ = prune(pruner(scope="joint", train_form="paper").train(), dataclasses.replace(prefix, embeds=leaf))
    torch.testing.assert_close(out.embeds, expected["train.tokens"], rtol=0, atol=1e-5)
    assert torch.equal(out.position_ids, expected["train.position_ids"])
    if "train.attention_mask" in expected and case != "batch3_P16_T5_D32":  # there it is padded, see below
        assert torch.equal(out.mask, expected["train.attention_mask"])
    for loss, name in (
        ((out.embeds**2).sum(), "train.grad_sumsq"),
        ((out.embeds * expected["train.proj_w"]).sum(), "train.grad_proj"),
    ):
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        assert relative(gradient, expected[name]) < 2e-5


@pytest.mark.parametrize("case", BF16)
def test_golden_bfloat16_is_close(case):
    expected, prefix = golden(case)
    _, keep = prune(pruner(scope="joint", store_raw_score=True), prefix)
    reference = expected["score"].float()
    assert (keep.raw_score - reference).abs().max() < 2**-6 * reference.abs().max()
    # Whatever foveate chooses is the reference's best up to its rounding.
    chosen = reference.gather(-1, keep.raw_score.argmax(-1, keepdim=True)).squeeze(-1)
    assert (reference.amax(-1) - chosen).max() < 2**-6 * reference.abs().max()


def test_golden_noise(monkeypatch):
    noise = load_file(golden_dir("lightvla", "lightvla_noise.safetensors") / "lightvla_noise.safetensors")
    prefix = bos_prefix(noise["tokens"], torch.arange(22)[None], 16)
    monkeypatch.setattr(torch, "rand_like", lambda score: noise["uniform"].view_as(score))
    noisy = pruner(scope="joint", train_form="paper").train()
    noisy.set_noise_scale(0.5)
    out, _ = prune(noisy, prefix)
    torch.testing.assert_close(out.embeds, noise["out_tokens"], rtol=0, atol=1e-5)
    assert torch.equal(out.position_ids, noise["out_position_ids"])
    evaluated, keep = prune(noisy.eval(), prefix)
    noisy.set_noise_scale(None)
    assert torch.equal(prune(noisy, prefix)[1].keep_mask, keep.keep_mask), "noise is for training alone"
    assert evaluated.embeds.shape[1] < 22


def test_golden_batch_with_padding():
    """Where samples have no padding both agree; the reference takes padding as task tokens, foveate does not."""
    expected, prefix = golden("batch3_P16_T5_D32")
    padded = dataclasses.replace(prefix, mask=expected["attention_mask"])
    thin, keep = prune(pruner(scope="joint", store_raw_score=True), padded)
    torch.testing.assert_close(keep.raw_score[:2], expected["score"][:2], rtol=0, atol=1e-5)
    assert torch.equal(keep.keep_mask[:2], expected["keep_mask"][:2])
    for sample in range(2):  # the reference raises here; each sample is right on its own
        kept = torch.cat([torch.tensor([True]), expected["keep_mask"][sample], torch.ones(5, dtype=torch.bool)])
        assert torch.equal(thin.embeds[sample, thin.mask[sample]], prefix.embeds[sample, kept])
    shorter = bos_prefix(prefix.embeds[2:, :-1], prefix.position_ids[2:, :-1], 16)
    _, alone = prune(pruner(scope="joint", store_raw_score=True), shorter)
    torch.testing.assert_close(keep.raw_score[2:], alone.raw_score, rtol=0, atol=1e-5)
    assert (keep.raw_score[2] - expected["score"][2]).abs().max() > 1e-3
