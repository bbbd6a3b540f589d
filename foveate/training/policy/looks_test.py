"""Training with random levels: what is drawn, what the model is shown, and that nothing else changes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Generator

from foveate.errors import FoveateError
from foveate.models.pi0.model import Pi0
from foveate.pruning import make_pruner
from foveate.training.config import LookingConfig, NoiseConfig
from foveate.training.loop import Share
from foveate.training.policy.data_test import MODEL, open_gates, source
from foveate.training.policy.looks import check_looking, draw_looks
from foveate.training.policy.pi0.losses import FlowMatching
from foveate.types import COARSE, NO

BATCH = Share(1, 0, 4, 4)
BOTH = LookingConfig(coarse=0.4, no=0.4)


def batch(looking: LookingConfig, share: Share = BATCH):
    plain = source()
    return type(plain)(plain.samples, plain.processor, plain.config, plain.seed, looking).batch(share)


def test_shares_and_ages() -> None:
    since = torch.arange(2000) % 5
    drawn = draw_looks(LookingConfig(coarse=0.3, no=0.5, max_age=2), since, 2, Generator().manual_seed(0))
    # Of the half that is reused three fifths were looked at coarsely, as of the half that is looked at now.
    assert (drawn.levels == COARSE).mean() == pytest.approx(0.6, abs=0.03) and (drawn.levels != NO).all()
    assert (drawn.ages > 0).float().mean() == pytest.approx(0.5 * 0.8, abs=0.03)  # the first picture has none before it
    assert (drawn.ages <= since[:, None]).all() and drawn.ages.unique().tolist() == [0, 1, 2]
    assert not torch.equal(drawn.ages[:, 0], drawn.ages[:, 1])
    out = draw_looks(LookingConfig(no=0.5, no_means="leave_out"), since, 2, Generator().manual_seed(0))
    assert (out.levels == NO).mean() == pytest.approx(0.5, abs=0.03) and (out.ages == 0).all()


def test_only_the_looks_change_and_shares_fit_together() -> None:
    plain, looking = source().batch(BATCH), batch(BOTH)
    assert plain.inputs.looks is None
    for name in ("noise", "time", "actions"):
        assert torch.equal(getattr(plain, name), getattr(looking, name))
    aged = (plain.inputs.images != looking.inputs.images).flatten(2).any(-1)
    assert 0 < aged.sum() < aged.numel()
    halves = [batch(BOTH, Share(1, start, start + 2, 4)) for start in (0, 2)]
    assert torch.equal(torch.cat([half.inputs.images for half in halves]), looking.inputs.images)
    levels = np.concatenate([half.inputs.looks.levels for half in halves])
    np.testing.assert_array_equal(levels, looking.inputs.looks.levels)
    assert looking.to("cpu").inputs.looks is looking.inputs.looks


def test_an_earlier_picture_is_of_the_same_episode() -> None:
    plain = source()
    samples, share = plain.samples, Share(1, 0, 8, 8)
    looking = type(plain)(samples, plain.processor, plain.config, plain.seed, LookingConfig(no=0.9, max_age=3))
    rows, images = plain.rows(1, 8), looking.batch(share).inputs.images
    pixels = samples.images.float() / 127.5 - 1
    for i, row in enumerate(rows.tolist()):
        first = row - int(samples.since[row])
        for view in range(2):
            assert any(torch.allclose(images[i, view], pixels[r, view]) for r in range(first, row + 1))


@pytest.mark.parametrize("looking", [LookingConfig(coarse=1.0), BOTH, LookingConfig(no=0.5, no_means="leave_out")])
@pytest.mark.parametrize("pruner", [None, "lightvla"])
def test_the_loss_reaches_the_tower_at_every_level(looking: LookingConfig, pruner: str | None) -> None:
    torch.manual_seed(0)
    objective = FlowMatching(open_gates(Pi0(MODEL)), NoiseConfig(), None if pruner is None else make_pruner(pruner))
    objective.train()
    plain, looked = (objective(one) for one in (source().batch(BATCH), batch(looking)))
    assert torch.isfinite(looked) and float(looked.detach()) != float(plain.detach())
    looked.backward()
    tower = objective.model.vision
    assert all(bool(p.grad.abs().sum() > 0) for p in (tower.patch_embedding.weight, tower.position_embedding))


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(FoveateError, match=r"expected at most 1 together, and no below 1, got coarse 0\.7 and no 0\.5"):
        LookingConfig(coarse=0.7, no=0.5)
    with pytest.raises(FoveateError, match="did you mean 'leave_out'"):
        LookingConfig(no=0.5, no_means="leaveout")  # type: ignore[arg-type]
    spec = MODEL.spec
    with pytest.raises(FoveateError, match="GridS reads a view as a whole picture"):
        check_looking(BOTH, spec, make_pruner({"name": "grids", "keep_tokens": 2}), compiled=False)
    with pytest.raises(FoveateError, match=r"does not go with loop\.compile"):
        check_looking(BOTH, spec, None, compiled=True)
    with pytest.raises(FoveateError, match="half of 3 x 3 patches is no whole grid"):
        check_looking(BOTH, dataclasses.replace(spec, grids=((3, 3), (3, 3))), None, compiled=False)
    check_looking(LookingConfig(), SimpleNamespace(), None, compiled=True)  # type: ignore[arg-type]
