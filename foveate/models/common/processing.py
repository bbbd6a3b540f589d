"""What every processor shares: pictures, state and actions between a robot and a model. Text is the family's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.geometry import ResizeGeometry
from foveate.models.base import ModelSpec
from foveate.models.common.images import ResizeKind, model_images, to_uint8
from foveate.models.common.normalize import Normalizer
from foveate.models.common.robots import RobotMapping
from foveate.types import Observation
from foveate.util.checks import instruction


class RobotProcessor:
    """Stateless but for its tables; one per policy.

    Attributes:
        robot: the mapping, cut to the model's views.
    """

    def __init__(
        self,
        spec: ModelSpec,
        robot: RobotMapping,
        state_norm: Normalizer | None,
        action_norm: Normalizer | None,
        *,
        resize: ResizeKind = "torch",
        image_pad: float = -1.0,
    ) -> None:
        """
        Args:
            state_norm, action_norm: None leaves the numbers as they are.
            resize: `pil` as openpi's server, `torch` as its PyTorch model and LeRobot; see `models.common.images`.
            image_pad: fills the borders that make a picture square; -1 is black.
        """
        if resize not in ("pil", "torch"):
            raise FoveateError(f"resize {resize!r} is unknown; choices: pil, torch")
        if resize == "pil" and image_pad != -1:
            raise FoveateError(f"image_pad {image_pad}: the resize pil pads with black (-1) alone; resize with torch")
        self.spec, self.resize, self.image_pad = spec, resize, image_pad
        self.robot = robot.restricted(spec.views)
        self.state_norm, self.action_norm = state_norm, action_norm
        # openpi pads the state and not the statistics, so both of these must cover the robot's own entries.
        for what, dim, room, norm in (
            ("state", robot.state_dim, spec.state_dim, state_norm),
            ("actions", robot.action_dim, spec.action_dim, action_norm),
        ):
            if dim > room:
                raise FoveateError(f"robot {robot.name!r}: {what} of {dim} numbers, the model has room for {room}")
            if norm is not None and not dim <= norm.stats.dim <= room:
                raise FoveateError(
                    f"norm stats of {what!r} have {norm.stats.dim} entries; robot {robot.name!r} has {dim}, the model "
                    f"{room}: these statistics are another robot's, choose its asset_id or its mapping"
                )

    def images(self, observations: Sequence[Observation]) -> tuple[Tensor, Tensor]:
        """float32 [B, V, 3, H, W] in [-1, 1] and bool [B, V]; absent cameras are black and masked."""
        size, views = self.spec.image_size, self.spec.views
        images = torch.full((len(observations), len(views), 3, size, size), -1.0)
        masks = torch.zeros(len(observations), len(views), dtype=torch.bool)
        chosen = [self.robot.select_views(observation.images) for observation in observations]
        for v, view in enumerate(views):
            rows = [b for b, pictures in enumerate(chosen) if pictures[view] is not None]
            if rows:
                images[rows, v] = model_images(
                    [picture for p in chosen if (picture := p[view]) is not None], size, self.resize, self.image_pad
                )
                masks[rows, v] = True
        return images, masks

    def normalized_state(self, observations: Sequence[Observation]) -> np.ndarray:
        """float32 [B, S], normalised, not padded."""
        states = np.stack([self.robot.to_model_state(observation.state) for observation in observations])
        return states.astype(np.float32) if self.state_norm is None else self.state_norm.normalize(states)

    def padded_state(self, state: np.ndarray) -> Tensor:
        """A normalised state [B, S] as models take it: float32 [B, state_dim], padded with zeros."""
        padded = np.zeros((len(state), self.spec.state_dim), np.float32)
        padded[:, : state.shape[1]] = state
        return torch.from_numpy(padded)

    def prompt(self, observation: Observation) -> str:
        """The instruction as it came, or the robot's default."""
        has_own = observation.prompt.strip() or self.robot.default_prompt is None
        return instruction("prompt", observation.prompt if has_own else self.robot.default_prompt)

    def actions(self, actions: Tensor, observations: Sequence[Observation]) -> np.ndarray:
        """The model's actions [B, H, A] -> the robot's, float32 [B, H, action_dim]; NaN stays NaN."""
        values = actions.detach().float().cpu().numpy()[..., : self.robot.action_dim]
        states = np.stack([observation.state for observation in observations])
        with np.errstate(over="ignore", invalid="ignore"):  # the policy tells of what is not finite
            if self.action_norm is not None:
                values = self.action_norm.unnormalize(values)
            return self.robot.from_model_actions(values, states)

    def targets(self, actions: np.ndarray, states: np.ndarray) -> Tensor:
        """The robot's actions -> what the model is trained to give: the inverse of `actions`.

        Args:
            actions: float [B, H, action_dim] in the robot's units.
            states: float [B, S] at the chunk's first step.
        Returns:
            float32 [B, H, A], normalised, zero-padded.
        """
        values = self.robot.to_model_actions(actions, states)
        if self.action_norm is not None:
            values = self.action_norm.normalize(values)
        padded = np.zeros((*values.shape[:-1], self.spec.action_dim), np.float32)
        padded[..., : values.shape[-1]] = values
        return torch.from_numpy(padded)

    def model_images(self, observation: Observation) -> dict[str, np.ndarray]:
        """Model view -> uint8 [size, size, 3]: the pictures as the model sees them; absent cameras are left out."""
        images, masks = self.images([observation])
        pictures = to_uint8(images[0])
        return {view: pictures[v] for v, view in enumerate(self.spec.views) if masks[0, v]}

    def source_images(self, observation: Observation) -> dict[str, np.ndarray]:
        """Model view -> the observation's own picture, at its own resolution; absent cameras are left out."""
        chosen = self.robot.select_views(observation.images)
        return {view: picture for view, picture in chosen.items() if picture is not None}

    def picture_patches(self, observation: Observation) -> dict[str, np.ndarray]:
        """Model view -> bool [rows, columns]: patches that show some of the picture, and not its borders alone.

        A picture that is not square lies between black borders in the model's square input.
        """
        size, grids = self.spec.image_size, dict(zip(self.spec.views, self.spec.grids, strict=True))
        patches = {}
        for view, picture in self.source_images(observation).items():
            grid = grids[view]
            if self.spec.crop is not None:  # stretched, without borders
                patches[view] = np.ones(grid, bool)
                continue
            x0, y0, x1, y1 = ResizeGeometry(picture.shape[:2], (size, size)).patch_boxes(grid).T
            patches[view] = ((x1 > x0) & (y1 > y0)).reshape(grid)
        return patches
