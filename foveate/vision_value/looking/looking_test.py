"""Looking per view and step: what reaches the model at each level, what a session remembers, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foveate.bench.trace import observations
from foveate.bench.variants import Variant, set_up
from foveate.engine.compiled import CompiledParts
from foveate.engine.reuse import PrefixReuse
from foveate.engine.staged import StagedEngine
from foveate.errors import FoveateError
from foveate.models.common.looks import coarse_slots
from foveate.policy import LoadOptions, Policy, TraceOptions
from foveate.pruning import CONFIGS, make_pruner
from foveate.training.policy import untrained
from foveate.training.policy.data_test import open_gates
from foveate.training.policy.untrained import random_policy
from foveate.types import Prefix
from foveate.vision_value.looking import Alternate, Motion, Wrist, make_looking
from foveate.vision_value.looking.base import Memory, Now, Rule

TINY = replace(untrained.TINY, action_horizon=6)
NOISE = np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32)
P = 16
"""Patches of a view; there are two."""


@pytest.fixture(scope="module")
def plain() -> Iterator[Policy]:
    with random_policy(TINY, None) as built:
        open_gates(built.engine.model)  # or actions would not depend on what is seen
        yield built


def looking(plain: Policy, rule, pruner=None) -> Policy:
    return Policy(plain.engine, plain.processor, make_pruner(pruner), looking=make_looking(rule))


@pytest.fixture
def seen(plain, monkeypatch) -> SimpleNamespace:
    """The prefixes that the model makes, and the pictures that its tower is shown, as (number, side)."""
    found = SimpleNamespace(prefixes=[], pictures=[])
    model = plain.engine.model
    embed, tower = model.embed_prefix, model.embed_images

    def embedded(inputs, **more) -> Prefix:
        found.prefixes.append(embed(inputs, **more))
        return found.prefixes[-1]

    def shown(images):
        found.pictures.append((len(images), images.shape[-1]))
        return tower(images)

    monkeypatch.setattr(model, "embed_prefix", embedded)
    monkeypatch.setattr(model, "embed_images", shown)
    return found


@pytest.mark.parametrize("pruner", [None, "lightvla"])
def test_full_everywhere_is_bit_equal_to_no_option(plain, pruner):
    frames = observations(plain, 3)
    without = Policy(plain.engine, plain.processor, make_pruner(pruner))
    there = looking(plain, "full", pruner).infer_batch(frames, NOISE, evidence=TraceOptions())
    for one, other in zip(there, without.infer_batch(frames, NOISE, evidence=TraceOptions()), strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.trace.keep["keep_mask"], other.trace.keep["keep_mask"])
        assert one.trace.decision.level == {"corner": "FULL", "gripperPOV": "FULL"} and other.trace.decision is None


def test_coarse_is_a_quarter_of_the_tokens_in_their_own_slots(plain, seen):
    frame = observations(plain, 1)[0]
    policy = looking(plain, "coarse")
    trace = policy.infer(frame, NOISE[0], evidence=TraceOptions()).trace
    full = plain.infer(frame, NOISE[0], evidence=TraceOptions()).trace
    slots = coarse_slots((4, 4))
    assert slots.tolist() == [0, 2, 8, 10] and seen.pictures == [(2, 28), (2, 56)]
    assert trace.keep["valid"].nonzero()[0].tolist() == [*slots, *(P + slots)]
    assert full.seq_lens["post_seq_len"] - trace.seq_lens["post_seq_len"] == 2 * (P - P // 4)
    coarse, whole = seen.prefixes
    assert torch.equal(coarse.position_ids, whole.position_ids)
    assert coarse.at_most[0].tolist() == [4, 4, whole.at_most[0][2]]
    model = plain.engine.model
    pictures = F.avg_pool2d(plain.processor.inputs([frame]).images[0], 2)
    with torch.inference_mode():
        expected = model.projector(model.vision(pictures)).flatten(0, 1)
    torch.testing.assert_close(coarse.embeds[0, trace.keep["valid"].nonzero()[0]], expected)
    assert policy.cost(trace)["vision"] < plain.cost(full)["vision"] / 4
    assert policy.cost(trace)["prefill"] < plain.cost(full)["prefill"]


def test_no_reuses_exactly_the_last_tokens(plain, seen):
    policy = looking(plain, Alternate())
    frames = observations(plain, 4)
    decisions = [
        policy.infer(frame, NOISE[0], evidence=TraceOptions(), session="a").trace.decision.level for frame in frames
    ]
    turns = [("FULL", "FULL"), ("NO", "FULL"), ("FULL", "NO"), ("NO", "FULL")]
    assert [tuple(each[view] for view in ("corner", "gripperPOV")) for each in decisions] == turns
    assert seen.pictures == [(2, 56), (1, 56), (1, 56), (1, 56)]
    patches = [prefix.embeds[0, : 2 * P] for prefix in seen.prefixes]
    assert torch.equal(patches[1][:P], patches[0][:P]) and not torch.equal(patches[1][P:], patches[0][P:])
    assert torch.equal(patches[2][P:], patches[1][P:]) and not torch.equal(patches[2][:P], patches[1][:P])
    assert all(prefix.mask[0, : 2 * P].all() for prefix in seen.prefixes)


@dataclass(frozen=True, kw_only=True)
class Scripted(Rule):
    """A level for each inference, the same for all views."""

    script: tuple[VisionLevel, ...]

    def levels(self, now: Now, memory: Memory) -> tuple[dict[str, VisionLevel], dict[str, float]]:
        return dict.fromkeys(now.pictures, self.script[memory.query]), {}


def test_a_reused_coarse_look_stays_coarse(plain, seen):
    policy = looking(plain, Scripted(script=("FULL", "COARSE", "NO")))
    for frame in observations(plain, 3):
        trace = policy.infer(frame, NOISE[0], evidence=TraceOptions(), session="a").trace
    _, coarse, reused = seen.prefixes
    assert seen.pictures == [(2, 56), (2, 28)] and trace.keep["valid"].sum() == 2 * P // 4
    assert torch.equal(reused.mask, coarse.mask)
    assert torch.equal(reused.embeds[reused.mask], coarse.embeds[coarse.mask])
    assert policy.cost(trace)["vision"] == 0 and policy.cost(trace)["prefill"] > 0


def test_a_view_that_is_left_out_moves_nothing_else(plain, seen):
    policy = looking(plain, Alternate(no="leave_out"))
    frame = observations(plain, 1)[0]
    trace = policy.infer(frame, NOISE[0], evidence=TraceOptions(), session="a").trace
    plain.infer(frame, NOISE[0])
    assert trace.decision.level == {"corner": "FULL", "gripperPOV": "NO"}
    assert trace.keep["valid"].tolist() == [True] * P + [False] * P
    assert torch.equal(seen.prefixes[0].position_ids, seen.prefixes[1].position_ids)
    assert policy.cost(trace)["vision"] == pytest.approx(plain.flops(1, 1)["vision"])


def test_sessions_are_apart_and_reset_forgets(plain):
    policy = looking(plain, Alternate())
    frames = observations(plain, 2)

    def levels(session: str) -> set[str]:
        trace = policy.infer(frames[0], NOISE[0], evidence=TraceOptions(), session=session).trace
        return set(trace.decision.level.values())

    assert levels("a") == {"FULL"} and levels("a") == {"NO", "FULL"} and levels("b") == {"FULL"}
    policy.reset("a")
    assert levels("a") == {"FULL"} and levels("b") == {"NO", "FULL"}
    policy.reset()
    assert levels("b") == {"FULL"}


@pytest.mark.parametrize("rule", [Alternate(rest="COARSE"), Alternate(no="leave_out"), Wrist(rest="NO")])
def test_a_batch_of_several_levels_gives_what_its_samples_give_alone(plain, rule):
    frames, together, alone = observations(plain, 3), looking(plain, rule), looking(plain, rule)
    for ahead in (together, alone):
        ahead.infer(frames[2], NOISE[2], session="0")  # so that the sessions differ in their turns
    for _ in range(2):
        chunks = together.infer_batch(frames, NOISE, sessions=["0", "1", "2"])
        for i, (frame, chunk) in enumerate(zip(frames, chunks, strict=True)):
            np.testing.assert_allclose(alone.infer(frame, NOISE[i], session=str(i)).actions, chunk.actions, atol=2e-5)


def test_motion_compares_with_the_last_look(plain):
    picture = np.zeros((8, 8, 3), np.uint8)
    policy = looking(plain, Motion(threshold=0.1))
    frame = observations(plain, 1)[0]
    levels = []
    for brightness in (0, 20, 40, 50):  # of 255: small steps that add up
        images = dict.fromkeys(frame.images, picture + brightness)
        shown = replace(frame, images=images)
        trace = policy.infer(shown, NOISE[0], evidence=TraceOptions(), session="a").trace
        levels.append(trace.decision.level["corner"])
    assert levels == ["FULL", "NO", "FULL", "NO"]
    assert trace.decision.scores["corner"] == pytest.approx(10 / 255)


def test_the_wrist_is_known_by_its_name():
    now = Now({"base_0_rgb": np.zeros(1), "left_wrist_0_rgb": np.zeros(1)}, np.zeros(1))
    assert Wrist().decide(now, Memory()).level == {"base_0_rgb": "COARSE", "left_wrist_0_rgb": "FULL"}
    assert Wrist(rest="NO").has_history and not Wrist().has_history  # which needs no session
    named = Wrist(views=("base_0_rgb",), rest="NO", no="leave_out")
    assert named.decide(now, Memory()).level == {"base_0_rgb": "FULL", "left_wrist_0_rgb": "NO"}


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"none", "depth_drop"}))
def test_every_method_prunes_what_was_looked_at_or_refuses(plain, name):
    budget = {} if name == "lightvla" else {"keep_tokens": 2}
    pruner = {"name": name, **budget}
    if name in ("grids", "downsample", "visionzip"):
        with pytest.raises(FoveateError, match="reads a view as a whole picture"):
            looking(plain, "coarse", pruner)
        return
    policy = looking(plain, Alternate(rest="COARSE"), pruner)
    for frame in observations(plain, 3):
        keep = policy.infer(frame, NOISE[0], evidence=TraceOptions(), session="a").trace.keep
        assert 0 < keep["keep_mask"].sum() <= keep["valid"].sum() == P + P // 4
        assert not (keep["keep_mask"] & ~keep["valid"]).any()


def test_an_engine_that_prepares_shapes_runs_such_looks_as_written_and_says_so(plain):
    engine = StagedEngine(plain.engine.model, {stage: CompiledParts() for stage in ("vision", "prefill", "denoise")})
    frame, counted = observations(plain, 1)[0], {"views looked at at several levels": 1}
    Policy(engine, plain.processor, looking=make_looking("full")).infer(frame, NOISE[0])
    assert engine.report()["queries_as_written"] == {}
    answer = Policy(engine, plain.processor, looking=make_looking("coarse")).infer(frame, NOISE[0])
    assert engine.report()["queries_as_written"] == counted
    np.testing.assert_array_equal(answer.actions, looking(plain, "coarse").infer(frame, NOISE[0]).actions)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("motoin", "unknown looking rule 'motoin'; did you mean 'motion'"),
        ({"name": "motion", "treshold": 1}, "motion: unknown option 'treshold'; options: no, rest, threshold"),
        ({"name": "motion", "threshold": -1}, "looking.threshold: expected a finite number of at least 0, got -1"),
        ({"name": "wrist", "rest": "FULL"}, "looking.rest of wrist: expected NO or COARSE, got 'FULL'"),
        ({"name": "alternate", "no": "leave"}, "unknown looking.no 'leave'; did you mean 'leave_out'"),
        ({"name": "wrist", "views": ("gripper",)}, "unknown view in looking.views 'gripper'"),
    ],
)
def test_what_does_not_fit_is_told(plain, rule, told):
    with pytest.raises(FoveateError, match=told):
        looking(plain, rule)


def test_what_does_not_go_together_is_told(plain):
    with pytest.raises(FoveateError, match=r"looking alternate goes by what was seen before: pass session="):
        looking(plain, "alternate").infer(observations(plain, 1)[0])
    with pytest.raises(FoveateError, match=r"looking coarse and engine.prefix_cache both reuse what was seen"):
        Policy(plain.engine, plain.processor, prefix_cache=PrefixReuse(pixels=0.1), looking=make_looking("coarse"))
    deaf = SimpleNamespace(model=SimpleNamespace(spec=plain.engine.model.spec))
    with pytest.raises(FoveateError, match=r"SimpleNamespace has no coarse look at a view; π0 and π0\.5 have"):
        Policy(deaf, plain.processor, looking=make_looking("coarse"))
    odd = SimpleNamespace(spec=replace(plain.engine.model.spec, grids=((5, 5), (5, 5))), embed_coarse=None)
    with pytest.raises(FoveateError, match="half of 5 x 5 patches is no whole grid"):
        Policy(SimpleNamespace(model=odd), plain.processor, looking=make_looking("coarse"))
    away = replace(plain.engine.model.spec, views=("left", "right"))
    with pytest.raises(FoveateError, match="none of the views left, right has wrist, gripper or hand in its name"):
        Wrist().check(away.views)


def test_variants_of_a_benchmark_look_alike(plain):
    policy = looking(plain, "coarse")
    assert set_up(policy, Variant("eager", "stride_0.5", 2), plain.engine).looking is policy.looking
    assert LoadOptions(policy="x").looking is None
