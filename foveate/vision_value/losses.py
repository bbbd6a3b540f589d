"""What stage 2 minimises: gains (regression or ranking), or task + lambda * cost of the actions themselves.

All work on the cached passes: `loss` [B, 3] holds the nats per answer token of each action's answer, so the model need
not run again. A model that expands image tokens in place has sequences of another length for every action, and its
hidden states cannot be mixed; the soft mixture therefore mixes the probabilities that the three answers give to the
right answer, which is defined for every model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gain_regression(scores: Tensor, loss: Tensor, actions: Tensor) -> Tensor:
    """Smooth L1 between scores and gains (loss of NO less that of the action), mean over the looks.

    Args:
        scores, loss: [B, 3].
        actions: bool [3], which actions there are.
    """
    looks = actions.clone()
    looks[0] = False
    gains = loss[:, :1] - loss
    return F.smooth_l1_loss(scores[:, looks], gains[:, looks])


def gain_ranking(scores: Tensor, loss: Tensor, actions: Tensor) -> Tensor:
    """Hinge over every pair of actions with the difference of their gains as the margin.

    relu(|g_a - g_b| - sign(g_a - g_b) (s_a - s_b)): zero when scores are at least as far apart as gains are, in the
    right order; scores therefore keep the unit of lambda.
    """
    pairs = torch.combinations(actions.nonzero().squeeze(-1), 2)
    gain = loss[:, pairs[:, 1]] - loss[:, pairs[:, 0]]
    score = scores[:, pairs[:, 0]] - scores[:, pairs[:, 1]]
    return F.relu(gain.abs() - gain.sign() * score).mean()


def straight_through(
    scores: Tensor, loss: Tensor, cost: Tensor, lambda_cost: float, temperature: float, generator: torch.Generator
) -> Tensor:
    """Task loss of one drawn action + lambda * its cost; gradients through the relaxed draw (Jang et al. 2017).

    Args:
        scores, loss, cost: [B, 3]; `cost` with the factor `cost_scale` in it.
    """
    uniform = torch.rand(scores.shape, generator=generator).clamp_min(1e-10)
    soft = ((scores - torch.log(-torch.log(uniform))) / temperature).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), 3).to(soft.dtype)
    weights = hard + soft - soft.detach()
    return (weights * (loss + lambda_cost * cost)).sum(-1).mean()


def soft_mixture(scores: Tensor, loss: Tensor, cost: Tensor, lambda_cost: float) -> Tensor:
    """Loss of the mixture of the three answers + lambda * expected cost: -log sum p exp(-loss) + lambda E[cost]."""
    log_p = scores.log_softmax(-1)
    task = -torch.logsumexp(log_p - loss, dim=-1)
    return (task + lambda_cost * (log_p.exp() * cost).sum(-1)).mean()
