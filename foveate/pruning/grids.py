"""GridS (arXiv 2605.11817): a small network resamples each view at a few continuous positions.

The network sees the mean of the view's patches alone: neither the instruction nor the state enters.

    pooled = mean of the view's patches                                    [D]
    xy     = sigmoid(W2 relu(W1 pooled + b1) + b2)                         [K, 2], x over columns, y over rows, 0 .. 1
    token  = bilinear sample at xy + C2 relu(C1 xy + c1) + c2              [K, D]

Tokens of a view follow each other with consecutive position ids. The public implementations sample differently, so that
a checkpoint belongs to one of `SAMPLING`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.models.common.tensor_files import read_floats, read_header
from foveate.pruning.base import FixedBudget, TokenPruner, grid_of, patch_index, renumbered
from foveate.types import KeepSet, Prefix, Selection

Sampling = Literal["openpi", "torch_port", "lerobot"]
SAMPLING = get_args(Sampling)
SCOUT, COORD = 512, 256
"""Hidden units of the network that finds coordinates, and of the one that encodes them."""
WEIGHTS = "pruner.safetensors"


@dataclass(frozen=True, kw_only=True)
class GridS(FixedBudget):
    """Resample each view at a few learned positions, which depend on the view's mean alone."""

    keep_tokens: int | None = 16
    """Tokens per view; published with 16, and with 4."""
    keep_ratio: float | None = None
    """Not used: the network has as many outputs as it was trained with."""
    sampling: Sampling = "openpi"
    """Whose weights: `openpi` (JAX; corners are the centres of the corner patches), `torch_port` (the same, but zero
    where a coordinate is exactly 1), `lerobot` (corners are the picture's, which fades to zero towards them)."""
    embed_coords: bool = True
    """Add an encoding of the coordinates to each token."""
    layer_norm: bool = False
    """Normalise the pooled feature first, as the newer JAX file does against saturated coordinates."""
    margin: float = 0.0
    """Keep coordinates so far from the border, as a share of the side; of the newer JAX file."""
    weights: str | None = None
    """File of the network's weights; null: the policy's own, and new ones in a training."""

    def __post_init__(self) -> None:
        if self.keep_ratio is not None:
            raise FoveateError(
                "GridS: keep_ratio has no meaning for a network of fixed outputs; set keep_tokens (as 16)"
            )
        super().__post_init__()
        if self.sampling not in SAMPLING:
            raise FoveateError(f"GridS: sampling must be one of {', '.join(SAMPLING)}, got {self.sampling!r}")
        if not 0 <= self.margin < 0.5:
            raise FoveateError(f"GridS: margin must lie in [0, 0.5), got {self.margin}")

    def build(self) -> GridSPruner:
        return GridSPruner(self)


class Sampler(nn.Module):
    """The network, for views of width D; its parameters are named as in the reference."""

    def __init__(self, config: GridS, width: int) -> None:
        super().__init__()
        assert config.keep_tokens is not None  # a fixed budget, and no ratio
        self.config, self.count = config, config.keep_tokens
        self.norm = nn.LayerNorm(width, eps=1e-6) if config.layer_norm else None
        self.scout_mlp = nn.Sequential(nn.Linear(width, SCOUT), nn.ReLU(), nn.Linear(SCOUT, 2 * self.count))
        self.coord_encoder = (
            nn.Sequential(nn.Linear(2, COORD), nn.ReLU(), nn.Linear(COORD, width)) if config.embed_coords else None
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """One view of a batch.

        Args:
            features: float [B, H, W, D].
        Returns:
            tokens float32 [B, K, D]; coordinates float32 [B, K, 2], x and y of 0 .. 1.
        """
        features = features.float()
        if self.config.sampling == "lerobot" and features.shape[1] != features.shape[2]:
            side = min(features.shape[1:3])
            features = F.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
        pooled = features.mean((1, 2))
        pooled = pooled if self.norm is None else self.norm(pooled)
        xy = self.scout_mlp(pooled).sigmoid().unflatten(-1, (self.count, 2))
        xy = self.config.margin + (1 - 2 * self.config.margin) * xy
        tokens = sample(features, xy, self.config.sampling)
        return tokens if self.coord_encoder is None else tokens + self.coord_encoder(xy), xy


def sample(features: Tensor, xy: Tensor, sampling: Sampling) -> Tensor:
    """Bilinear samples float32 [B, K, D] of features [B, H, W, D] at x and y [B, K, 2] of 0 .. 1."""
    if sampling == "lerobot":
        # Coordinates span the outer edges of the patches; what is beyond the outermost centres is mixed with zeros.
        picture = features.permute(0, 3, 1, 2)
        found = F.grid_sample(picture, (2 * xy - 1)[:, None], "bilinear", "zeros", align_corners=False)
        return found[:, :, 0].transpose(1, 2)
    height, width = features.shape[1:3]
    limit = xy.new_tensor([width - 1, height - 1])
    scaled = xy * limit
    low = scaled.floor()
    high = (low + 1).minimum(limit)
    after = scaled - low
    # The port takes the distance to a neighbour that is clamped to the border: at exactly 1 both weights are 0.
    before = high - scaled if sampling == "torch_port" else 1 - after
    rows = torch.arange(len(features), device=features.device)[:, None]
    total = torch.zeros((), device=features.device)
    for x, weight_x in ((low[..., 0], before[..., 0]), (high[..., 0], after[..., 0])):
        for y, weight_y in ((low[..., 1], before[..., 1]), (high[..., 1], after[..., 1])):
            total = total + features[rows, y.long(), x.long()] * (weight_x * weight_y)[..., None]
    return total


class GridSPruner(TokenPruner):
    """See the module. Each token stands in the slot of the free patch that is nearest to its place, so that overlays
    and attention maps show it there; `KeepSet.coordinates` has the place itself. Differentiable; what is not sampled is
    dropped in training too, which sees exactly what evaluation sees.
    """

    whole_views = True
    within_budget = True

    def __init__(self, config: GridS | None = None) -> None:
        super().__init__()
        self.config = config or GridS()
        self.sampler: Sampler | None = None
        if self.config.weights is not None:
            self.read(Path(self.config.weights))

    def begin(self, width: int) -> None:
        if self.sampler is None:
            self.sampler = Sampler(self.config, width)

    def load(self, folder: Path) -> None:
        if self.sampler is None:
            self.read(folder / WEIGHTS)

    def save(self, folder: Path) -> None:
        if self.sampler is not None:
            state = {name: value.contiguous() for name, value in self.sampler.state_dict().items()}
            save_file(state, folder / WEIGHTS)

    def read(self, file: Path) -> None:
        """The network's weights from a file.

        Raises:
            FoveateError: no such file, or the weights of another network.
        """
        if not file.is_file():
            raise FoveateError(
                f"GridS: {file}: no such file; its weights come from a training (foveate train policy --pruner grids), "
                "or name another file with --pruner.weights"
            )
        stored = read_header(file)
        first = stored.get("scout_mlp.0.weight")
        if first is None or len(first.shape) != 2:
            raise FoveateError(f"GridS: {file}: no matrix scout_mlp.0.weight, found {sorted(stored)[:6]}")
        sampler = Sampler(self.config, first.shape[1])
        state = sampler.state_dict()
        wanted = {name: tuple(value.shape) for name, value in state.items()}
        found = {name: entry.shape for name, entry in stored.items()}
        if wanted != found:
            wrong = [name for name in sorted(wanted | found) if wanted.get(name) != found.get(name)]
            lines = [f"  {name}: expected {wanted.get(name, 'none')}, got {found.get(name, 'none')}" for name in wrong]
            raise FoveateError("\n".join([f"GridS: {file}: the weights do not fit its options", *lines]))
        sampler.load_state_dict({name: read_floats(stored[name]) for name in state})
        self.sampler = sampler

    def select(self, prefix: Prefix, queries: Tensor | None = None, **_: Any) -> Selection:
        if self.sampler is None:
            raise FoveateError("GridS: no weights; train it (foveate train policy --pruner grids), or name a file")
        valid = self.valid_patches(prefix)
        embeds, mask = prefix.embeds.clone(), prefix.mask.clone()
        places = torch.zeros(*valid.shape, 2, device=valid.device)
        slots = []
        # Under autocast coordinates would fall to bfloat16, where sigmoids saturate early.
        with torch.autocast(prefix.embeds.device.type, enabled=False):
            for span, patches in zip(prefix.layout.images, prefix.layout.view_slices.values(), strict=True):
                view, grid = slice(span.start, span.stop), grid_of(span)
                tokens, xy = self.sampler(prefix.embeds[:, view].unflatten(1, grid))
                at = rows_and_columns(xy.detach(), grid, self.config.sampling)
                slot = nearest_free(at, grid)
                wide = slot[..., None]
                embeds[:, view] = embeds[:, view].scatter(1, wide.expand_as(tokens), tokens.to(embeds.dtype))
                mask[:, view] &= torch.zeros_like(mask[:, view]).scatter(1, slot, True)
                places[:, patches] = places[:, patches].scatter(1, wide.expand_as(at), at)
                slots.append(slot)
        positions = renumbered(mask)
        for span, slot in zip(prefix.layout.images, slots, strict=True):
            # In the network's order, wherever the slots are.
            part = positions[:, span.start : span.stop]
            ordered = part.gather(1, slot).sort(-1).values
            positions[:, span.start : span.stop] = part.scatter(1, slot, ordered)
        chosen = mask[:, patch_index(prefix.layout, mask.device)]
        keep = KeepSet(chosen, prefix.layout, valid=valid, coordinates=places)
        return self.selection(prefix, keep, mask=mask, embeds=embeds, position_ids=positions)


def rows_and_columns(xy: Tensor, grid: tuple[int, int], sampling: Sampling) -> Tensor:
    """Where a sample lies in its view, [B, K, 2] in patches: the centre of the first patch is at 0.5, 0.5."""
    size = xy.new_tensor(grid)
    yx = xy.flip(-1)
    return yx * size if sampling == "lerobot" else yx * (size - 1) + 0.5


def nearest_free(at: Tensor, grid: tuple[int, int]) -> Tensor:
    """int64 [B, K]: for each place [B, K, 2], in turn, the nearest patch that none before it has taken."""
    height, width = grid
    if at.shape[1] > height * width:
        raise FoveateError(f"GridS: {at.shape[1]} tokens per view, and a view has {height * width} patches; keep fewer")
    patches = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
    centres = patches.reshape(-1, 2).to(at) + 0.5
    distance = (at[:, :, None] - centres).square().sum(-1)
    chosen = []
    for k in range(at.shape[1]):
        nearest = distance[:, k].argmin(-1, keepdim=True)
        chosen.append(nearest)
        distance = distance.scatter(2, nearest[:, None].expand(-1, at.shape[1], 1), math.inf)
    return torch.cat(chosen, 1)
