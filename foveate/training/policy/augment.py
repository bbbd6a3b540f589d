"""Random views of the same picture, for a whole batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def crop(images: Tensor, offsets: Tensor, side: float) -> Tensor:
    """A square part of each picture, enlarged to the whole: bilinear, the part's corners become the picture's.

    Args:
        images: float [N, 3, S, S].
        offsets: [N, 2], rows and columns of the part's first corner, of the picture's side; in [0, 1 - side].
        side: of the part, of the picture's.
    """
    y, x = (2 * offsets + side - 1).T
    zero, scale = torch.zeros_like(x), torch.full_like(x, side)
    places = torch.stack((scale, zero, x, zero, scale, y), -1).view(-1, 2, 3)
    grid = F.affine_grid(places, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True)


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


def tinge(images: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Change saturation and hue as in the cylinder of hue, saturation and value.

    Args:
        images: float32 [N, 3, H, W] in [-1, 1].
        saturation: [N], relative: 0 changes nothing.
        hue: [N], in turns of the colour circle.
    """
    red, green, blue = (images + 1).div(2).unbind(1)
    value = (images.amax(1) + 1) / 2
    chroma = value - (images.amin(1) + 1) / 2
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        value == red,
        ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = sector + 6 * hue[:, None, None]
    chroma = torch.minimum(chroma * (1 + saturation)[:, None, None], value)
    # The three channels are one trapezoid over the circle, at three places.
    place = (torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None] + sector[:, None]) % 6
    channels = value[:, None] - chroma[:, None] * torch.minimum(place, 4 - place).clamp(0, 1)
    return channels * 2 - 1


def uniform(shape: tuple[int, ...], limit: float, generator: Generator) -> Tensor:
    """float32, uniform in [-limit, limit]."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * limit
