"""What GridS does to a prefix; its network is held to golden numbers by `foveate.golden.pruning`."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from foveate.errors import FoveateError
from foveate.pruning import GridS, make_pruner
from foveate.pruning.grids import nearest_free, rows_and_columns
from foveate.pruning.methods_test import LAYOUT, tiny_prefix


def trained(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    pruner = make_pruner(GridS(**{"keep_tokens": 3, **options}))
    pruner.begin(8)
    return pruner.eval()


def test_tokens_stand_where_they_lie_and_follow_each_other():
    prefix, pruner = tiny_prefix(), trained()
    selection = pruner.select(prefix)
    keep = selection.keep
    assert keep.counts_per_view()["corner"].tolist() == [3, 3, 3]
    assert keep.counts_per_view()["wrist"].tolist() == [3, 0, 3]
    for n, (span, patches) in enumerate(zip(LAYOUT.images, LAYOUT.view_slices.values(), strict=True)):
        features = prefix.embeds[:, span.start : span.stop].unflatten(1, (4, 4))
        tokens, xy = pruner.sampler(features)
        for b in range(3):
            if b == 1 and n == 1:  # the camera is absent
                assert not selection.mask[b, span.start : span.stop].any()
                continue
            positions = selection.position_ids[b, span.start : span.stop]
            kept = keep.keep_mask[b, patches]
            order = positions[kept].argsort()
            assert positions[kept][order].tolist() == [3 * n, 3 * n + 1, 3 * n + 2]
            assert torch.equal(selection.embeds[b, span.start : span.stop][kept][order], tokens[b])
            place = keep.coordinates[b, patches][kept][order]
            torch.testing.assert_close(place, xy[b].flip(-1) * 3 + 0.5)
            slot = kept.nonzero().squeeze(-1)[order]
            centre = torch.stack([slot // 4, slot % 4], -1) + 0.5
            # A neighbour where two share a patch: never far.
            assert (centre - place).abs().max() <= 1.5
    text = selection.position_ids[:, 32:]
    assert text[0].tolist() == list(range(6, 12)) and text[1].tolist() == list(range(3, 9))


def test_each_place_takes_the_nearest_free_patch():
    at = torch.tensor([[[0.5, 0.5], [0.6, 0.6], [0.5, 0.4], [3.9, 3.9]]])
    assert nearest_free(at, (4, 4)).tolist()[0][0] == 0
    slots = nearest_free(at, (4, 4))[0].tolist()
    assert len(set(slots)) == 4 and slots[3] == 15 and set(slots[1:3]) <= {1, 4, 5}
    corners = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    torch.testing.assert_close(rows_and_columns(corners, (4, 6), "openpi")[0], torch.tensor([[0.5, 0.5], [3.5, 5.5]]))
    torch.testing.assert_close(rows_and_columns(corners, (4, 6), "lerobot")[0], torch.tensor([[0.0, 0.0], [4.0, 6.0]]))


def test_training_sees_what_evaluation_sees_and_learns():
    prefix, pruner = tiny_prefix(), trained()
    still = pruner.select(prefix)
    moving = pruner.train().select(prefix)
    assert torch.equal(still.embeds, moving.embeds) and torch.equal(still.position_ids, moving.position_ids)
    optimizer = torch.optim.Adam(pruner.parameters(), 0.01)
    wanted = torch.full((8,), 0.3)
    losses = []
    for _ in range(40):
        selection = pruner.select(prefix)
        loss = (selection.embeds[:, :32][selection.keep.keep_mask] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pruner.parameters())


def test_weights_of_another_network_are_named(tmp_path):
    pruner = trained()
    pruner.save(tmp_path)
    again = make_pruner(GridS(keep_tokens=3, weights=str(tmp_path / "pruner.safetensors"))).eval()
    prefix = tiny_prefix()
    assert torch.equal(again.select(prefix).embeds, pruner.select(prefix).embeds)
    for options, message in (
        ({"keep_tokens": 4}, r"scout_mlp.2.weight: expected \(8, 512\), got \(6, 512\)"),
        ({"keep_tokens": 3, "layer_norm": True}, r"norm.weight: expected \(8,\), got none"),
    ):
        with pytest.raises(FoveateError, match=message):
            make_pruner(GridS(**options, weights=str(tmp_path / "pruner.safetensors")))
    with pytest.raises(FoveateError, match="no such file"):
        make_pruner(GridS(weights=str(tmp_path / "nowhere")))
    loaded = make_pruner(GridS(keep_tokens=3)).eval()
    loaded.load(tmp_path)
    assert torch.equal(loaded.select(prefix).embeds, pruner.select(prefix).embeds)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FoveateError, match=r"no matrix scout_mlp.0.weight, found \['a'\]"):
        make_pruner(GridS(weights=str(tmp_path / "other.safetensors")))
    with pytest.raises(FoveateError, match="no weights; train it"):
        make_pruner(GridS()).select(prefix)
    with pytest.raises(FoveateError, match="keep_ratio has no meaning"):
        GridS(keep_ratio=0.5)
    crowded = trained(keep_tokens=17)
    with pytest.raises(FoveateError, match="17 tokens per view, and a view has 16 patches"):
        crowded.select(prefix)
