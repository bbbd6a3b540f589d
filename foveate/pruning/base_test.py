import torch

from foveate.pruning.base import Budget, blocks, budget_counts, keep_tokens, patch_index, renumbered, top
from foveate.pruning.methods_test import LAYOUT, tiny_prefix
from foveate.types import Span, TokenLayout

CPU = torch.device("cpu")


def test_top_ranks_valid_patches_and_gives_ties_to_the_first():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    valid = torch.tensor([[True, True, True, True], [False, True, True, True]])
    assert top(scores, valid, 1).int().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert top(scores, valid, torch.tensor([[3], [2]])).int().tolist() == [[0, 1, 1, 1], [0, 1, 1, 0]]
    assert top(scores, valid, 9).int().tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]


def test_budget_counts_valid_patches_only():
    valid = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    assert budget_counts(Budget(keep_ratio=0.5), valid).tolist() == [[3], [1], [0]]
    assert budget_counts(Budget(keep_tokens=4), valid).tolist() == [[4], [2], [0]]
    assert budget_counts(Budget(), valid).tolist() == [[5], [2], [0]]


def test_blocks_join_equal_views_and_part_unequal_ones():
    (both,) = blocks(LAYOUT, "view", CPU)
    assert both.tolist() == [list(range(16)), list(range(16, 32))]
    (joint,) = blocks(LAYOUT, "joint", CPU)
    assert joint.tolist() == [list(range(32))]
    unequal = TokenLayout((Span("a", "image", 0, 2), Span("text", "text", 2, 3), Span("b", "image", 3, 6)))
    assert [b.tolist() for b in blocks(unequal, "view", CPU)] == [[[0, 1]], [[2, 3, 4]]]
    assert patch_index(unequal, CPU).tolist() == [0, 1, 3, 4, 5]
    assert blocks(TokenLayout((Span("text", "text", 0, 3),)), "view", CPU) == ()


def test_keep_tokens_leaves_other_tokens_alone():
    prefix = tiny_prefix(batch=1)
    keep = torch.zeros(1, 32, dtype=torch.bool)
    keep[0, [0, 31]] = True
    assert keep_tokens(prefix, keep).nonzero()[:, 1].tolist() == [0, 31, *range(32, 38)]


def test_position_ids_counted_anew():
    prefix = tiny_prefix()
    ids = renumbered(prefix.mask)
    assert torch.equal(ids[prefix.mask], prefix.position_ids[prefix.mask])
    assert ids.min() == 0
