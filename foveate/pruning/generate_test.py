"""Pruning in generate(): against full-length prompts in which what is dropped is masked, by the models' own code."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.errors import FoveateError
from foveate.pruning import DART, Downsample, FastV, UniformStride, VisionZip
from foveate.pruning.generate import _cut
from foveate.testing.vlm import samples, tiny_vlm

KINDS = ("qwen3_vl", "qwen2_5_vl", "llava")
"""One of each kind of position ids and of deeper features; every other family is compared once."""


def read(kind: str, counts: tuple[int, ...] = (1, 1)) -> tuple[Any, dict[str, Tensor], Tensor]:
    """A tiny random model, a left-padded batch with so many pictures per row, and where the picture tokens are."""
    vlm = tiny_vlm(kind)
    model, config = vlm.backbone.model, vlm.backbone.family.config
    some = [s for i, s in enumerate(samples(9)) if i % 3 != 2]
    rows, pixels, taken = [], [], 0
    for count, sample in zip(counts, some, strict=False):
        prompt, ids = vlm.prompts.prompt(sample), []
        for _ in range(count):
            image = vlm.image(some[taken % len(some)], "FULL")
            taken += 1
            ids += image.ids
            pixels.append(image.pixels)
        rows.append([*prompt.prefix, *ids, *prompt.suffix])
    width = max(map(len, rows))
    input_ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    picture = input_ids == config.image_token_id
    inputs = {"input_ids": input_ids, "attention_mask": mask}
    inputs |= {name: torch.cat([p[name] for p in pixels]) for name in pixels[0]}
    if kind.startswith("qwen"):
        inputs["mm_token_type_ids"] = picture.int()
    if kind.startswith("paligemma"):
        inputs["token_type_ids"] = torch.zeros_like(input_ids)  # the prompt attends to itself both ways
    return model, inputs, picture


def every_other(picture: Tensor, side: int = 4) -> Tensor:
    """What UniformStride(keep_ratio=0.5) leaves of each picture or tile, found by asking it for one."""
    from foveate.pruning.uniform_stride import lattice

    keep = ~picture
    for row in range(len(picture)):
        places = picture[row].nonzero().squeeze(-1)
        for start in range(0, len(places), side**2):
            keep[row, places[start + torch.tensor(lattice((side, side), side**2 // 2))]] = True
    return keep


def masked(model: Any, inputs: dict[str, Tensor], keep: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Greedy answers and logits of full-length prompts in which what is dropped is hidden from every query."""
    inputs = dict(inputs)
    real = inputs["attention_mask"]
    if "mm_token_type_ids" in inputs:
        grids = {name: inputs[name] for name in ("image_grid_thw", "video_grid_thw") if name in inputs}
        positions, _ = model.model.get_rope_index(
            inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], attention_mask=real, **grids
        )
    else:
        positions = (real.cumsum(-1) - 1).clamp_min(0)
    if "token_type_ids" in inputs:
        positions = positions + 1  # PaliGemma counts from 1
    answers, logits = [], []
    for _ in range(steps):
        given = {**inputs, "attention_mask": inputs["attention_mask"] * keep, "position_ids": positions}
        with torch.no_grad():
            logits.append(model(**given, use_cache=False).logits[:, -1])
        answers.append(logits[-1].argmax(-1))
        inputs["input_ids"] = torch.cat((inputs["input_ids"], answers[-1][:, None]), 1)
        one = real.new_ones(len(real), 1)
        inputs["attention_mask"] = torch.cat((inputs["attention_mask"], one), 1)
        keep = torch.cat((keep, one.bool()), 1)
        for name, value in (("mm_token_type_ids", 0), ("token_type_ids", 1)):
            if name in inputs:
                inputs[name] = torch.cat((inputs[name], torch.full_like(inputs[name][:, :1], value)), 1)
        # M-RoPE's three axes go on alike, one behind the largest of them.
        ahead = positions[..., -1:] if positions.ndim == 2 else positions.amax((0, 2), keepdim=True).expand(3, -1, 1)
        positions = torch.cat((positions, ahead + 1), -1)
    return torch.stack(answers, 1), logits


def answered(model: Any, inputs: dict[str, Tensor], steps: int = 4, **options: Any) -> Any:
    return model.generate(
        **inputs, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, output_logits=True,
        return_dict_in_generate=True, pad_token_id=0, eos_token_id=None, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        *itertools.product(KINDS, [(1,), (1, 1), (2, 1)]),
        *itertools.product(("qwen2_vl", "smolvlm", "idefics3"), [(2, 1)]),
        *itertools.product(("paligemma", "paligemma2"), [(1, 1)]),
    ],
)
def test_answers_are_those_of_the_masked_full_length_prompt(kind: str, counts: tuple[int, ...]) -> None:
    """Rows of unequal length and with several pictures; the cache is really shorter."""
    model, inputs, picture = read(kind, counts)
    keep = every_other(picture, 2 if kind in ("smolvlm", "idefics3") else 4)
    expected, logits = masked(model, inputs, keep, 4)
    with foveate.prune(model, UniformStride(keep_ratio=0.5)) as told:
        given = answered(model, inputs)
    before = picture.sum(1).tolist()
    assert told.before == before and told.after == [count // 2 for count in before] and before[0] >= 16 * counts[0]
    assert torch.equal(given.sequences[:, picture.shape[1] :], expected)
    for ours, theirs in zip(given.logits, logits, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-3, atol=1e-3)
    longest = int((keep & inputs["attention_mask"].bool()).sum(1).max())
    assert given.past_key_values.get_seq_length() == longest + 3, "what was answered last is not read any more"
    full = answered(model, inputs)
    assert (full.logits[0] - given.logits[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["qwen3_vl", "paligemma"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_any_kernel_gives_the_same(kind: str, attention: str) -> None:
    model, inputs, picture = read(kind, (2, 1) if kind == "qwen3_vl" else (1, 1))
    expected, _ = masked(model, inputs, every_other(picture), 3)
    model.set_attn_implementation(attention)
    with foveate.prune(model, {"name": "stride", "keep_ratio": 0.5}):
        assert torch.equal(answered(model, inputs, 3).sequences[:, picture.shape[1] :], expected)


def test_masks_of_every_kind_are_cut_alike() -> None:
    """Of tokens 0, 2 and 3; the second row keeps two, behind padding. A mask that was left out is a causal one."""
    order, columns = torch.tensor([[0, 2, 3], [1, 2, 3]]), torch.tensor([[True] * 3, [False, True, True]])
    whole = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
    expected = torch.tensor([[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[0, 0, 0], [0, 1, 0], [0, 1, 1]]]).bool()[:, None]
    cut = _cut({"full": None, "sliding": whole}, order, columns)
    assert torch.equal(cut["full"], expected) and torch.equal(cut["sliding"], expected)
    least = torch.finfo(torch.float32).min
    added = _cut(torch.zeros(2, 1, 4, 4).masked_fill(~whole, least), order, columns)
    assert torch.equal(added == 0, expected) and torch.equal(_cut(None, order, columns), columns.long())


def test_frames_of_a_video_are_pruned_one_by_one() -> None:
    model, inputs, picture = read("qwen3_vl", (2,))
    token = model.config.video_token_id
    video = {name: value for name, value in inputs.items() if name not in ("pixel_values", "image_grid_thw")}
    video["input_ids"] = inputs["input_ids"].masked_fill(picture, token)
    video["pixel_values_videos"] = inputs["pixel_values"]
    grid = inputs["image_grid_thw"][:1].clone()
    grid[0, 0] = 2
    video["video_grid_thw"], video["mm_token_type_ids"] = grid, 2 * picture.int()
    expected, _ = masked(model, video, every_other(picture), 3)
    with foveate.prune(model, UniformStride(keep_ratio=0.5)) as told:
        given = answered(model, video, 3)
    assert (told.before, told.after) == ([32], [16])
    assert torch.equal(given.sequences[:, picture.shape[1] :], expected)


@pytest.mark.parametrize(
    "method", [DART(keep_ratio=0.25), "divprune", "cdpruner", "lightvla", Downsample(keep_ratio=0.25)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_of_patches_and_words_leaves_its_budget(kind: str, method: Any) -> None:
    model, inputs, _ = read(kind, (1, 1))
    config = {"name": method, "keep_ratio": 0.25} if isinstance(method, str) else method
    with foveate.prune(model, config) as told:
        given = answered(model, inputs, 2, num_beams=2)
    assert told.before == [16] * 4 and told.after == [4] * 4, "two beams of two rows"
    assert all(torch.isfinite(step).all() for step in given.logits)


def test_the_model_is_as_it_was_afterwards() -> None:
    model, inputs, _ = read("qwen3_vl")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = answered(model, inputs).logits
    with foveate.prune(model, DART(keep_ratio=0.25)):
        answered(model, inputs)
    with pytest.raises(ZeroDivisionError), foveate.prune(model, DART(keep_ratio=0.25)):
        answered(model, inputs, 1 // 0)
    for module in model.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(map(torch.equal, before, answered(model, inputs).logits))


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl"])
def test_a_second_turn_goes_on_behind_a_pruned_prompt(kind: str) -> None:
    """By its words alone, as if the whole conversation were read masked; by the whole of it with a cache it is refused,
    since generate() would cut it where an unpruned cache ends."""
    model, inputs, picture = read(kind, (2, 1))
    words = torch.tensor([[201, 202, 203], [204, 205, 206]])
    with foveate.prune(model, UniformStride(keep_ratio=0.5)):
        first = answered(model, inputs)
        whole = torch.cat((first.sequences, words), 1)
        more = whole.shape[1] - picture.shape[1]
        real = torch.cat((inputs["attention_mask"], torch.ones(2, more, dtype=torch.long)), 1)
        turn = {"attention_mask": real, "past_key_values": first.past_key_values}
        with pytest.raises(FoveateError, match="a new turn's words alone"):
            answered(model, {"input_ids": whole, **turn}, 3)
        first = answered(model, inputs)
        new = whole[:, first.sequences.shape[1] - 1 :]  # what was answered last is in no cache
        given = answered(model, {**turn, "input_ids": new, "past_key_values": first.past_key_values}, 3)
    keep = torch.cat((every_other(picture), torch.ones(2, more, dtype=torch.bool)), 1)
    inputs |= {"input_ids": whole, "attention_mask": real}
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, more))
    expected, _ = masked(model, inputs, keep, 3)
    assert torch.equal(given.sequences[:, new.shape[1] :], expected)


def test_assisted_decoding_answers_alike() -> None:
    """Guesses from the prompt, of which wrong ones are cut from the cache again."""
    model, inputs, _ = read("llava", (1,))
    with foveate.prune(model, UniformStride(keep_ratio=0.5)):
        guessed = answered(model, inputs, 24, prompt_lookup_num_tokens=3).sequences
        assert torch.equal(guessed, answered(model, inputs, 24).sequences)


def test_one_context_at_a_time() -> None:
    """A second one would prune what the first has left, or nothing: it is refused, and the first goes on."""
    model, inputs, _ = read("qwen3_vl")
    with foveate.prune(model, UniformStride(keep_ratio=0.5)) as told:
        with pytest.raises(FoveateError, match="is being pruned already"), foveate.prune(model, DART(keep_ratio=0.5)):
            pass
        answered(model, inputs, 2)
    assert told.after == [8, 8]
    with foveate.prune(model, DART(keep_ratio=0.25)) as told:
        answered(model, inputs, 2)
    assert told.after == [4, 4]


def test_threads_share_a_context() -> None:
    """Prompts of other lengths side by side, each held up between the model and its decoder until both are there."""
    model, batch, _ = read("qwen3_vl", (2, 1))
    single = read("qwen3_vl", (1,))[1]
    with foveate.prune(model, UniformStride(keep_ratio=0.5)):
        alone = [answered(model, inputs, 3).sequences for inputs in (batch, single)]
    both = threading.Barrier(2, timeout=60)

    def meet(*_: Any) -> None:
        both.wait()

    words = model.get_input_embeddings().register_forward_pre_hook(meet)
    try:
        with foveate.prune(model, UniformStride(keep_ratio=0.5)) as told, ThreadPoolExecutor(2) as pool:
            beside = [*pool.map(lambda inputs: answered(model, inputs, 3).sequences, (batch, single))]
    finally:
        words.remove()
    assert all(map(torch.equal, beside, alone))
    assert (told.prompts, told.read, told.kept) == (3, 64, 32)


def test_prompts_without_a_picture_pass() -> None:
    model, inputs, _ = read("qwen3_vl")
    words = {"input_ids": torch.arange(200, 207)[None], "attention_mask": torch.ones(1, 7, dtype=torch.long)}
    expected = answered(model, words).sequences
    with foveate.prune(model, DART(keep_ratio=0.25)):
        answered(model, inputs)
        assert torch.equal(answered(model, words).sequences, expected)


@pytest.mark.parametrize("method", [FastV(keep_ratio=0.5), VisionZip(keep_ratio=0.5), DART(keep_ratio=0.5, layer=1)])
def test_methods_inside_of_a_policy_are_refused(method: Any) -> None:
    model, _, _ = read("qwen3_vl")
    with pytest.raises(FoveateError, match=r"works inside of a policy; .*divprune"), foveate.prune(model, method):
        pass


def test_what_is_no_image_text_model_or_has_a_static_cache_is_refused() -> None:
    model, inputs, _ = read("qwen3_vl")
    with pytest.raises(FoveateError, match="static cache"), foveate.prune(model, DART(keep_ratio=0.5)):
        answered(model, inputs, cache_implementation="static")
    with pytest.raises(FoveateError, match="no image token"), foveate.prune(model.get_decoder(), DART(keep_ratio=0.5)):
        pass
