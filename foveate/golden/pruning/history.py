"""Methods that go by earlier control steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveate.golden.pruning.cases import NUMBERS, Case, GivenAttention, inside, prefix_of
from foveate.golden.report import Report
from foveate.models.common.layers import rms_norm
from foveate.pruning import VLAADP, VLAPruner
from foveate.pruning.base import words_of
from foveate.pruning.fastv import attention_to_patches
from foveate.pruning.inside import Inside
from foveate.pruning.vla_adp import Gate
from foveate.pruning.vla_pruner import SESSION, Asking, guide_of
from foveate.types import Prefix, Span, TokenLayout


class FirstLayer(nn.Module):
    """A backbone's first layer, as far as VLA-ADP borrows it."""

    def __init__(self, given: Mapping[str, Tensor], heads: int, eps: float) -> None:
        super().__init__()
        self.given, self.heads, self.eps = given, heads, eps

    def queries_keys(self, x: Tensor, rope: None) -> tuple[Tensor, Tensor]:
        normed = rms_norm(x, self.eps) * self.given["norm_weight"]
        q, k = (normed @ self.given[f"{name}_proj"].T for name in "qk")
        return q.unflatten(-1, (self.heads, -1)).transpose(1, 2), k.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def vla_adp(case: Case, report: Report) -> None:
    if case.variant == "gate":
        _gate(case, report)
        return
    given, params = case.tensors, case.params
    views, per_view = params["views"], params["per_view"]
    tokens = torch.cat((given["patches"], given["text"]), 1)
    spans = [Span(f"view{v}", "image", v * per_view, (v + 1) * per_view) for v in range(views)]
    layout = TokenLayout((*spans, Span("text", "text", views * per_view, tokens.shape[1])))
    mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    prefix = Prefix(tokens, mask, mask.cumsum(1) - 1, layout, full=True)
    seen = Inside((FirstLayer(given, params["heads"], params["norm_eps"]),))
    for name, facts, apart in case.runs():
        split = None if facts["split"] is None else tuple(facts["split"])
        config = VLAADP(keep_ratio=facts["keep_ratio"], split=split, gate=False, reference=True)
        keep = config.build().eval().select(prefix, inside=seen).keep
        assert keep.scores is not None
        case.numbers(report, "score", keep.scores[0])
        counts = [int(count) for count in keep.counts_per_view().values()]
        report.exact(
            "pruning vla_adp", "patches by view", counts == list(facts["kept"]), f"{case.name}/{name}: {counts}"
        )
        if apart:
            # One view's patches stand in the order of their score there.
            golden = given[f"{name}.kept"].sort().values
            report.exact(
                "pruning vla_adp", "kept", torch.equal(keep.indices()[0], golden), f"{case.name}/{name}: other patches"
            )


def _gate(case: Case, report: Report) -> None:
    given, params = case.tensors, case.params
    config = VLAADP(
        keep_ratio=0.5,
        decision={"avg": "average"}.get(params["decision_method"], params["decision_method"]),
        window=max(3, params["adjacent_extrema_window"]),
        keep_state=params["adjacent_last_state"],
        most_pruned=params["limit_max_consecutive_pruned"] if params["limit_consecutive_pruned_enabled"] else None,
        reference=True,
    )
    gate = Gate(config, bool(params["initial_state"]))
    places, steps = given["eef_pos"].double().cpu().numpy(), params["steps_per_window"]
    states, deltas = [int(gate.pruning)], []
    for window in range(params["windows"]):
        path = places[window * steps : (window + 1) * steps + 1]
        lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
        total = lengths[lengths >= params["min_delta_pos"]].sum()
        deltas.append(total if params["delta_method"] == "sum" else np.linalg.norm(path[-1] - path[0]))
        gate.decide(float(deltas[-1]))
        states.append(int(gate.pruning))
    device = given["state"].device
    case.numbers(report, "delta_f64", torch.tensor(np.array(deltas), device=device))
    case.indices(report, "state", torch.tensor(states, device=device), True)


def vla_pruner(case: Case, report: Report) -> None:
    if case.variant == "sequence":
        _sequence(case, report)
        return
    given, params = case.tensors, case.params
    prefix = prefix_of(given["embeds"], params["start"], params["P"])
    attention = GivenAttention(given["attn"], given["attn"])
    guide = given.get("guide_bf16", given.get("guide"))
    for name, facts, apart in case.runs():
        if facts.get("temporal") is False or facts["num_keep"] == 0:  # its baselines are other methods; nothing stays
            continue
        scores = _scores(prefix, attention, facts)
        case.numbers(report, f"{name}.score", scores)
        assert guide is not None
        asking: Asking = "all" if facts.get("prefill") else "text" if facts.get("textvision") else "last"
        # One frame of the guide itself: smoothing leaves it, up to its own rounding to bfloat16.
        config = VLAPruner(keep_ratio=1 - facts["r"], asking=asking, window=1, reference=True)
        asked = _trimmed(prefix) if facts.get("textvision") else prefix
        state = {SESSION: [guide.float()]}
        selection = config.build().eval().select(asked, state=[state], inside=inside(attention, whole=asked))
        settled = _best_of(guide, config, facts["num_keep"]) == set(given[f"{name}.guide_top"].tolist())
        case.indices(report, f"{name}.kept", selection.keep.indices()[0], apart and settled)


def _best_of(guide: Tensor, config: VLAPruner, count: int) -> set[int]:
    """The guide's best patches once it is rounded anew, which may change their order."""
    rounded = guide_of([guide.float()], config)
    assert rounded is not None
    return set(rounded.float().argsort(descending=True, stable=True)[:count].tolist())


def _trimmed(prefix: Prefix) -> Prefix:
    """The prefix with its words but the first and the last, as the `textvision` rows have it."""
    bos, image, text = prefix.layout.spans
    first = Span("first", "state", text.start, text.start + 1)
    words, last = Span("text", "text", first.stop, text.stop - 1), Span("last", "action", text.stop - 1, text.stop)
    layout = TokenLayout((bos, image, first, words, last))
    return Prefix(prefix.embeds, prefix.mask, prefix.position_ids, layout, full=True)


def _scores(prefix: Prefix, attention: GivenAttention, facts: Mapping[str, Any]) -> Tensor:
    if facts.get("textvision"):
        return attention_to_patches(prefix, attention, *words_of(_trimmed(prefix)))[0]
    slots = torch.arange(prefix.mask.shape[1], device=prefix.mask.device)[None]
    slots = slots if facts.get("prefill") else slots[:, -1:]
    return attention_to_patches(prefix, attention, slots, torch.ones_like(slots, dtype=torch.bool))[0]


def _sequence(case: Case, report: Report) -> None:
    given, params = case.tensors, case.params
    config = VLAPruner(
        keep_ratio=1 - params["r"],
        window=params["window"],
        decay=params["gamma"],
        asking="all" if params["use_prefill"] else "last",
        reference=True,
    )
    pruner, session = config.build().eval(), dict[str, Any]()
    for frame, facts in enumerate(params["per_frame"]):
        key = f"f{frame}"
        prefix = prefix_of(given[f"{key}.embeds"], params["start"], params["P"])
        last, mean = given[f"{key}.attn_mean_rows"]
        rows = (mean if params["use_prefill"] else last).expand(1, 1, prefix.mask.shape[1], -1)
        keep = pruner.select(prefix, state=[session], inside=inside(GivenAttention(rows, rows), whole=prefix)).keep
        assert keep.scores is not None and keep.history is not None
        case.numbers(report, f"{key}.score", keep.scores[0])
        if f"{key}.guide" in given:
            report.compare(
                "pruning vla_pruner",
                f"{case.name}/{key}.guide_bf16",
                keep.history["guide"][0].float(),
                given[f"{key}.guide_bf16"].float(),
                NUMBERS,
                group="guide_bf16",
            )
        case.indices(report, f"{key}.kept", keep.indices()[0], not case.ambiguous and case.apart(facts))
        received = given[f"{key}.action_attn"].mean((0, 1))
        case.numbers(report, f"{key}.history_vec", received)
        pruner.remember(given[f"{key}.history_vec"][None], [session])
