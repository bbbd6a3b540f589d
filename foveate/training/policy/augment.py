"""Random views of the same picture, for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Move pictures by whole pixels; what enters at an edge repeats that edge.

    Args:
        images: [N, 3, H, W], any dtype.
        offsets: int64 [N, 2]: rows and columns by which the content moves up and left.
    """
    height, width = images.shape[-2:]
    rows = (torch.arange(height) + offsets[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width) + offsets[:, 1:]).clamp(0, width - 1)
    # Two small gathers per picture are several times faster than one fancy index over the batch.
    return torch.stack([image[:, r][:, :, c] for image, r, c in zip(images, rows, columns, strict=True)])


def recolour(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness and contrast around each picture's own mean, in place; stays in [-1, 1].

    Args:
        images: float32 [N, 3, H, W] in [-1, 1].
        brightness: [N], added, as a share of the full range.
        contrast: [N], relative: 0 changes nothing.
    """
    mean = images.mean((1, 2, 3))
    offset = 2 * brightness - mean * contrast
    return images.mul_((1 + contrast)[:, None, None, None]).add_(offset[:, None, None, None]).clamp_(-1, 1)


def uniform(shape: tuple[int, ...], limit: float, generator: Generator) -> Tensor:
    """float32, uniform in [-limit, limit]."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * limit
