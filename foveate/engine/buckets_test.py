"""Buckets: which length a query gets, that padding changes no result, and what the device is asked."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch

from foveate.engine.base import Inference
from foveate.engine.buckets import MOST_WASTE, Buckets, check_lengths, ladder
from foveate.engine.registry import make_engine
from foveate.engine.staged import StagedEngine, label_of, spans_of
from foveate.engine.staged_test import EveryOther
from foveate.errors import FoveateError
from foveate.models.base import ModelInputs, pack
from foveate.models.openvla_oft import model_test as oft
from foveate.models.pi0 import model_test as pi0
from foveate.pruning import CONFIGS, Random, make_pruner
from foveate.pruning.base import FixedBudget, TokenPruner
from foveate.pruning.given import GivenPatches
from foveate.testing.pruning import WITHOUT_WEIGHTS, inside_of, quarter

BEHIND = {"behind layer 0": 0, "behind layer 1": 1}


def build(name: str) -> TokenPruner | None:
    """A method of the registry at a quarter of the patches, or one that works behind a layer."""
    if name in BEHIND:
        return EveryOther(BEHIND[name])
    return None if name == "nothing" else make_pruner(quarter(name))


def run(engine: StagedEngine, inputs: ModelInputs, noise: torch.Tensor | None, pruner: TokenPruner | None) -> Inference:
    """The first inference of each row's episode."""
    history = pruner is not None and pruner.has_history
    return engine.run(inputs, noise, pruner=pruner, state=[{} for _ in inputs.images] if history else None)


@pytest.mark.parametrize("family", ["pi0", "pi05", "openvla_oft"])
@pytest.mark.parametrize("name", [*WITHOUT_WEIGHTS, *BEHIND, "nothing"])
def test_padding_to_a_bucket_changes_no_action(family: str, name: str) -> None:
    """Rows of unequal length, an absent camera; each method before the backbone or behind one of its layers."""
    if family == "openvla_oft":
        model, noise = oft.make_model(), None
        inputs = oft.make_inputs(seen=[[True, True], [True, False], [True, True]])
    else:
        model = pi0.make_model(family == "pi05")
        inputs = pi0.make_inputs(3, [[True, True], [True, False], [True, True]])
        noise = model.draw_noise(3, "cpu", torch.Generator().manual_seed(0))
    # A pruner each: a random one goes on in its stream.
    exact = run(make_engine(model), inputs, noise, build(name))
    engine = StagedEngine(model, buckets=Buckets((64, 96)))
    result = run(engine, inputs, noise, build(name))
    torch.testing.assert_close(result.actions, exact.actions, rtol=1e-4, atol=1e-5)
    assert torch.equal(result.post_lengths, exact.post_lengths)
    assert result.prefilled.cache.prefix.mask.shape[1] in (64, 96)
    assert engine.buckets is not None
    report = engine.buckets.report()
    assert report["hit_rate"] == 1 and report["padding"] > 0 and not report["above"]


WAITS = ("__int__", "__bool__", "__float__", "item", "tolist", "nonzero")
"""What a GPU would have to be waited for: values and sizes that the host must know."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the host asks a tensor."""
    count: Counter[str] = Counter()

    def counted(name: str) -> Any:
        real = getattr(torch.Tensor, name)
        return lambda *args, **kwargs: (count.update([name]), real(*args, **kwargs))[1]

    for name in WAITS:
        monkeypatch.setattr(torch.Tensor, name, counted(name))
    return count


@pytest.mark.parametrize(
    ("pruner", "waits"),
    [
        (None, 0),
        ({"name": "random", "keep_tokens": 2}, 0),
        ({"name": "stride", "keep_ratio": 0.5}, 0),
        ({"name": "lightvla", "keep_tokens": 2}, 0),
        ({"name": "lightvla"}, 1),
    ],
)
def test_the_host_waits_once_and_under_a_budget_never(pruner: Any, waits: int, asked: Counter[str]) -> None:
    # OpenVLA-OFT has no times of Euler steps, which π0 reads off the CPU's own memory on every device.
    model, inputs = oft.make_model(), oft.make_inputs(slice(0, 1)).to("cpu")
    if pruner and pruner["name"] == "lightvla":
        pruner["scope"] = "view"
    engine, method = StagedEngine(model, buckets=Buckets((64,))), make_pruner(pruner)
    asked.clear()
    engine.run(inputs, None, pruner=method)
    assert asked.total() == waits, asked
    assert engine.report()["buckets"]["asked_device"] == waits


def test_a_budget_runs_where_no_value_can_be_asked_for() -> None:
    """On the meta device every question to a tensor is an error."""
    model = pi0.make_model(False).to("meta")
    inputs = pi0.make_inputs(1).to("meta")
    engine, noise = StagedEngine(model, buckets=Buckets((16,))), torch.zeros(1, 4, 5, device="meta")
    for pruner in (None, {"name": "stride", "keep_tokens": 2}, {"name": "topk_norm", "keep_ratio": 0.5}):
        assert engine.run(inputs, noise, pruner=make_pruner(pruner)).actions.shape == (1, 4, 5)
    with pytest.raises(RuntimeError, match="meta"):
        engine.run(inputs, noise, pruner=GivenPatches(torch.ones(1, 8, dtype=torch.bool)))


# These say what they keep once they have chosen: they go by several layers, or by an episode's earlier inferences.
UNPROMISED = ("sparsevlm", "vla_adp", "vla_pruner")
PROMISED = [name for name in WITHOUT_WEIGHTS if issubclass(CONFIGS[name], FixedBudget) and name not in UNPROMISED]


@pytest.mark.parametrize("name", PROMISED)
def test_what_a_budget_promises_is_never_exceeded(name: str) -> None:
    whole = pi0.make_model(True).embed_prefix(pi0.make_inputs(3, [[True, True], [True, False], [True, True]]))
    for budget in ({"keep_tokens": 1}, {"keep_tokens": 3}, {"keep_ratio": 0.3}, {"keep_ratio": 1.0}):
        pruner = make_pruner({"name": name, **budget})
        assert pruner is not None
        selection = pruner.select(whole, inside=inside_of(whole))
        assert selection.at_most is not None
        assert (selection.mask.sum(1).numpy() <= selection.at_most.sum(1)).all()


def test_the_smallest_that_holds_it_and_above_all_exactly() -> None:
    whole = pi0.make_model(True).embed_prefix(pi0.make_inputs(2))
    longest = int(whole.mask.sum(1).max())
    buckets = Buckets((longest, longest + 9))
    assert buckets.pack(whole).mask.shape[1] == longest
    buckets = Buckets((2, longest - 1))
    left = buckets.pack(whole)
    assert torch.equal(left.mask, pack(whole).mask)
    assert buckets.report()["above"] == {str(longest): 1} and buckets.report()["hit_rate"] == 0


def test_the_least_recently_used_goes() -> None:
    buckets = Buckets((10, 20, 30), most=3, most_bytes=100)
    whole = pi0.make_model(True).embed_prefix(pi0.make_inputs(1))
    assert buckets.choose(8) == 10
    buckets.pack(whole)
    assert buckets.add(40) == [20] if int(whole.mask.sum()) <= 10 else [10]
    assert len(buckets.lengths) == 3
    assert buckets.add(50, size=90) and buckets.add(60, size=90)
    assert buckets.lengths == (60,), "two of 90 bytes are more than 100"


def test_a_ladder_wastes_no_more_than_it_says() -> None:
    lengths = ladder(100, 700, 50)
    assert lengths[-1] == 700 and all(b / a <= 1 + MOST_WASTE + 0.01 for a, b in pairwise(lengths))
    assert lengths[0] <= 100 * (1 + MOST_WASTE) + 1
    assert len(ladder(20, 700, 8)) == 8 and ladder(560, 560, 8) == (560,)
    assert all(length % 64 == 0 for length in ladder(100, 700, 50, align=64))
    assert Buckets(most=4, align=64).to_prepare("none", [(100, 560)]) == (192, 256, 384, 576), "on a GPU"


def test_buckets_span_what_queries_can_be() -> None:
    whole = pi0.make_model(True).embed_prefix(pi0.make_inputs(1))
    assert spans_of(whole, None) == [(8 + 3, 8 + 48)], "two views of four patches, three words"
    assert spans_of(whole, make_pruner(Random(keep_tokens=1))) == [(2 + 3, 2 + 48)]
    assert spans_of(whole, make_pruner("lightvla")) == [(2 + 3, 8 + 48)]
    behind = make_pruner({"name": "dart", "keep_tokens": 1, "layer": 0})
    assert spans_of(whole, behind) == [(2 + 3, 2 + 48), (8 + 3, 8 + 48)], "behind a layer, and before it"


def test_lengths_are_given_or_planned_for_a_pruning_or_spread() -> None:
    planned, spans = {"lightvla": (20, 40), "random_0.25": (30,)}, [(50, 51), (90, 91)]
    assert Buckets(planned=planned).to_prepare("lightvla", spans) == (20, 40)
    assert Buckets(planned=planned).to_prepare("none", spans) == (51, 91)
    assert Buckets(planned={**planned, "any": (60,)}).to_prepare("none", spans) == (60,)
    assert Buckets((70,), planned=planned).to_prepare("lightvla", spans) == (70,)
    assert len(Buckets(most=8).to_prepare("dart_0.1", [(20, 50), (100, 200)])) == 8, "four for each"
    for pruner, name in (
        (None, "none"),
        ("none", "none"),
        ("lightvla", "lightvla"),
        (Random(keep_tokens=1), "random_1"),
    ):
        assert label_of(make_pruner(pruner)) == name


@pytest.mark.parametrize("lengths", [(), (20, 10), (10, 10), (0,), (2.5,)])
def test_lists_that_are_none(lengths: Any) -> None:
    with pytest.raises(FoveateError, match="buckets"):
        check_lengths(lengths)
