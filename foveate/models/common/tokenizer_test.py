import json
import logging
from pathlib import Path

import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.models.common.tokenizer import PromptTokenizer, clean, discretise
from foveate.testing.golden import golden_dir
from foveate.util.shipped import TINY_TOKENIZER


def test_prompt_is_cleaned_as_openpi_cleans_it() -> None:
    assert clean("  pick_up\nthe Cup ") == "pick up the Cup"


def test_state_bins() -> None:
    state = np.array([-1.01, -1.0, -1 + 1 / 128, 0.0, 0.9999, 1.0, 3.0])
    assert discretise(state).tolist() == [-1, 0, 1, 128, 255, 255, 255]


def test_pi05_prompt_tokens() -> None:
    tokens, mask = PromptTokenizer(TINY_TOKENIZER, 24)("push_the puck ", np.array([-1.0, 0.0, 1.0, -2.0]))
    pieces = PromptTokenizer(TINY_TOKENIZER, 24).pieces(tokens[mask])
    assert pieces == ["<s>", "▁Task:", "▁push", "▁the", "▁puck", ",▁State:", "▁0", "▁128", "▁255", "▁-1", ";\nAction:"]
    assert tokens.dtype == np.int64 and tokens.shape == (24,) and (tokens[~mask] == 0).all()


def test_pi0_prompt_ends_in_a_line_break() -> None:
    tokenizer = PromptTokenizer(TINY_TOKENIZER, 24)
    # The lone space is this tokenizer's own: it puts one before any text that it is given.
    pieces = tokenizer.pieces(np.array(tokenizer.ids("push the puck")))
    assert pieces == ["<s>", "▁push", "▁the", "▁puck", "▁", "\n"]


def test_a_long_prompt_is_cut_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = PromptTokenizer(TINY_TOKENIZER, 6)
    with caplog.at_level(logging.WARNING, logger="foveate"):
        for _ in range(2):
            tokens, mask = tokenizer("push the puck to the goal", np.zeros(4))
    assert mask.all() and len(tokens) == 6
    assert len(caplog.records) == 1 and "cut to max_token_len 6" in caplog.text


def test_shipped_tokenizer_has_a_token_for_every_state_bin_and_knows_the_tasks() -> None:
    from foveate.envs.metaworld.env import INSTRUCTIONS

    tokenizer = PromptTokenizer(TINY_TOKENIZER, 24)
    base = len(tokenizer.ids("push", np.zeros(1)))
    for value in np.linspace(-1.001, 1, 257):
        assert len(tokenizer.ids("push", np.array([value]))) == base
    longest = max(len(tokenizer.ids(words, np.zeros(4))) for words in INSTRUCTIONS.values())
    assert longest <= 24 and TINY_TOKENIZER.stat().st_size < 20_000


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="no such file"):
        PromptTokenizer(tmp_path / "none.model", 8)
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(FoveateError, match="not a sentencepiece model"):
        PromptTokenizer(tmp_path / "bad.model", 8)
    with pytest.raises(FoveateError, match="1024 pieces and the model embeds 512"):
        PromptTokenizer(TINY_TOKENIZER, 8, vocab_size=512)


@pytest.mark.parametrize(("version", "state_width"), [("prompts", 0), ("prompts_0.4.4", 32)])
def test_pi05_prompts_of_either_lerobot(version: str, state_width: int) -> None:
    folder = golden_dir("lerobot", "pi05_processor.npz")
    golden = json.loads((folder / "pi05_processor.json").read_text(encoding="utf-8"))
    states = np.load(folder / "pi05_processor.npz")["normalised_state"]
    tokenizer = PromptTokenizer(TINY_TOKENIZER, 200, state_width=state_width)
    prompts = [tokenizer.text(task, state) for task, state in zip(golden["tasks"], states, strict=True)]
    assert prompts == golden[version]


def test_lerobots_pi0_leaves_the_instruction_as_it_is() -> None:
    as_it_is, cleaned = (PromptTokenizer(TINY_TOKENIZER, 48, clean_prompt=clean) for clean in (False, True))
    assert (
        as_it_is.text(" push the_puck ") == " push the_puck \n" and cleaned.text(" push the_puck ") == "push the puck\n"
    )
    assert as_it_is.text("push the_puck\n") == "push the_puck\n"
    assert cleaned.ids("push the_puck") == cleaned.ids("push the puck") == as_it_is.ids("push the puck")
    assert as_it_is.ids("push the_puck") != cleaned.ids("push the_puck")


def test_an_empty_file_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(FoveateError, match="not a sentencepiece model"):
        PromptTokenizer(tmp_path / "tokenizer.model", 8)
