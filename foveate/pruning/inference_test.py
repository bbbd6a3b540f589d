"""Methods inside of models: what they see there, against the models' own kernels, masks and shallower twins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from foveate.bench.trace import observations
from foveate.engine.registry import make_engine
from foveate.errors import FoveateError
from foveate.models.base import pack
from foveate.models.common.layers import as_written
from foveate.models.openvla_oft import model_test as oft
from foveate.models.pi0 import model_test as pi0
from foveate.models.pi0.model import Pi0
from foveate.policy import Policy, TraceOptions
from foveate.policy_test import TINY
from foveate.pruning import DART, VLAADP, DepthDrop, DivPrune, FastV, SparseVLM, VisionZip, VLAPruner, make_pruner
from foveate.pruning.depth_drop import spread
from foveate.pruning.inference import Pruning
from foveate.pruning.vla_adp import Gate, divided
from foveate.pruning.vla_pruner import SESSION, guide_of
from foveate.testing.pruning import WITHOUT_WEIGHTS
from foveate.training.config import NoiseConfig
from foveate.training.policy.objective import PolicyObjective
from foveate.training.policy.untrained import random_policy
from foveate.types import AttentionRequest

FAMILIES = ["pi0", "pi05", "openvla_oft"]
SEEN = [[True, False], [True, True]]


def made(family: str):
    """A model of three layers, two samples of which one lacks a camera, and noise."""
    if family == "openvla_oft":
        return oft.make_model(), oft.make_inputs(slice(2), [*SEEN, [True, True]]), None
    model = pi0.make_model(family == "pi05")
    return model, pi0.make_inputs(2, SEEN), model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))


def run(model, inputs, noise, pruner, **options):
    with torch.no_grad():
        return make_engine(model).run(inputs, noise, pruner=pruner, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1])
def test_fastv_reads_the_attention_that_the_layer_computes(family: str, layer: int) -> None:
    """Its scores against the maps that an observer makes of the layer's own q, k and mask."""
    model, inputs, noise = made(family)
    pruner = FastV(keep_tokens=2, layer=layer).build().eval()
    result = run(model, inputs, noise, pruner, attention=AttentionRequest((layer,), ("prefix",)))
    assert result.keep is not None and result.keep.scores is not None and result.attention is not None
    maps = result.attention.prefix[layer].mean(1)
    if family == "openvla_oft":  # its maps count BOS and the stop token as text
        assert ((maps > 0) == (result.keep.scores > 0)).all()
        return
    torch.testing.assert_close(result.keep.scores, maps, rtol=1e-5, atol=1e-6)
    assert result.keep.counts_per_view()["front"].tolist() == [2, 2]
    assert result.keep.counts_per_view()["wrist"].tolist() == [0, 2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [FastV, DART, SparseVLM, VLAPruner, VisionZip])
def test_a_layers_lengths_and_flops_are_those_of_what_it_saw(family: str, method) -> None:
    model, inputs, noise = made(family)
    pruner = method(
        keep_tokens=2,
        **({} if method is VisionZip else {"layer": 0} if method is not SparseVLM else {"layers": (0, 1)}),
    ).build()
    state = [{}, {}] if pruner.has_history else None
    result = run(model, inputs, noise, pruner.eval(), state=state)
    whole = result.mask.sum(1)
    if method is VisionZip:
        assert result.layer_tokens is None
        return
    assert result.layer_tokens is not None
    assert torch.equal(result.layer_tokens[:, 0], whole) and torch.equal(
        result.layer_tokens[:, -1], result.post_lengths
    )
    for row, tokens in enumerate(result.layer_tokens.tolist()):
        by_hand = [model.flops(1, [n] * 3)["prefill"] for n in tokens]
        if family == "openvla_oft":
            assert model.flops(1, tokens)["prefill"] == pytest.approx(sum(by_hand) / 3)
        assert model.flops(1, tokens)["total"] < model.flops(1, int(whole[row]))["total"]


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_drop_ever_more_and_end_at_the_budget(family: str) -> None:
    model, inputs, noise = made(family)
    result = run(model, inputs, noise, SparseVLM(keep_tokens=1, layers=(0, 1)).build().eval())
    assert result.layer_tokens is not None and result.keep is not None and result.keep.valid is not None
    first, second, third = result.layer_tokens.unbind(1)
    assert (first > second).all() and (second > third).all()
    assert result.keep.counts().tolist() == [1, 2]
    assert result.keep.valid.sum(1).tolist() == [n * result.keep.keep_mask.shape[1] // 2 for n in (1, 2)], (
        "valid: of all that were there"
    )
    assert torch.isfinite(result.actions).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_tells_what_it_looked_at(family: str) -> None:
    """Against a softmax by hand in float64; an absent camera's patches received nothing."""
    model, inputs, noise = made(family)
    seen = {}
    model.tower.layer.register_forward_pre_hook(lambda layer, tensors: seen.update(x=tensors[0]))
    pruner = VisionZip(keep_tokens=2).build().eval()
    with torch.no_grad():
        pruning = Pruning(pruner, model, inputs, noise)
        pruning.before(model.embed_prefix(inputs, run=pruning.vision(as_written)), pack)
        keep = pruning.keep
        q, k, _ = (part.double() for part in model.tower.layer._heads(seen["x"]))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(1)
    leading = model.tower.leading
    rows = weights[:, 0] if model.tower.class_token else weights[:, leading:].mean(1)
    scores = keep.scores.unflatten(1, (2, -1))
    assert not scores[0, 1].any()
    for ours, picture in ((scores[0, 0], 0), (scores[1, 0], 1), (scores[1, 1], 2)):
        torch.testing.assert_close(ours.double(), rows[picture, leading:], rtol=1e-5, atol=1e-6)
    assert model.tower.class_token == (family == "openvla_oft")


@pytest.mark.parametrize("family", FAMILIES)
def test_actions_tell_where_they_looked(family: str) -> None:
    """What is remembered against the maps of an observer: of the last Euler step, or of the placeholders."""
    model, inputs, noise = made(family)
    state: list[dict] = [{}, {}]
    pruner = VLAPruner(keep_tokens=2, layer=0, actions_layer=2).build().eval()
    result = run(model, inputs, noise, pruner, state=state, attention=AttentionRequest((2,), ("suffix",), steps="each"))
    assert result.attention is not None and result.keep is not None
    expected = result.attention.suffix[2][-1].mean(1)
    remembered = torch.stack([session[SESSION][0] for session in state])
    torch.testing.assert_close(remembered, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(remembered > 0, result.keep.keep_mask)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in WITHOUT_WEIGHTS if name not in ("lightvla", "none", "random")])
def test_rows_of_a_batch_are_chosen_as_alone(family: str, name: str) -> None:
    """Also beside a row without a camera, and with a shorter prompt."""
    model, inputs, noise = made(family)
    options = {"gate": False} if name == "vla_adp" else {}
    pruner = make_pruner({"name": name, "keep_ratio": 0.5, **options})
    history = pruner.has_history
    together = run(model, inputs, noise, pruner, state=[{}, {}] if history else None)
    for row in range(2):
        one = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
        one = type(inputs)(**{k: None if v is None or k == "host_masks" else v[row : row + 1] for k, v in one.items()})
        alone = run(
            model, one, None if noise is None else noise[row : row + 1], pruner, state=[{}] if history else None
        )
        assert torch.equal(together.keep.keep_mask[row], alone.keep.keep_mask[0])
        torch.testing.assert_close(together.actions[row], alone.actions[0], rtol=1e-3, atol=1e-4)


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        FastV(keep_tokens=2, layer=0),
        SparseVLM(keep_tokens=2, layers=(0, 1)),
        VisionZip(keep_tokens=2),
        DepthDrop(keep_layers=2),
    ],
    ids=lambda config: type(config).__name__,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_training_drops_what_evaluation_drops(family: str, config) -> None:
    """At time 1 a flow's loss against actions of 0 is the square of what one Euler step makes of the noise."""
    model, inputs, noise = made(family)
    pruner = config.build()
    acted = run(model, inputs, noise, pruner.eval(), **({} if noise is None else {"steps": 1})).actions

    def prune(noisy: torch.Tensor | None) -> Pruning:
        return Pruning(pruner.train(), model, inputs, noisy)

    nothing = torch.zeros_like(acted)
    if noise is None:
        loss, expected = model(inputs, nothing, prune(None)), acted.abs()
    else:
        loss, expected = model(inputs, nothing, noise, torch.ones(2), prune), acted.square()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)
    loss.sum().backward()
    layers = model.attention_stacks()["prefix"]
    weights = [layer.self_attn.qkv_proj.weight.grad for layer in layers]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in (weights[0], weights[2]))
    assert (weights[1] is None) == isinstance(config, DepthDrop)


def test_a_method_with_a_history_cannot_be_trained_with() -> None:
    with pytest.raises(FoveateError, match="VLAPruner chooses by earlier control steps, and training samples"):
        PolicyObjective(pi0.make_model(), NoiseConfig(), VLAPruner(keep_ratio=0.5).build())


# ---- depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pi05", [False, True])
@torch.no_grad()
def test_skipped_layers_are_as_if_they_had_never_been(pi05: bool) -> None:
    """Against a model of the layers that are left."""
    model, inputs = pi0.make_model(pi05), pi0.make_inputs(2, SEEN)
    noise = model.draw_noise(2, "cpu", torch.Generator().manual_seed(0))
    config = dataclasses.replace(
        model.config,
        llm=dataclasses.replace(model.config.llm, depth=2),
        expert=dataclasses.replace(model.config.expert, depth=2),
    )
    shallow, weights = Pi0(config).eval(), {}
    for name, value in model.state_dict().items():
        if ".layers.1." in name and not name.startswith("vision"):
            continue
        weights[name.replace(".layers.2.", ".layers.1.") if not name.startswith("vision") else name] = value
    shallow.load_state_dict(weights)
    result = run(model, inputs, noise, DepthDrop(keep_layers=2).build().eval())
    torch.testing.assert_close(result.actions, run(shallow, inputs, noise, None).actions, rtol=1e-5, atol=1e-6)
    assert result.layer_tokens is not None and result.layer_tokens[:, 1].tolist() == [0, 0]
    ours, theirs = (m.flops(2, tokens)["prefill"] for m, tokens in ((model, [9, 0, 9]), (shallow, 9)))
    assert ours == pytest.approx(theirs)


def test_layers_go_until_the_arithmetic_is_that_of_the_budget() -> None:
    pruner = DepthDrop(keep_ratio=0.25).build()
    layout = pi0.make_model().layout(8)  # 8 patches, 8 words: 10 of 16 tokens are left
    assert len(pruner.skipped(18, layout, lambda tokens: float(sum(tokens)))) == round(18 * 6 / 16)
    assert spread(2, 18) == [0, 17] and spread(18, 18) == list(range(18)) and spread(3, 3) == [0, 1, 2]
    for count in range(2, 33):
        running = spread(count, 32)
        assert len(set(running)) == count and running[0] == 0 and running[-1] == 31
    with pytest.raises(FoveateError, match="keep_layers 30, and the backbone has 18"):
        DepthDrop(keep_layers=30).build().skipped(18, layout, sum)


# ---- history --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> Iterator[Policy]:
    with random_policy(TINY, None) as built:
        yield built


def moving(policy: Policy, places: list[float]):
    """Observations of a hand that stands at these places along one axis (m)."""
    frame = observations(policy, 1)[0]
    states = [np.array([x, 0, 0, 1], np.float32) for x in places]
    return [dataclasses.replace(frame, state=state) for state in states]


def test_vla_adp_prunes_where_the_hand_moves_fast(policy: Policy) -> None:
    """By hand: steps of 1, 2, 3 (the largest: pruned), 1 (below the smallest of 2 and 3: not), 2 (between: pruned)."""
    policy.pruner = make_pruner(VLAADP(keep_ratio=0.25))
    places = np.cumsum([0, 1, 2, 3, 1, 2]).tolist()
    pruned = [False, False, False, True, False, True]
    for session in ("a", "b"):  # the second repeats the first: nothing passes between sessions
        for frame, expected in zip(moving(policy, places), pruned, strict=True):
            other = policy.infer(moving(policy, [99.0])[0], session="another")
            chunk = policy.infer(frame, session=session, evidence=TraceOptions())
            assert chunk.trace is not None and chunk.trace.keep is not None and other.actions.shape == (6, 4)
            assert int(chunk.trace.keep["keep_mask"].sum()) == (8 if expected else 32)
            assert bool(chunk.trace.keep["history_pruned"]) == expected
    policy.reset("a")
    assert policy.infer(moving(policy, [0.0])[0], session="a", evidence=TraceOptions()).trace.keep["keep_mask"].all()


def test_the_gate_keeps_to_its_limit_and_stands_still_in_full() -> None:
    fast = Gate(VLAADP(keep_ratio=0.5, most_pruned=2))
    states = []
    for displacement in (1, 2, 3, 4, 5, 6, 7):
        fast.decide(displacement)
        states.append(fast.pruning)
    assert states == [False, False, True, True, False, True, True]
    for reference in (False, True):
        still = Gate(VLAADP(keep_ratio=0.5, reference=reference))
        for _ in range(4):
            still.decide(0.0)
        assert still.pruning == reference, "0 is at least the largest, 0"
    average = Gate(VLAADP(keep_ratio=0.5, decision="average", most_pruned=None))
    states = []
    for displacement in (2, 1, 4, 2):  # averages 2, 1.5, 2.75, 2.375
        average.decide(displacement)
        states.append(average.pruning)
    assert states == [True, False, True, False]


def test_what_a_view_cannot_hold_goes_to_the_others() -> None:
    assert divided(19, [16, 16], [0.1, 0.9]) == [3, 16]
    assert divided(8, [16, 16], [0.4, 0.6]) == [3, 5]
    assert divided(8, [16, 0], [0.4, 0.6]) == [8, 0], "an absent camera"
    assert divided(1, [16, 16, 16], [0.4, 0.3, 0.3]) == [1, 0, 0] and divided(0, [0, 0], [0.5, 0.5]) == [0, 0]
    for total in range(33):
        assert sum(divided(total, [16, 16], [0.4, 0.6])) == total


def test_vla_pruner_meets_the_budget_from_the_first_frame_on(policy: Policy) -> None:
    policy.pruner = make_pruner(VLAPruner(keep_ratio=0.25))
    frames = moving(policy, [0.0] * 5)
    counts = []
    for frame in frames:
        trace = policy.infer(frame, session="a", evidence=TraceOptions()).trace
        assert trace is not None and trace.keep is not None and int(trace.keep["keep_mask"].sum()) == 8
        counts.append(int(trace.keep["history_frames"]))
        assert trace.layer_tokens[0] - trace.layer_tokens[-1] == 24
    assert counts == [0, 1, 2, 3, 3]


def test_the_newest_frame_weighs_most_and_dropped_patches_are_not_known() -> None:
    frames = [torch.tensor([0.4, 0.2, 0.0]), torch.tensor([0.1, 0.0, 0.0])]  # oldest first
    config = VLAPruner(keep_ratio=0.5, decay=0.5, window=2)
    guide = guide_of(frames, config)
    torch.testing.assert_close(guide, torch.tensor([(0.1 + 0.5 * 0.4) / 1.5, 0.2, 0.0]))
    published = guide_of(frames, dataclasses.replace(config, reference=True))
    whole = torch.tensor([0.4 + 0.5 * 0.1, 0.2, 0.0])
    assert torch.equal(published, (whole / whole.sum()).bfloat16())
    assert guide_of([], config) is None and guide_of(frames[:1], dataclasses.replace(config, reference=True)) is None


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_method_with_a_history_wants_sessions(policy: Policy) -> None:
    for config in (VLAADP(keep_ratio=0.5), VLAPruner(keep_ratio=0.5)):
        policy.pruner = make_pruner(config)
        with pytest.raises(FoveateError, match="pass session="):
            policy.infer(moving(policy, [0.0])[0])


def test_a_robot_without_the_position_of_its_hand_is_named(policy: Policy) -> None:
    policy.pruner = make_pruner(VLAADP(keep_ratio=0.5, position="eef"))
    with pytest.raises(FoveateError, match="expected 'eef' in the robot's state, which holds hand_position, gripper"):
        policy.infer(moving(policy, [0.0])[0], session="a")


@pytest.mark.parametrize(
    "config", [FastV(keep_ratio=0.5, layer=2), DART(keep_ratio=0.5, layer=17), SparseVLM(keep_ratio=0.5, layers=(0, 5))]
)
def test_a_layer_beyond_the_depth_is_named(config) -> None:
    model, inputs, noise = made("pi05")
    with pytest.raises(FoveateError, match=r"pruning after backbone layer \d+: choose one of 0 to 1"):
        run(model, inputs, noise, config.build().eval())


@pytest.mark.parametrize("config", [DivPrune(keep_tokens=1), FastV(keep_tokens=1), DepthDrop(keep_tokens=1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_budget_above_the_patches_is_refused(family: str, config) -> None:
    model, inputs, noise = made(family)
    most = max(rows * columns for rows, columns in model.spec.grids)
    config = dataclasses.replace(config, keep_tokens=most + 1)
    with pytest.raises(FoveateError, match=rf"keep_tokens {most + 1}, and a view has {most} patches"):
        run(model, inputs, noise, config.build().eval())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseVLM(keep_ratio=0.5, layers=(2, 1)), "must ascend"),
        (lambda: SparseVLM(keep_ratio=0.5, budgets=(4, 2)), "need one layer each"),
        (lambda: SparseVLM(keep_ratio=0.5, layers=(0, 1), budgets=(2, 4)), "must fall"),
        (lambda: SparseVLM(keep_ratio=0.5, version="3"), "SparseVLM version"),
        (lambda: FastV(keep_ratio=0.5, asking="words"), "asking"),
        (lambda: VLAPruner(keep_ratio=0.5, decay=0.0), r"\(0, 1\]"),
        (lambda: VLAADP(keep_ratio=0.5, window=2), "at least 3"),
        (lambda: DepthDrop(), "set one of"),
        (lambda: DepthDrop(keep_ratio=0.5, keep_layers=4), "set one of"),
        (lambda: DepthDrop(keep_layers=1), "at least 2"),
    ],
)
def test_contradictions_are_spelled_out(make, message: str) -> None:
    with pytest.raises(FoveateError, match=message):
        make()


def test_a_model_that_shows_no_attention_is_refused() -> None:
    model, inputs, noise = made("pi05")

    class Silent(torch.nn.Module):
        """A layer that others cannot ask."""

    model.attention_stacks = lambda: {"prefix": [Silent()] * 3, "suffix": [Silent()] * 3}
    with pytest.raises(FoveateError, match="FastV goes by attention of its backbone, and Pi0 shows none"):
        run(model, inputs, noise, FastV(keep_ratio=0.5).build().eval())
