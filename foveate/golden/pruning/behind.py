"""Methods that choose behind a backbone layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from foveate.golden.pruning.cases import NUMBERS, TIE, Case, GivenAttention, inside, prefix_of
from foveate.golden.report import Report, Tolerance
from foveate.models.base import pack
from foveate.models.common.layers import RMSNorm
from foveate.pruning import DART, FastV, SparseVLM
from foveate.pruning.dart import pivot_order
from foveate.pruning.sparsevlm import Version, density_of, density_peaks, rater_scores, raters, recycle, rotary_term
from foveate.types import Prefix


def dart(case: Case, report: Report) -> None:
    given, params = case.tensors, case.params
    prefix = prefix_of(given["hidden"], params["start"], params["P"])
    norm = RMSNorm(params["D"], params["norm_eps"], base=0.0).to(prefix.embeds.device)
    norm.weight.data = given["norm_weight"]
    with torch.no_grad():
        case.numbers(report, "state", norm(given["hidden"]))
    case.numbers(report, "key_l1", given["keys"].abs().sum((1, 3))[0])
    seen = inside(GivenAttention(given["keys"], given["keys"].new_zeros(0)), norm=norm)
    for name, facts, apart in case.runs():
        asked = facts.get("retain_token_num_for_llava_next") or facts["max_num_trunction"]
        # 0 leaves what any number below a pick for each pivot does: the pivots.
        budget = {"keep_ratio": 1 - facts["reduction_ratio"]} if asked is None else {"keep_tokens": max(1, asked)}
        pivots = {"image_pivots": facts["pivot_image_token"], "text_pivots": facts["pivot_text_token"]}
        pruner = DART(layer=0, reference=True, **budget, **pivots).build().eval()
        kept = pruner.select(prefix, inside=seen).keep.indices()[0]
        case.indices(report, f"{name}.kept", kept, apart)
        if apart and f"{name}.pivot_order" in given:
            said = given[f"{name}.pivot_text"] + params["start"] + params["P"]
            places = [*(given[f"{name}.pivot_image"] + params["start"]).tolist(), *said.tolist()]
            ours = torch.tensor(pivot_order(places), device=said.device)
            case.indices(report, f"{name}.pivot_order", ours, True)


def fastv(case: Case, report: Report) -> None:
    given, params = case.tensors, case.params
    prefix = prefix_of(given["hidden"], params["start"], params["P"])
    seen = inside(GivenAttention(given["attn"], given["attn"]))
    for budget in params["budgets"]:
        name = f"k{budget}"
        if name in case.raises:
            continue
        selection = FastV(keep_tokens=budget, reference=True).build().eval().select(prefix, inside=seen)
        left = pack(selection.apply(prefix))
        assert selection.keep.scores is not None
        apart = not case.ambiguous and case.apart({"gap": params["min_gap"].get(name)})
        case.numbers(report, "score", selection.keep.scores[0])
        case.indices(report, f"{name}.kept", selection.keep.indices()[0], apart)
        if apart:
            places = (
                torch.arange(len(prefix.layout), device=left.embeds.device) if left.source is None else left.source[0]
            )
            case.indices(report, f"{name}.kept_tokens", places, True)
            case.indices(report, f"{name}.position_ids", left.position_ids, True)
            case.indices(report, f"{name}.key_mask", selection.mask, True)


def sparsevlm(case: Case, report: Report) -> None:
    given, params = case.tensors, case.params
    start, version = params["start"], cast(Version, case.variant.removeprefix("v"))
    whole = prefix_of(given["embeds"], start, params["P"])
    case.numbers(report, "rater_score", rater_scores(whole)[0])
    rating = raters(whole)
    case.indices(report, "raters", rating[0].nonzero().squeeze(-1), not case.ambiguous)
    if "rope_weights" in given:
        places = torch.arange(given["embeds"].shape[1], device=given["embeds"].device)
        ours = rotary_term(places[:, None] - places, params["head_dim"])
        case.numbers(report, "rope_weights", ours, Tolerance(1e-4, 1e-4))
    for name, facts in params["runs"].items():
        if name in case.raises:
            continue
        prefix = prefix_of(given["hidden"], start, params["P"])
        for stage, budget in enumerate(facts["budgets"]):
            here = facts[f"stage{stage}"]
            key = f"{name}.s{stage}" if params["stages"] > 1 else name
            weights = given[f"{key}.attn"] if f"{key}.attn" in given else given["attn"]
            apart = not case.ambiguous and case.apart(here)
            _stage(case, report, key, prefix, whole, weights, budget, here, apart, version)
            # Its own position ids go on with every token: those of the first stage (2.0), or counted anew (1.0).
            left = prefix_of(given[f"{key}.tokens_out"], start, here["visual_out"])
            prefix = replace(left, position_ids=given[f"{key}.position_ids_out"])


def _stage(
    case: Case,
    report: Report,
    key: str,
    prefix: Prefix,
    whole: Prefix,
    weights: Tensor,
    budget: int,
    facts: Mapping[str, Any],
    apart: bool,
    version: Version,
) -> None:
    given = case.tensors
    width = case.params["head_dim"]
    attention = GivenAttention(weights.new_zeros(*weights.shape[:3], width), weights)
    config = SparseVLM(reference=True, layers=(0,), budgets=(budget,), keep_tokens=budget, version=version)
    selection = config.build().eval().select(prefix, inside=inside(attention, whole=whole))
    assert selection.keep.scores is not None and selection.embeds is not None
    scores = selection.keep.scores[0]
    tolerance = NUMBERS if version == "1.0" else Tolerance(1e-4, 1e-4)
    case.numbers(report, f"{key}.score", scores, tolerance)
    if not apart:
        report.exclude("pruning sparsevlm", "kept", "exact", given[f"{key}.kept"].numel())
        return
    patches = prefix.embeds[0, case.params["start"] : case.params["start"] + facts["visual_in"]]
    found = recycle(scores, patches, facts["top"], facts.get("merge_candidates", 0), facts.get("clusters", 0))
    case.indices(report, f"{key}.kept", found.kept, True)
    merged = patches[:0]
    if version == "1.0":
        case.indices(report, f"{key}.merge.source", found.members, True)
        distance, golden = given[f"{key}.merge.distance"], given[f"{key}.merge.density_noisy"]
        case.numbers(report, f"{key}.merge.density", density_of(distance, facts["clusters"]))
        # The noise decides ties: from the noisy densities on.
        peaks, cluster = density_peaks(distance, golden, facts["clusters"])
        # Equal scores: which of the equals is a centre changes no cluster where there is one alone.
        scored = given[f"{key}.merge.score"].sort(descending=True).values
        tied = (
            bool((scored[: facts["clusters"]] - scored[1 : facts["clusters"] + 1]).min() < TIE)
            if len(scored) > 1
            else False
        )
        case.indices(report, f"{key}.merge.centers", peaks, not tied)
        case.indices(report, f"{key}.merge.cluster", cluster, True)
        joined = [patches[found.members[cluster == c]] for c in range(facts["clusters"])]
        merged = torch.stack([x.sum(0) / (len(x) + 1e-6) for x in joined])
        case.numbers(report, f"{key}.merge.merged", merged)
    left = pack(selection.apply(prefix))
    order = left.position_ids[0].argsort()
    # What is merged is of the noisy densities; all else is what the method selects.
    rest = prefix.embeds[:, case.params["start"] + facts["visual_in"] :]
    tokens = torch.cat((prefix.embeds[:, : case.params["start"]], patches[None, found.kept], merged[None], rest), 1)
    case.numbers(report, f"{key}.tokens_out", tokens, tolerance)
    ours = left.embeds[:, order]
    ours = torch.cat((ours[:, : len(order) - rest.shape[1] - len(merged)], merged[None], rest), 1)
    case.numbers(report, f"{key}.tokens_out", ours, tolerance)
    case.indices(report, f"{key}.position_ids_out", left.position_ids[:, order], True)
