"""How golden cases are read: any number of runs and stages, tensors that were not stored, what does not decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from foveate.golden.pruning import before, behind, history, run
from foveate.golden.pruning.cases import Case
from foveate.golden.report import Report


def case(
    method: str, variant: str, params: dict[str, Any], tensors: dict[str, Tensor], ambiguous: bool = False
) -> Case:
    return Case(method, "made", variant, params, {}, ambiguous, tensors)


def misses(report: Report) -> list[str]:
    return [f"{row.group} {row.note}" for row in report.misses()]


def attention_to(columns: list[int], length: int, heads: int) -> Tensor:
    """[1, heads, N, N]: every token attends to these columns, to each far more than to the next."""
    logits = torch.zeros(length)
    logits[columns] = torch.arange(len(columns), 0, -1).float() * 3
    return logits.softmax(0).expand(1, heads, length, length)


def test_several_runs_ask_by_the_same_words() -> None:
    """The words without the first and the last, in every run of a case; by hand: they attend to patches 3, 1, 0."""
    tokens = torch.randn(1, 1 + 4 + 1 + 3, 8, generator=torch.Generator().manual_seed(0))
    attention = torch.full((1, 2, 9, 9), 1 / 9)
    attention[:, :, 6:8] = attention_to([4, 2, 1], 9, 2)[:, :, 6:8]
    score = attention[0, 0, 6, 1:5]
    given = {"attn": attention, "embeds": tokens, "guide": score}
    runs = {}
    for count in (1, 2):
        runs[f"k{count}"] = {"r": 1 - count / 4, "textvision": True, "num_keep": count, "score_gap": 0.1}
        best = torch.tensor([3, 1][:count])
        given |= {f"k{count}.score": score, f"k{count}.guide_top": best, f"k{count}.kept": best.sort().values}
    report = Report()
    history.vla_pruner(case("vla_pruner", "selection", {"start": 1, "P": 4, "runs": runs}, given), report)
    assert misses(report) == [] and sum(row.tensors for row in report.rows) == 4
    given["k2.kept"] = torch.tensor([0, 3])
    history.vla_pruner(case("vla_pruner", "selection", {"start": 1, "P": 4, "runs": runs}, given), report := Report())
    assert misses(report) == ["kept made/k2.kept: 1 of 2 elements"]


def test_position_ids_go_on_from_stage_to_stage() -> None:
    """SparseVLM 2.0 keeps the first ones: of patches 1 to 4 the second and fourth stay, then the fourth."""
    whole = torch.randn(1, 7, 8, generator=torch.Generator().manual_seed(0))
    after = [[0, 2, 4, 5, 6], [0, 4, 5, 6]]
    given = {"embeds": whole, "hidden": whole}
    for stage, (columns, length) in enumerate((([4, 2], 7), ([2], 5))):
        key = f"k2_1.s{stage}"
        given[f"{key}.attn"] = attention_to(columns, length, 14)
        given[f"{key}.kept"] = torch.tensor([[1, 3], [1]][stage])
        given[f"{key}.tokens_out"] = whole[:, after[stage]]
        given[f"{key}.position_ids_out"] = torch.tensor([after[stage]])
    counts = ({"visual_in": 4, "top": 2, "visual_out": 2}, {"visual_in": 2, "top": 1, "visual_out": 1})
    stages = {f"stage{i}": facts for i, facts in enumerate(counts)}
    params = {"start": 1, "P": 4, "head_dim": 64, "stages": 2, "runs": {"k2_1": {"budgets": [2, 1], **stages}}}
    given["k2_1.s0.score"] = given["k2_1.s1.score"] = torch.full((1,), torch.nan)  # says nothing
    behind.sparsevlm(case("sparsevlm", "v2.0", params, given), report := Report())
    assert [row for row in misses(report) if "score" not in row] == []
    assert {"kept", "tokens_out", "position_ids_out"} <= {row.group for row in report.rows if row.status == "ok"}


def test_what_a_tie_decided_otherwise_is_not_held_against_what_follows() -> None:
    """Two pairs of equal patches: which pair comes first is rounding's choice, and distances follow from it."""
    tokens = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [-1.0, 0.2], [-1.0, 0.2]])
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    apart = 1 - unit @ unit.T
    order = torch.tensor([2, 4, 0])  # begun with another pair than ours
    scores = torch.stack([torch.tensor(0.0), apart[2, 4], apart[0, 2].minimum(apart[0, 4])])
    given = {"tokens": tokens, "k3.order": order, "k3.kept": order.sort().values, "k3.score": scores}
    params = {"runs": {"k3": {"ratio": 0.5, "terms": 3}}}
    for ambiguous in (True, False):
        before.divprune(case("divprune", "", params, given, ambiguous), report := Report())
        assert bool(misses(report)) is not ambiguous


def test_nothing_is_passed_over_in_silence(tmp_path: Path) -> None:
    def entry(method: str, **params: Any) -> dict[str, Any]:
        common = {"variant": "", "raises": None, "ambiguous": False}
        return {"method": method, "name": f"one_{method}", "params": params, **common}

    files = {name: {"file": f"{name}.safetensors"} for name in ("divprune", "fastv", "later", "gone")}
    listed = [entry("divprune", runs={}), entry("fastv", start=0, P=2, budgets=[1]), entry("later"), entry("gone")]
    (tmp_path / "index.json").write_text(json.dumps({"methods": files, "cases": listed}))
    tokens = torch.eye(3)
    save_file({"one_divprune/tokens": tokens, "one_divprune/distance": 1 - tokens}, tmp_path / "divprune.safetensors")
    save_file({"one_fastv/hidden": torch.zeros(1, 3, 2)}, tmp_path / "fastv.safetensors")
    save_file({"one_later/x": tokens}, tmp_path / "later.safetensors")
    run(tmp_path, report := Report(), device="cpu")
    assert {(row.case, row.status, row.note) for row in report.rows} == {
        ("pruning gone", "absent", "gone.safetensors is not in the folder"),
        ("pruning divprune", "ok", ""),
        ("pruning fastv", "not compared", "the case lacks 'attn'"),
        ("pruning later", "not compared", "a method that this version does not know"),
    }
    assert report.exit_status() == 2


@pytest.mark.parametrize("stored", [("plain",), ("plain", "ln", "ln_margin0.1", "noise")])
def test_a_resampler_is_compared_by_what_is_stored(stored: tuple[str, ...]) -> None:
    from foveate.golden.pruning.grids import grids
    from foveate.pruning.grids import GridS, Sampler

    torch.manual_seed(0)
    network = Sampler(GridS(keep_tokens=2), 4)
    names = {"scout_mlp": "scout", "coord_encoder": "coord"}
    given = {f"weights.{names[n.partition('.')[0]]}.{n.partition('.')[2]}": v for n, v in network.state_dict().items()}
    given["features"] = torch.randn(1, 3, 3, 4)
    if len(stored) > 1:
        given |= {"ln.scale": torch.ones(4), "ln.bias": torch.zeros(4), "noise.perturb": torch.zeros(1, 4)}
    for name in stored:
        given |= {f"{name}.tokens": torch.zeros(1, 2, 4), f"{name}.coords": torch.full((1, 2, 2), torch.nan)}
    grids(case("grids", "openpi-jax", {"K": 2, "D": 4}, given), report := Report())
    assert [row.group for row in report.misses()] == ["tokens"], "zeros are no tokens"
    assert sum(row.tensors for row in report.rows) == len(stored)
