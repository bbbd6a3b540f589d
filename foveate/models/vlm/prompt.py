"""From a question to token ids: the template, the chat wrapper, and the cut at the picture.

A prompt is two runs of token ids, `prefix` before the picture and `suffix` behind it. The text-only prompt is both, one
after the other; a prompt with a picture has the picture's tokens between them. So one tokenisation serves every level,
and where all that depends on the sample stands in `prefix`, what was computed for the text serves the picture too.
"""

from __future__ import annotations

import functools
import string
from collections import Counter
from dataclasses import dataclass
from typing import Any

from foveate.errors import FoveateError
from foveate.types import VQASample

LETTERS = string.ascii_uppercase
FIELDS = ("image", "hint", "question", "choices", "instruction")
INSTRUCT_CHOICE = "Answer with the option's letter from the given choices directly."
INSTRUCT_OPEN = "Answer the question using a single word or phrase."
DEFAULT_TEMPLATE = "{image}\n{hint}\n{question}\n{choices}\n{instruction}"


@dataclass(frozen=True)
class Prompt:
    """The token ids of one question, cut where the picture stands."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    @property
    def text(self) -> tuple[int, ...]:
        """The text-only prompt."""
        return self.prefix + self.suffix


def gold(sample: VQASample) -> str | None:
    """The answer to be learned: the most frequent accepted one (the first of equals); None: not public. An annotator
    who wrote nothing has accepted nothing."""
    counted = Counter(answer for answer in sample.answers if answer.strip())
    return counted.most_common(1)[0][0] if counted else None


class Template:
    """A prompt template with the fields of `FIELDS`; a line whose fields are all empty vanishes.

    Without `{image}` the picture stands before everything.
    """

    def __init__(self, text: str) -> None:
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise FoveateError(f"data.prompt_template: {error}; write a literal brace as {{{{ or }}}}") from error
        if strange := sorted(set(fields) - set(FIELDS)):
            raise FoveateError(
                f"data.prompt_template: unknown field {{{strange[0]}}}; fields: "
                + ", ".join(f"{{{field}}}" for field in FIELDS)
            )
        if "question" not in fields:
            raise FoveateError(f"data.prompt_template: {{question}} is missing in {text!r}")
        if fields.count("image") > 1:
            raise FoveateError("data.prompt_template: {image} stands there twice; models here take one picture")
        self.text = text if "image" in fields else "{image}\n" + text
        before, _, after = self.text.partition("{image}")
        # The line that holds the picture loses its break: models put their own marks around a picture.
        self.before, self.after = before, after.removeprefix("\n") if not before.strip() else after

    @property
    def fields_behind_image(self) -> tuple[str, ...]:
        """Fields that differ by sample and stand behind the picture."""
        return tuple(name for _, name, _, _ in string.Formatter().parse(self.after) if name)

    def render(self, sample: VQASample) -> tuple[str, str]:
        """The text before and behind the picture."""
        if len(sample.choices) > len(LETTERS):
            raise FoveateError(
                f"sample {sample.id}: {len(sample.choices)} choices; at most {len(LETTERS)} have a letter"
            )
        values = {
            "hint": sample.hint,
            "question": sample.question,
            "choices": "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, sample.choices, strict=False)),
            "instruction": INSTRUCT_CHOICE if sample.choices else INSTRUCT_OPEN,
        }
        return _fill(self.before, values), _fill(self.after, values)


def _fill(part: str, values: dict[str, str]) -> str:
    lines = []
    for line in part.split("\n"):
        names = [name for _, name, _, _ in string.Formatter().parse(line) if name is not None]
        if not names or any(values[name] for name in names):
            lines.append(line.format(**values))
    return "\n".join(lines)


class PromptMaker:
    """Tokenises questions for one model.

    Args:
        marks: `(token before, token behind)` that go with a picture and vanish without one; None: none.
        image_first: the model takes the picture before all text, whatever the template says (PaliGemma).
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Template,
        image_token: str,
        *,
        marks: tuple[str, str] | None = None,
        image_first: bool = False,
    ) -> None:
        self.tokenizer, self.template, self.image_token = tokenizer, template, image_token
        self.image_first = image_first
        self.image_id = tokenizer.convert_tokens_to_ids(image_token)
        self.marks = marks
        self.mark_ids = tuple(tokenizer.convert_tokens_to_ids(list(marks))) if marks else None
        self.chat = bool(getattr(tokenizer, "chat_template", None))
        self._tokens = functools.lru_cache(maxsize=1 << 14)(self._tokenise)
        self._answers = functools.lru_cache(maxsize=1 << 14)(self._answer)

    def prompt(self, sample: VQASample) -> Prompt:
        ids = self._tokens(*self._text(sample))
        if ids.count(self.image_id) != 1:
            raise FoveateError(
                f"sample {sample.id}: expected the picture's token {self.image_token!r} once in the prompt, found "
                f"{ids.count(self.image_id)}; the chat template or the question's text does not go with this model"
            )
        at = ids.index(self.image_id)
        prefix, suffix = ids[:at], ids[at + 1 :]
        if self.mark_ids and prefix[-1:] == self.mark_ids[:1] and suffix[:1] == self.mark_ids[1:]:
            prefix, suffix = prefix[:-1], suffix[1:]
        return Prompt(prefix, suffix)

    def _tokenise(self, text: str, special: bool) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    @functools.cached_property
    def image_is_moved(self) -> bool:
        """Whether the chat template puts the picture before text that the prompt template has before it."""
        short, long = VQASample("", "", "?", (), None), VQASample("", "", "? ?", (), None, ("a", "b"), "?")
        return not self.template.fields_behind_image and self.prompt(short).suffix != self.prompt(long).suffix

    def answer(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer as they follow a prompt: a word of its own behind a word, directly behind a break.

        Raises:
            FoveateError: the answer has no token.
        """
        return self._answers(text)

    @functools.cached_property
    def _ending(self) -> tuple[str, bool, tuple[int, ...], str]:
        """A prompt, whether special tokens go around it, its tokens, and what stands between it and an answer."""
        prompt, special = self._text(VQASample("", "", "?", (), None))
        ids = self._tokens(prompt, special)
        special_end = ids[-1] in self.tokenizer.all_special_ids or not (self.chat or self.template.after)
        return prompt, special, ids, "" if special_end or prompt[-1].isspace() else " "

    def _answer(self, text: str) -> tuple[int, ...]:
        prompt, special, before, lead = self._ending
        # Tokenised where it stands: alone, some tokenizers put a space of their own before it.
        whole = self._tokenise(prompt + lead + text, special)
        ids = whole[len(before) :] if whole[: len(before)] == before else self._tokenise(lead + text, False)
        if not ids:
            raise FoveateError(f"the answer {text!r} has no token in this model's vocabulary")
        return ids

    def _text(self, sample: VQASample) -> tuple[str, bool]:
        """The whole prompt with one image token, and whether the tokenizer should add its special tokens."""
        before, after = self.template.render(sample)
        token, tokenizer = self.image_token, self.tokenizer
        if self.image_first:
            return f"{token}{tokenizer.bos_token}{before}{after}\n", False
        if self.chat:
            parts = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
            content = [part for part in parts if part.get("text") != ""]
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return text, not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
        picture = f"{self.marks[0]}{token}{self.marks[1]}" if self.marks else token
        return f"{before}{picture}{after}", True
