"""From an observation to OpenVLA-OFT's inputs and from its actions to the robot's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.base import ModelInputs
from foveate.models.common.normalize import Normalizer
from foveate.models.common.processing import RobotProcessor
from foveate.models.common.robots import RobotMapping
from foveate.models.openvla_oft.config import OFTConfig
from foveate.models.openvla_oft.images import policy_picture
from foveate.types import Observation

PROMPT = "In: What action should the robot take to {}?\nOut:"
BOS, EMPTY = 1, 29_871
"""Token at the start of a prompt, and the lone blank that stands between it and the actions."""


class Tokenizer(Protocol):
    """Text to ids without BOS, and ids back to pieces."""

    def encode(self, text: str) -> list[int]: ...
    def piece(self, token: int) -> str: ...


class SentencePiece:
    """Llama's `tokenizer.model`."""

    def __init__(self, path: Path) -> None:
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        except (RuntimeError, OSError) as error:
            raise FoveateError(f"{path}: not a sentencepiece model; copy the policy's tokenizer file again") from error

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(text)
        return ids

    def piece(self, token: int) -> str:
        return str(self._model.id_to_piece(token)) if token < self._model.get_piece_size() else f"<{token}>"


class TokenizersJson:
    """Llama's `tokenizer.json`."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Fast

        try:
            self._model = Fast.from_file(str(path))
        except Exception as error:  # the library raises bare Exceptions
            raise FoveateError(f"{path}: not a tokenizer of the tokenizers library ({str(error)[:120]})") from error

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(text, add_special_tokens=False).ids
        return ids

    def piece(self, token: int) -> str:
        return str(self._model.id_to_token(token) or f"<{token}>")


def read_tokenizer(path: Path) -> Tokenizer:
    """A `tokenizer.model` or `tokenizer.json` file."""
    if not path.is_file():
        raise FoveateError(f"{path}: no such file; name Llama's tokenizer.model or tokenizer.json")
    return TokenizersJson(path) if path.suffix == ".json" else SentencePiece(path)


class Processor(RobotProcessor):
    """Of OpenVLA-OFT: its own pictures and prompt, the state as a token, clipped to [-1, 1]."""

    def __init__(
        self,
        config: OFTConfig,
        robot: RobotMapping,
        tokenizer: Tokenizer,
        state_norm: Normalizer | None,
        action_norm: Normalizer | None,
    ) -> None:
        for part, holds, own in (
            ("action head gives actions", config.action_dim, robot.action_dim),
            ("proprio projector takes states", config.state_dim, robot.state_dim),
        ):
            if holds != own:  # nothing is padded in this family
                raise FoveateError(
                    f"the checkpoint's {part} of {holds} numbers, robot {robot.name!r} has {own}: it was trained for "
                    "another robot; name that one's mapping with --robot"
                )
        super().__init__(config.spec, robot, state_norm, action_norm)
        self.tokenizer = tokenizer

    def inputs(self, observations: Sequence[Observation]) -> ModelInputs:
        images, image_masks = self.images(observations)
        state = np.clip(self.normalized_state(observations), -1, 1)
        tokens, token_masks = pad_prompts([self.prompt_ids(self.prompt(observation)) for observation in observations])
        return ModelInputs(images, image_masks, tokens, token_masks, self.padded_state(state))

    def images(self, observations: Sequence[Observation]) -> tuple[Tensor, Tensor]:
        """float32 [B, V, 3, H, W] in [-1, 1] and bool [B, V]; absent cameras are black and masked."""
        size, views = self.spec.image_size, self.spec.views
        images = torch.full((len(observations), len(views), 3, size, size), -1.0)
        masks = torch.zeros(len(observations), len(views), dtype=torch.bool)
        for b, observation in enumerate(observations):
            for v, picture in enumerate(self.robot.select_views(observation.images).values()):
                if picture is not None:
                    seen = torch.from_numpy(policy_picture(picture, size)).movedim(-1, 0)
                    images[b, v], masks[b, v] = seen.float() / 255 * 2 - 1, True
        return images, masks

    def prompt_ids(self, instruction: str) -> list[int]:
        """The tokens of a prompt, with BOS at its start and the lone blank at its end."""
        ids = [BOS, *self.tokenizer.encode(PROMPT.format(instruction.lower()))]
        return ids if ids[-1] == EMPTY else [*ids, EMPTY]

    def pieces(self, tokens: np.ndarray) -> list[str]:
        """The text of each token of the sequence that is text: BOS, the prompt, the stop token."""
        return [self.tokenizer.piece(int(token)) for token in (*tokens, 2)]


def pad_prompts(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """int64 [B, L] and bool [B, L]: padding stands behind BOS, before a shorter prompt's first word."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    masks = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, (first, *rest) in enumerate(prompts):
        tokens[row, 0], masks[row, 0] = first, True
        tokens[row, longest - len(rest) :] = torch.tensor(rest)
        masks[row, longest - len(rest) :] = True
    return tokens, masks
