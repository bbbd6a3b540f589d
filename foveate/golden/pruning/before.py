"""Methods that choose before the backbone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from foveate.golden.pruning.cases import NUMBERS, Case, decided_alike, prefix_of
from foveate.golden.report import Report
from foveate.pruning import DivPrune
from foveate.pruning.cdpruner import EXHAUSTED, most_likely, nearness, scaled_by_all
from foveate.pruning.divprune import distances, farthest
from foveate.pruning.visionzip import choose, merge


def divprune(case: Case, report: Report) -> None:
    tokens = case.tensors["tokens"][None]
    there = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    if "distance" in case.tensors:
        case.numbers(report, "distance", distances(tokens, safe=False)[0])
    for name, facts, apart in case.runs():
        count = torch.tensor([[facts["terms"]]], device=tokens.device)
        order, score = farthest(distances(tokens, safe=False), there, count, again=True)
        golden = case.tensors[f"{name}.score"]
        if not apart:
            golden = golden.where(decided_alike(order[0], case.tensors[f"{name}.order"]), torch.nan)
        case.numbers(report, f"{name}.score", score[0], against=golden)
        case.indices(report, f"{name}.order", order[0], apart)
        case.indices(report, f"{name}.kept", order[0].sort().values, apart)
        if facts["ratio"] <= 1:  # more cannot be asked for
            pruner = DivPrune(keep_ratio=facts["ratio"], reference=True).build().eval()
            kept = pruner.select(prefix_of(tokens, 0, tokens.shape[1])).keep.indices()[0]
            report.exact("pruning divprune", "select", torch.equal(kept, order[0].unique()), f"{case.name}/{name}")


def cdpruner(case: Case, report: Report) -> None:
    given = case.tensors
    images = given["image_embeds"]
    words = given["text_embeds"].expand(len(images), -1, -1)
    near = nearness(images, words, words.new_ones(words.shape[:2], dtype=torch.bool))
    relevance = scaled_by_all(-near, torch.ones_like(near, dtype=torch.bool))
    unit = F.normalize(given["features"], dim=-1)
    similarity = unit @ unit.transpose(-1, -2)
    kernel = relevance[..., None, :] * similarity * relevance[..., :, None]
    case.numbers(report, "similarity", similarity)
    case.numbers(report, "relevance", relevance)
    case.numbers(report, "kernel", kernel)
    for budget in case.params["budgets"]:
        count = torch.full((len(images), 1), budget, device=kernel.device)
        order, gain = most_likely(kernel, count)
        gap = case.params["min_gap"][f"k{budget}"]
        apart = not case.ambiguous and case.apart({"gap": gap})
        # Gains of an exhausted kernel are rounding noise, and so is what they choose.
        golden = given[f"k{budget}.gain"]
        real = golden.where(golden > EXHAUSTED, torch.nan)
        if not apart:
            real = real.where(decided_alike(order, given[f"k{budget}.order"]), torch.nan)
        case.numbers(report, f"k{budget}.gain", gain, against=real)
        if not case.params["finite"][f"k{budget}"]:
            report.exclude("pruning cdpruner", "order", "exact", order.numel())
            continue
        case.indices(report, f"k{budget}.order", order, apart)
        case.indices(report, f"k{budget}.select_idx", order.sort(-1).values, apart)


def visionzip(case: Case, report: Report) -> None:
    given = case.tensors
    score, keys = given["cls_attention"].sum(1)[:, 1:], given["keys_mean"][:, 1:]
    case.numbers(report, "score", score)
    there = torch.ones_like(score, dtype=torch.bool)
    hidden = given["hidden"][:, 1:]
    for name, facts, apart in case.runs():
        dominant, contextual = (
            torch.full((len(score), 1), facts[key], device=score.device) for key in ("dominant", "contextual")
        )
        zipped = choose(score, keys, there, dominant, contextual, True)
        merged = merge(hidden, zipped, True)
        for row in range(len(score)):
            tokens = torch.cat(
                (given["hidden"][row, :1], hidden[row, zipped.dominant[row]], merged[row, zipped.targets[row]])
            )
            ours = {"dominant": zipped.dominant[row], "targets": zipped.targets[row]}
            if apart:
                for key, marked in ours.items():
                    same = torch.equal(marked.nonzero().squeeze(-1), given[f"{name}.{key}"][row].sort().values)
                    report.exact("pruning visionzip", key, same, f"{case.name}/{name}")
                report.compare(
                    "pruning visionzip",
                    f"{case.name}/{name}.tokens_out",
                    tokens,
                    given[f"{name}.tokens_out"][row],
                    NUMBERS,
                    group="tokens_out",
                )
            else:
                same = [int(mark.sum()) for mark in ours.values()] == [facts["dominant"], facts["contextual"]]
                report.exact("pruning visionzip", "how many", same, f"{case.name}/{name}")
