"""The golden group `lightvla/`: the pruner's scores, choices, both modes and gradients.

What does not count, and why:
- the choice (argmax and all that follows from it) of query rows whose two best scores are nearer than
  `TIE`: another matrix product breaks such ties otherwise (`dup_*`, `allequal_*`);
- every choice of the bfloat16 cases: the reference scores in bfloat16, where scores tie; foveate scores in float32;
- what foveate makes of a padded sample when it knows of the padding: the reference lets padding ask, foveate does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor

from foveate.golden.report import EXACT, TOLERANCES, Report, Tolerance
from foveate.models.base import pack
from foveate.models.common.layers import rms_norm
from foveate.pruning import lightvla
from foveate.types import Prefix, Span, TokenLayout

TIE = 1e-4
"""Two scores (of a few units) that are nearer than this may change places: float32 rounding is 1e-6 of them."""


def run(folder: Path, report: Report, *, device: str, dtypes: tuple[str, ...]) -> None:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    path = folder / "pruner.safetensors"
    if path.exists():
        data = load_file(path, device)
        for case in index["cases"]:
            if case["dtype"] in dtypes:
                start = case["name"] + "/"
                golden = {key.removeprefix(start): value for key, value in data.items() if key.startswith(start)}
                _compare(report, case["name"], golden, case["dtype"])
    else:
        report.skip("lightvla", "*", "absent", f"{path.name} is not in the folder")
    noise = folder / "lightvla_noise.safetensors"
    if noise.exists() and "float32" in dtypes:
        _noise(report, load_file(noise, device))


def prefix_of(tokens: Tensor, position_ids: Tensor, mask: Tensor | None, num_patches: int) -> Prefix:
    """The reference's sequence [BOS | patches | task] as a prefix; its images compete jointly, as one view."""
    stop, length = 1 + num_patches, tokens.shape[1]
    spans = (
        Span("bos", "text", 0, 1),
        Span("images", "image", 1, stop),
        Span("text", "text", stop, length),
    )
    if mask is None:
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    return Prefix(embeds=tokens, mask=mask, position_ids=position_ids, layout=TokenLayout(spans))


def _pruner(training: bool) -> lightvla.LightVLAPruner:
    config = lightvla.LightVLA(scope="joint", train_form="paper", store_raw_score=True)
    return lightvla.LightVLAPruner(config).train(training)


def _selected(pruner: lightvla.LightVLAPruner, prefix: Prefix) -> Prefix:
    """A prefix after training's selection, at its full length."""
    return pruner.select(prefix).apply(prefix)


@contextmanager
def watch_norms() -> Iterator[list[Tensor]]:
    """What the pruner's RMS norms return while the context is open: of the task, the patches, the queries."""
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(rms_norm(x))
        return seen[-1]

    with mock.patch.object(lightvla, "rms_norm", watched):
        yield seen


def _compare(report: Report, name: str, golden: dict[str, Tensor], dtype: str) -> None:
    patches = golden["argmax"].shape[1]
    # The reference scores without a mask; padded task tokens ask like real ones there.
    whole = prefix_of(golden["tokens"], golden["position_ids"], None, patches)
    with torch.no_grad(), watch_norms() as norms:
        selection = _pruner(training=False).select(whole)
    pruned, keep = pack(selection.apply(whole)), selection.keep
    assert keep.raw_score is not None
    batch = keep.keep_mask.shape[0]
    ours = {
        "patches_norm": norms[1].reshape(batch, patches, -1),
        "queries": norms[2].reshape(batch, patches, -1),
        "score": keep.raw_score,
        "argmax": keep.raw_score.argmax(-1),
        "keep_mask": keep.keep_mask,
        "top2_margin": keep.raw_score.topk(2, -1).values.diff(dim=-1).neg().squeeze(-1),
        "eval.tokens": pruned.embeds,
        "eval.position_ids": pruned.position_ids,
        "eval.attention_mask": _along(golden.get("attention_mask"), pruned),
        **_training(golden, patches),
    }
    numbers, gradient = TOLERANCES[dtype]["pruner"], TOLERANCES["float32"]["gradient"]
    untied = golden["top2_margin"].cpu() > TIE
    given = ("tokens", "position_ids", "attention_mask", "train.proj_w")
    for key, value in golden.items():
        if key in given:
            continue
        tolerance: Tolerance = EXACT
        if key in ("patches_norm", "queries", "score", "top2_margin", "eval.tokens", "train.tokens"):
            tolerance = numbers
        elif key.startswith("train.grad"):
            tolerance = gradient
        valid = None
        if key not in ("patches_norm", "queries", "score", "top2_margin"):
            if key == "argmax" and dtype == "float32":
                valid = untied
            elif dtype != "float32" or not bool(untied.all()):
                valid = torch.zeros(value.shape[:2], dtype=torch.bool)
        if valid is not None and not bool(valid.any()):
            # Where nothing counts, shapes may differ too: other ties keep another number of patches.
            report.exclude(f"lightvla {dtype}", key, str(tolerance), valid.numel())
        else:
            report.compare(f"lightvla {dtype}", f"{name}/{key}", ours[key], value, tolerance, valid=valid, group=key)
    mask = golden.get("attention_mask")
    if mask is not None and not bool(mask.all()) and dtype == "float32":
        _compare_padded(report, name, golden, mask)


def _along(mask: Tensor | None, pruned: Prefix) -> Tensor:
    """The reference's mask [B, N] gathered along with the tokens that stay, padding being False."""
    if mask is None or pruned.source is None:
        return pruned.mask if mask is None else mask
    return mask.gather(1, pruned.source.clamp_min(0)) & pruned.mask


def _compare_padded(report: Report, name: str, golden: dict[str, Tensor], mask: Tensor) -> None:
    """Evaluation that knows of the padding: samples without any are as the reference has them."""
    patches = golden["argmax"].shape[1]
    with torch.no_grad():
        keep = _pruner(training=False).select(prefix_of(golden["tokens"], golden["position_ids"], mask, patches)).keep
    assert keep.raw_score is not None
    valid = mask.all(1)[:, None].expand(-1, patches).cpu()
    numbers = TOLERANCES["float32"]["pruner"]
    for key, value, tolerance in (("score", keep.raw_score, numbers), ("keep_mask", keep.keep_mask, EXACT)):
        group = f"{key}, padded"
        report.compare("lightvla float32", f"{name}/{group}", value, golden[key], tolerance, valid=valid, group=group)


def _training(golden: dict[str, Tensor], patches: int) -> dict[str, Tensor]:
    tokens = golden["tokens"].detach().clone().requires_grad_(True)
    pruner = _pruner(training=True)
    out = _selected(pruner, prefix_of(tokens, golden["position_ids"], None, patches))
    (sumsq,) = torch.autograd.grad(out.embeds.pow(2).sum(), tokens, retain_graph=True)
    (projected,) = torch.autograd.grad((out.embeds * golden["train.proj_w"]).sum(), tokens)
    masked = _selected(
        pruner, prefix_of(golden["tokens"], golden["position_ids"], golden.get("attention_mask"), patches)
    )
    return {
        "train.tokens": out.embeds,
        "train.position_ids": out.position_ids,
        "train.attention_mask": masked.mask,
        "train.grad_sumsq": sumsq,
        "train.grad_proj": projected,
    }


def _noise(report: Report, golden: dict[str, Tensor]) -> None:
    """Training with exploration noise: the reference's uniform draw is handed to ours."""
    uniform = golden["uniform"]
    length = golden["tokens"].shape[1]
    positions = torch.arange(length, device=uniform.device)[None]
    pruner = _pruner(training=True)
    pruner.set_noise_scale(0.5)
    with torch.no_grad(), mock.patch.object(torch, "rand_like", lambda score: uniform.view_as(score)):
        out = _selected(pruner, prefix_of(golden["tokens"], positions, None, uniform.shape[-1]))
    numbers = TOLERANCES["float32"]["pruner"]
    report.compare("lightvla noise", "out_tokens", out.embeds, golden["out_tokens"], numbers)
    report.compare("lightvla noise", "out_position_ids", out.position_ids, golden["out_position_ids"], EXACT)
