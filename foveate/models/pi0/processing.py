"""From an observation to the model's input and from the model's actions to the robot's, as openpi does it.

processor = Processor.from_dir("path/to/checkpoint")
inputs = processor.inputs([observation])
actions = processor.actions(model.sample_actions(inputs), [observation])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.geometry import ResizeGeometry
from foveate.models.common.images import ResizeKind, model_images, to_uint8
from foveate.models.common.normalize import Normalizer, load_norm_stats
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tokenizer import PromptTokenizer
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.detect import CheckpointInfo, detect
from foveate.models.pi0.model import ModelInputs
from foveate.types import Observation

__all__ = ["Processor"]


class Processor:
    """Stateless but for its tables; one per policy.

    Attributes:
        robot: the mapping, cut to the model's views.
    """

    def __init__(
        self,
        config: Pi0Config,
        robot: RobotMapping,
        tokenizer: PromptTokenizer,
        state_norm: Normalizer | None,
        action_norm: Normalizer | None,
        *,
        resize: ResizeKind = "torch",
        state_in_prompt: bool | None = None,
    ) -> None:
        """
        Args:
            state_norm, action_norm: None leaves the numbers as they are.
            resize: `pil` as openpi's server, `torch` as its PyTorch model and LeRobot; see `models.common.images`.
            state_in_prompt: overrides the robot mapping's word, and that the model's kind.
        """
        if resize not in ("pil", "torch"):
            raise FoveateError(f"resize {resize!r} is unknown; choices: pil, torch")
        self.config, self.tokenizer, self.resize = config, tokenizer, resize
        self.robot = robot.restricted(config.views)
        self.state_norm, self.action_norm = state_norm, action_norm
        choices = (state_in_prompt, robot.state_in_prompt, config.pi05)
        self.state_in_prompt = config.pi05 and next(choice for choice in choices if choice is not None)
        # openpi pads the state and not the statistics, so both of these must cover the robot's own entries.
        for what, dim, norm in (("state", robot.state_dim, state_norm), ("actions", robot.action_dim, action_norm)):
            if dim > config.action_dim:
                raise FoveateError(
                    f"robot {robot.name!r}: {what} of {dim} numbers, the model has room for {config.action_dim}"
                )
            if norm is not None and not dim <= norm.stats.dim <= config.action_dim:
                raise FoveateError(
                    f"norm stats of {what!r} have {norm.stats.dim} entries; robot {robot.name!r} has {dim}, the model "
                    f"{config.action_dim}: these statistics are another robot's, choose its asset_id or its mapping"
                )

    @classmethod
    def from_dir(
        cls,
        path: str | Path,
        *,
        robot: str | Path | None = None,
        tokenizer: str | Path | None = None,
        asset_id: str | None = None,
    ) -> Processor:
        """From a foveate, openpi or LeRobot checkpoint folder."""
        return cls.from_info(detect(path, robot=robot, tokenizer=tokenizer), asset_id=asset_id)

    @classmethod
    def from_info(
        cls,
        info: CheckpointInfo,
        *,
        robot: str | Path | None = None,
        tokenizer: str | Path | None = None,
        asset_id: str | None = None,
    ) -> Processor:
        """From what `detect` found; arguments as `load_policy` takes them.

        Raises:
            FoveateError: something that a policy needs is missing, all such things named.
        """
        info = info.with_overrides(robot, tokenizer)
        if info.missing or info.robot is None or info.tokenizer is None:
            raise FoveateError("\n  ".join([f"{info.path}: cannot run yet, missing:", *info.missing]))
        state_norm, action_norm = info.state_norm, info.action_norm
        if info.format != "lerobot":
            folder = info.path / "assets" / _choose_asset(info, asset_id)
            stats = load_norm_stats(folder)
            try:
                state_norm, action_norm = (Normalizer(stats[key], info.norm) for key in ("state", "actions"))
            except FoveateError as error:
                raise FoveateError(f"{folder}: {error}") from None
        prompts = PromptTokenizer(info.tokenizer, info.config.max_token_len, info.config.vocab_size)
        options = {"resize": info.resize, "state_in_prompt": info.state_in_prompt}
        try:
            return cls(info.config, info.robot, prompts, state_norm, action_norm, **options)  # type: ignore[arg-type]
        except FoveateError as error:
            raise FoveateError(f"{info.path}: {error}") from None

    def inputs(self, observations: Sequence[Observation]) -> ModelInputs:
        """One batch of model inputs, on the host; layouts and ranges as `ModelInputs` documents.

        Raises:
            FoveateError: a view is missing or the state has another length.
        """
        images, image_masks = self.images(observations)
        state = self.normalized_state(observations)
        tokens, token_masks = self.tokens(observations, state)
        padded = np.zeros((len(observations), self.config.action_dim), np.float32)
        padded[:, : state.shape[1]] = state
        return ModelInputs(images, image_masks, tokens, token_masks, torch.from_numpy(padded))

    def images(self, observations: Sequence[Observation]) -> tuple[Tensor, Tensor]:
        """float32 [B, V, 3, H, W] in [-1, 1] and bool [B, V]; absent cameras are black and masked."""
        size, views = self.config.vision.image_size, self.config.views
        images = torch.full((len(observations), len(views), 3, size, size), -1.0)
        masks = torch.zeros(len(observations), len(views), dtype=torch.bool)
        chosen = [self.robot.select_views(observation.images) for observation in observations]
        for v, view in enumerate(views):
            rows = [b for b, pictures in enumerate(chosen) if pictures[view] is not None]
            if rows:
                images[rows, v] = model_images(
                    [picture for p in chosen if (picture := p[view]) is not None], size, self.resize
                )
                masks[rows, v] = True
        return images, masks

    def normalized_state(self, observations: Sequence[Observation]) -> np.ndarray:
        """float32 [B, S], normalised, not padded."""
        states = np.stack([self.robot.to_model_state(observation.state) for observation in observations])
        return states.astype(np.float32) if self.state_norm is None else self.state_norm.normalize(states)

    def tokens(self, observations: Sequence[Observation], state: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids int64 [B, L] and mask bool [B, L].

        Args:
            state: [B, S], normalised.
        """
        pairs = [
            self.tokenizer(self._prompt(observation), row if self.state_in_prompt else None)
            for observation, row in zip(observations, state, strict=True)
        ]
        tokens, masks = (np.stack(column) for column in zip(*pairs, strict=True))
        return torch.from_numpy(tokens), torch.from_numpy(masks)

    def _prompt(self, observation: Observation) -> str:
        prompt = observation.prompt.strip() or self.robot.default_prompt
        if not prompt:
            raise FoveateError(
                f"the observation has an empty prompt, and robot {self.robot.name!r} has no default_prompt"
            )
        return prompt

    def actions(self, actions: Tensor, observations: Sequence[Observation]) -> np.ndarray:
        """The model's actions [B, H, A] -> the robot's, float32 [B, H, action_dim]; NaN stays NaN."""
        values = actions.detach().float().cpu().numpy()[..., : self.robot.action_dim]
        if self.action_norm is not None:
            values = self.action_norm.unnormalize(values)
        return self.robot.from_model_actions(values, np.stack([observation.state for observation in observations]))

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
        padded = np.zeros((*values.shape[:-1], self.config.action_dim), np.float32)
        padded[..., : values.shape[-1]] = values
        return torch.from_numpy(padded)

    def model_images(self, observation: Observation) -> dict[str, np.ndarray]:
        """Model view -> uint8 [size, size, 3]: the pictures as the model sees them; absent cameras are left out."""
        images, masks = self.images([observation])
        pictures = to_uint8(images[0])
        return {view: pictures[v] for v, view in enumerate(self.config.views) if masks[0, v]}

    def source_images(self, observation: Observation) -> dict[str, np.ndarray]:
        """Model view -> the observation's own picture, at its own resolution; absent cameras are left out."""
        chosen = self.robot.select_views(observation.images)
        return {view: picture for view, picture in chosen.items() if picture is not None}

    def picture_patches(self, observation: Observation) -> dict[str, np.ndarray]:
        """Model view -> bool [rows, columns]: patches that show some of the picture, and not its borders alone.

        A picture that is not square lies between black borders in the model's square input.
        """
        size, grid = self.config.vision.image_size, self.config.vision.grid
        patches = {}
        for view, picture in self.source_images(observation).items():
            x0, y0, x1, y1 = ResizeGeometry(picture.shape[:2], (size, size)).patch_boxes(grid).T
            patches[view] = ((x1 > x0) & (y1 > y0)).reshape(grid)
        return patches


def _choose_asset(info: CheckpointInfo, asset_id: str | None) -> str:
    """Which norm stats to use: the named one, the robot's, or the only one."""
    if asset_id is not None:
        if asset_id not in info.asset_ids:
            raise FoveateError(f"{info.path}: no norm stats {asset_id!r} under assets, found {list(info.asset_ids)}")
        return asset_id
    if len(info.asset_ids) == 1:
        return info.asset_ids[0]
    assert info.robot is not None
    fitting = [i for i in info.asset_ids if i in info.robot.asset_ids]
    if info.format == "foveate" or len(fitting) == 1:
        return fitting[0] if fitting else info.asset_ids[0]
    raise FoveateError(
        f"{info.path}: several norm stats, {list(info.asset_ids)}, and robot {info.robot.name!r} does not tell which: "
        "pass --asset_id"
    )
