"""The prompt of π0 and π0.5, and its tokens. The tokenizer is a sentencepiece model read from a file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import sentencepiece

from foveate.errors import FoveateError

STATE_BINS = 256
_EDGES = np.linspace(-1, 1, STATE_BINS + 1)[:-1]
logger = logging.getLogger("foveate")


def clean(prompt: str) -> str:
    """As openpi: no blanks around, underscores and line breaks become spaces."""
    return prompt.strip().replace("_", " ").replace("\n", " ")


def discretise(state: np.ndarray) -> np.ndarray:
    """Normalised state [S] -> bins 0..255 over [-1, 1]; above the range 255, below it -1, as openpi has it."""
    bins: np.ndarray = np.digitize(state, bins=_EDGES) - 1
    return bins


class PromptTokenizer:
    """Writes the model's prompt and turns it into token ids."""

    def __init__(
        self,
        path: str | Path,
        max_token_len: int,
        vocab_size: int | None = None,
        *,
        clean_prompt: bool = True,
        state_width: int = 0,
    ) -> None:
        """
        Args:
            path: a sentencepiece model; PaliGemma's for the published checkpoints.
            max_token_len: prompts are padded to this length, longer ones are cut with a warning.
            vocab_size: rows of the model's embedding, to catch a tokenizer of another model.
            clean_prompt: whether the instruction is cleaned (`clean`); False leaves it as it is, as LeRobot's π0 does.
            state_width: numbers to which the state is padded with zeros before it is written; 0: it is not padded.
        """
        path = Path(path)
        if not path.is_file():
            raise FoveateError(
                f"{path}: no such file; name the policy's sentencepiece model (paligemma_tokenizer.model)"
            )
        content = path.read_bytes()
        try:
            if not content:  # which sentencepiece takes for no model at all
                raise RuntimeError
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
        except RuntimeError:
            raise FoveateError(f"{path}: not a sentencepiece model; copy the policy's tokenizer file again") from None
        if vocab_size is not None and self._pieces.vocab_size() > vocab_size:
            raise FoveateError(
                f"{path}: the tokenizer has {self._pieces.vocab_size()} pieces and the model embeds {vocab_size}: "
                "it belongs to another model"
            )
        self.max_token_len = max_token_len
        self._clean, self._state_width = clean_prompt, state_width
        self._newline: list[int] = self._pieces.encode("\n")
        self._warned = False

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._pieces.encode(text, add_bos=True)
        return ids

    @property
    def vocab_size(self) -> int:
        return int(self._pieces.vocab_size())

    def ids(self, prompt: str, state: np.ndarray | None = None) -> list[int]:
        """Token ids, neither cut nor padded.

        Args:
            state: normalised state [S], written into the prompt (π0.5); None: π0's prompt, which ends in a line break.
        """
        text = self.text(prompt, state)
        if state is not None:
            return self._encode(text)
        # The line break is encoded by itself, as in openpi: sentencepiece may drop one at the end of a text.
        return self._encode(text.removesuffix("\n")) + self._newline

    def text(self, prompt: str, state: np.ndarray | None = None) -> str:
        """The whole prompt; arguments as of `ids`."""
        task = clean(prompt) if self._clean else prompt
        if state is None:
            return task if task.endswith("\n") else task + "\n"
        state = np.pad(state, (0, max(0, self._state_width - len(state))))
        return f"Task: {task}, State: {' '.join(map(str, discretise(state).tolist()))};\nAction: "

    def __call__(self, prompt: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int64 [L], 0 where padded, and their mask bool [L]."""
        ids = self.ids(prompt, state)
        if len(ids) > self.max_token_len:
            # Once: a control loop would repeat it at every step.
            if not self._warned:
                logger.warning(
                    "prompt of %d tokens cut to max_token_len %d; its end (with the state) is lost: %.80r",
                    len(ids),
                    self.max_token_len,
                    prompt,
                )
            self._warned = True
            ids = ids[: self.max_token_len]
        tokens = np.zeros(self.max_token_len, np.int64)
        tokens[: len(ids)] = ids
        return tokens, np.arange(self.max_token_len) < len(ids)

    def pieces(self, tokens: np.ndarray) -> list[str]:
        """The text of each token, for token logs."""
        return [self._pieces.id_to_piece(int(token)) for token in tokens]
