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
from foveate.models.base import ModelInputs
from foveate.models.common.images import ResizeKind
from foveate.models.common.normalize import Normalizer, load_norm_stats
from foveate.models.common.processing import RobotProcessor
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tokenizer import PromptTokenizer
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.detect import CheckpointInfo, detect
from foveate.types import Observation


class Processor(RobotProcessor):
    """Of π0 and π0.5: pictures, state and actions of the robot, and a prompt that may hold the state."""

    def __init__(
        self,
        config: Pi0Config,
        robot: RobotMapping,
        tokenizer: PromptTokenizer,
        state_norm: Normalizer | None,
        action_norm: Normalizer | None,
        *,
        resize: ResizeKind = "torch",
        image_pad: float = -1.0,
        state_in_prompt: bool | None = None,
    ) -> None:
        """
        Args:
            state_in_prompt: overrides the robot mapping's word, and that of the model's kind.
        """
        super().__init__(config.spec, robot, state_norm, action_norm, resize=resize, image_pad=image_pad)
        self.tokenizer = tokenizer
        choices = (state_in_prompt, robot.state_in_prompt, config.pi05)
        self.state_in_prompt = config.pi05 and next(choice for choice in choices if choice is not None)

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
            folder = info.path / "assets" / choose_asset(info, asset_id)
            stats = load_norm_stats(folder)
            try:
                state_norm, action_norm = (Normalizer(stats[key], info.norm) for key in ("state", "actions"))
            except FoveateError as error:
                raise FoveateError(f"{folder}: {error}") from None
        prompts = PromptTokenizer(
            info.tokenizer,
            info.config.max_token_len,
            info.config.vocab_size,
            clean_prompt=info.clean_prompt,
            state_width=info.state_width,
        )
        try:
            return cls(
                info.config,
                info.robot,
                prompts,
                state_norm,
                action_norm,
                resize=info.resize,
                image_pad=info.image_pad,
                state_in_prompt=info.state_in_prompt,
            )
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
        return ModelInputs(images, image_masks, tokens, token_masks, self.padded_state(state))

    def tokens(self, observations: Sequence[Observation], state: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids int64 [B, L] and mask bool [B, L].

        Args:
            state: [B, S], normalised.
        """
        pairs = [
            self.tokenizer(self.prompt(observation), row if self.state_in_prompt else None)
            for observation, row in zip(observations, state, strict=True)
        ]
        tokens, masks = (np.stack(column) for column in zip(*pairs, strict=True))
        return torch.from_numpy(tokens), torch.from_numpy(masks)

    def pieces(self, tokens: np.ndarray) -> list[str]:
        """The text of each prompt token, int64 [L]."""
        return self.tokenizer.pieces(tokens)


def choose_asset(info: CheckpointInfo, asset_id: str | None) -> str:
    """Which norm stats to use: the named one, the robot's, or the only one."""
    if asset_id is not None:
        if asset_id not in info.asset_ids:
            raise FoveateError(f"{info.path}: no norm stats {asset_id!r} under assets, found {list(info.asset_ids)}")
        return asset_id
    if len(info.asset_ids) == 1:
        return info.asset_ids[0]
    assert info.robot is not None
    fitting = [i for i in info.asset_ids if i in info.robot.asset_ids]
    if len(fitting) == 1 or (fitting and info.format == "foveate"):
        return fitting[0]
    if info.asset_id is not None:
        return info.asset_id
    raise FoveateError(
        f"{info.path}: several norm stats, {list(info.asset_ids)}, and robot {info.robot.name!r} does not tell which: "
        "pass --asset_id"
    )
