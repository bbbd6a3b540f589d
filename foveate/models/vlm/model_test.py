from __future__ import annotations

import dataclasses
import io
import json

import pytest
import torch
from PIL import Image

from foveate.data.vqa.mmmu import on_one_sheet
from foveate.errors import FoveateError
from foveate.models.vlm.decoding import Decoding
from foveate.models.vlm.load import load_vlm, save_vlm
from foveate.models.vlm.model import VLM
from foveate.models.vlm.prompt import Prompt
from foveate.pruning import make_pruner
from foveate.pruning.random import Random
from foveate.pruning.topk_norm import TopKNorm
from foveate.pruning.uniform_stride import UniformStride
from foveate.testing.vlm import KINDS, QUESTION_FIRST, samples, tiny_vlm
from foveate.util.pictures import ImageError


def packaged_logits(vlm, sample, level):
    """Next-token logits of the model's own forward, one sample, no padding, positions of its own making."""
    image = vlm.image(sample, level)
    prompt = vlm.prompts.prompt(sample)
    ids = torch.tensor([[*prompt.prefix, *image.ids, *prompt.suffix]])
    extra = {}
    kind = vlm.family.config.model_type
    image_id = vlm.family.config.image_token_id
    if kind.startswith("qwen"):
        extra["mm_token_type_ids"] = (ids == image_id).int()
        vlm.model.model.rope_deltas = None
    if kind == "paligemma":
        extra["token_type_ids"] = torch.zeros_like(ids)
    with torch.no_grad():
        return vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), **image.pixels, **extra).logits[0, -1]


def our_logits(vlm, some, level):
    out = {}
    with torch.inference_mode():
        for batch in vlm.batches(some, level):
            session, _ = vlm._read(some, batch, None, None)
            out |= {some[i].id: row for i, row in zip(batch.index, session.logits()[:, 0], strict=True)}
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_equals_the_models_own_forward(kind):
    vlm, some = tiny_vlm(kind), samples(5)
    for level in ("COARSE", "FULL"):
        ours = our_logits(vlm, some, level)
        for sample in some:
            torch.testing.assert_close(ours[sample.id], packaged_logits(vlm, sample, level), atol=2e-4, rtol=1e-3)
    # The comparison means something: with wrong positions the same batch differs.
    right = vlm.family.positions
    vlm.family.positions = lambda *args: right(*args).clamp_max(3)
    wrong = our_logits(vlm, some, "FULL")
    assert min(float((wrong[s.id] - ours[s.id]).abs().max()) for s in some) > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_depend_on_batches_and_levels_pay_what_they_show(kind):
    vlm, some = tiny_vlm(kind), samples(5, choices=True)
    one = tiny_vlm(kind, batch_size=1)
    for level in ("NO", "COARSE", "FULL"):
        together, alone = vlm.answer(some, level), one.answer(some, level)
        for a, b in zip(together, alone, strict=True):
            assert (a.text, a.vision_tokens) == (b.text, b.vision_tokens)
            assert a.loss_nats == pytest.approx(b.loss_nats, abs=1e-4)
            assert a.entropy == pytest.approx(b.entropy, abs=1e-4)
        assert all((a.vision_tokens == 0) == (level == "NO") for a in together)
        assert all(a.text in "ABC" and a.choice_logprobs is not None for a in together[::2])
    assert vlm.answer(some[:1], "FULL")[0].vision_tokens >= vlm.answer(some[:1], "COARSE")[0].vision_tokens


@pytest.mark.parametrize("kind", KINDS)
def test_sheets_of_several_pictures_at_every_level(kind):
    """MMMU: one to five pictures on a sheet, and the marks of pictures in the question's text."""
    vlm, one, base = tiny_vlm(kind), tiny_vlm(kind, batch_size=1), samples(5, choices=True)
    some = [
        dataclasses.replace(s, image=on_one_sheet([b.image for b in base[: n + 1]]), question="<image 1>, <image 2>?")
        for n, s in enumerate(base)
    ]
    text = vlm.text_pass(some)
    for level in ("NO", "COARSE", "FULL"):
        together, alone, reused = vlm.answer(some, level), one.answer(some, level), vlm.answer(some, level, reuse=text)
        assert [a.vision_tokens for a in together] == [a.vision_tokens for a in alone]
        for other in (alone, reused):
            assert [a.loss_nats for a in together] == pytest.approx([a.loss_nats for a in other], abs=1e-4)


def test_qwen_pays_the_resolution():
    vlm = tiny_vlm("qwen3_vl")
    counts = [[a.vision_tokens for a in vlm.answer(samples(3), level)] for level in ("COARSE", "FULL")]
    assert counts == [[4, 4, 2], [16, 16, 8]]  # 16 px per token; the third picture is half as high


def test_a_budget_below_the_processors_least_size_holds():
    """Qwen3-VL's packaged processor enlarges whatever is below 256 px square, and 16 tokens would be paid as 64."""
    vlm = tiny_vlm("qwen3_vl")
    vlm.family.processor.size = {"shortest_edge": 64 * 64, "longest_edge": 1 << 20}
    assert [a.vision_tokens for a in vlm.answer(samples(3), "COARSE")] == [4, 4, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_cap_holds_and_a_wide_one_changes_nothing(kind):
    """Tokens are capped, not pixels; models of one fixed resolution have one number whatever the cap."""
    vlm, some = tiny_vlm(kind), samples(3)
    free = [a.vision_tokens for a in vlm.answer(some, "FULL")]
    for cap in (1024, 12, 5):
        budget = dataclasses.replace(vlm.budget, token_cap=cap)
        capped = VLM(vlm.model, vlm.family, vlm.prompts, budget).answer(some, "FULL")
        counts = [a.vision_tokens for a in capped]
        if cap == 1024 or kind in ("llava", "paligemma", "paligemma2"):
            assert counts == free
        else:
            assert all(0 < count <= cap for count in counts)


@pytest.mark.parametrize("kind", KINDS)
def test_choices_are_scored_by_their_letters(kind):
    """Against the model's own forward over prompt and letter, one sequence for each option."""
    vlm, some = tiny_vlm(kind), samples(5, choices=True)
    reference = tiny_vlm(kind)
    for sample, answer in zip(some, vlm.answer(some, "FULL"), strict=True):
        scores = []
        for letter in "ABC"[: len(sample.choices)]:
            ids, total = vlm.prompts.answer(letter), 0.0
            for n, token in enumerate(ids):
                prompt = vlm.prompts.prompt(sample)
                longer = Prompt(prompt.prefix, prompt.suffix + ids[:n])
                reference.prompts.prompt = lambda _, longer=longer: longer
                total += float(packaged_logits(reference, sample, "FULL").double().log_softmax(-1)[token])
            scores.append(total)
        if scores:
            assert list(answer.choice_logprobs) == pytest.approx(
                torch.tensor(scores).log_softmax(-1).tolist(), abs=1e-3
            )
            assert answer.text == "ABC"[scores.index(max(scores))]


@pytest.mark.parametrize("kind", KINDS)
def test_reuse_of_the_text_pass_changes_no_answer(kind):
    vlm, some = tiny_vlm(kind), samples(7, choices=True)
    text = vlm.text_pass(some)
    assert bool(vlm.reuse_obstacle) == kind.startswith("paligemma")
    decoding = Decoding(max_new_tokens=5)
    # Positions of an earlier batch with pictures must not leak into the next one.
    for level in ("FULL", "NO", "COARSE", "FULL"):
        plain = vlm.answer(some, level, decoding=decoding)
        reused = vlm.answer(some, level, decoding=decoding, reuse=text)
        assert [a.text for a in plain] == [a.text for a in reused]
        for a, b in zip(plain, reused, strict=True):
            assert a.loss_nats == pytest.approx(b.loss_nats, abs=1e-4)
            assert a.margin == pytest.approx(b.margin, abs=1e-5)


def test_reuse_reads_fewer_tokens_and_says_where_it_cannot():
    vlm, some = tiny_vlm("qwen3_vl"), samples(4)
    seen = []
    decode = vlm.backbone.decode

    def watched(embeds, *rest, **extra):
        seen.append(embeds.shape[1])
        return decode(embeds, *rest, **extra)

    vlm.backbone.decode = watched
    text = vlm.text_pass(some)
    one = Decoding(max_new_tokens=1)
    open_ = [dataclasses.replace(s, answers=()) for s in some]
    seen.clear()
    vlm.answer(open_, "FULL", decoding=one, reuse=text)
    tail = len(vlm.prompts.prompt(some[0]).suffix)
    assert max(seen) == 16 + 2 + tail
    seen.clear()
    vlm.answer(open_, "NO", decoding=one, reuse=text)
    assert seen == []  # the text pass was the answer's own prompt
    other = tiny_vlm("qwen3_vl", template="{image}\n{question}")
    assert "{question} stands behind {image}" in other.reuse_obstacle
    with pytest.raises(FoveateError, match="did not read this question"):
        vlm.answer([dataclasses.replace(some[0], question="another?")], "NO", reuse=text)


@pytest.mark.parametrize("kind", KINDS)
def test_text_pass_is_the_mean_of_the_hidden_states_without_the_picture(kind):
    """Against the model's own forward, one sample and no padding, summed up in float64."""
    vlm, some = tiny_vlm(kind), samples(3)
    text = vlm.text_pass(some)
    for i, sample in enumerate(some):
        ids = torch.tensor([vlm.prompts.prompt(sample).text])
        assert vlm.family.config.image_token_id not in ids
        extra = {"token_type_ids": torch.zeros_like(ids)} if kind.startswith("paligemma") else {}
        with torch.no_grad():
            out = vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **extra)
        odds = out.logits[0, -1].double().softmax(-1)
        mean = out.hidden_states[-1][0].double().mean(0).float()
        torch.testing.assert_close(text.hidden[i], mean, atol=1e-5, rtol=1e-4)
        assert float(text.entropy[i]) == pytest.approx(float(-(odds * odds.log()).sum()), abs=1e-4)
        top = odds.sort(descending=True).values
        assert float(text.margin[i]) == pytest.approx(float(top[0] - top[1]), abs=1e-5)
    broken = [dataclasses.replace(s, image=None) for s in some]
    torch.testing.assert_close(vlm.text_pass(broken).hidden, text.hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_cross_entropy_and_reaches_the_weights(kind):
    vlm, some = tiny_vlm(kind), samples(4, choices=True)
    loss = vlm.loss(some, "FULL")
    for sample, value, answer in zip(some, loss, vlm.answer(some, "FULL"), strict=True):
        assert value.item() == pytest.approx(answer.loss_nats, abs=1e-4)
        single = our_logits(vlm, [sample], "FULL")[sample.id].log_softmax(-1)
        ids = vlm.prompts.answer(sample.answers[0])
        if len(ids) == 1:
            assert value.item() == pytest.approx(-float(single[ids[0]]), abs=1e-4)
    loss.mean().backward()
    vision = next(p for n, p in vlm.model.named_parameters() if "patch_embed" in n and p.ndim > 1)
    assert float(vision.grad.abs().sum()) > 0
    assert vlm.loss(some, "NO").mean().item() != pytest.approx(loss.mean().item(), abs=1e-3)


@pytest.mark.parametrize("pruner", [Random(keep_ratio=0.5), UniformStride(keep_ratio=0.5), TopKNorm(keep_ratio=0.5)])
def test_pruning_keeps_a_share_and_original_positions(pruner):
    vlm, some = tiny_vlm("qwen3_vl"), samples(4)
    method = make_pruner(pruner).eval()
    answers = vlm.answer(some, "FULL", pruner=method)
    assert [a.remaining_vision_tokens for a in answers] == [8, 8, 4, 8]
    assert [a.vision_tokens for a in answers] == [16, 16, 8, 16]
    again = vlm.answer(some[::-1], "FULL", pruner=method, reuse=vlm.text_pass(some))[::-1]
    assert [a.text for a in again] == [a.text for a in answers]
    assert [a.loss_nats for a in again] == pytest.approx([a.loss_nats for a in answers], abs=1e-4)
    keep = torch.zeros(1, 16, dtype=torch.bool)
    keep[0, [0, 5, 15]] = True
    image, prompt = vlm.image(some[0], "FULL"), vlm.prompts.prompt(some[0])
    full, pruned = (vlm.backbone.rows([prompt], [image], k)[0] for k in (None, keep))
    at = (full.slot == 0).nonzero().item()
    assert torch.equal(pruned.positions[:, pruned.slot >= 0], full.positions[:, [at, at + 5, at + 15]])
    assert pruned.next_position == full.next_position
    kept_all = vlm.answer(some, "FULL", pruner=make_pruner(Random(keep_ratio=1.0)).eval())
    assert [a.loss_nats for a in kept_all] == pytest.approx([a.loss_nats for a in vlm.answer(some, "FULL")], abs=1e-5)


def test_an_annotator_who_wrote_nothing_has_no_part_in_the_loss():
    vlm, some = tiny_vlm(), samples(2)
    ten = dataclasses.replace(some[1], answers=("", "", "", *["a longer answer"] * 2))
    answers = vlm.answer([some[1], ten, dataclasses.replace(some[1], id="none", answers=("",))], "FULL")
    assert answers[1].loss_nats == pytest.approx(answers[0].loss_nats, abs=1e-6) and answers[2].loss_nats is None


def test_a_broken_picture_is_marked_and_the_run_goes_on():
    vlm, some = tiny_vlm(), samples(3)
    some[1] = dataclasses.replace(some[1], image=b"no picture")
    answers = vlm.answer(some, "FULL")
    assert "cannot be decoded" in answers[1].error and answers[1].text == ""
    assert not answers[0].error and not answers[2].error
    assert not vlm.answer(some, "NO")[1].error
    with pytest.raises(FoveateError, match="s1"):
        vlm.loss(some, "FULL")


def test_saved_and_loaded_again_it_is_the_same_and_has_the_same_fingerprint(tmp_path):
    vlm = tiny_vlm()
    folder = save_vlm(vlm, tmp_path / "model")
    again = load_vlm(folder)
    assert again.prompts.template.text == QUESTION_FIRST
    assert again.budget == vlm.budget
    assert again.fingerprint == vlm.fingerprint
    assert [a.loss_nats for a in again.answer(samples(2), "FULL")] == pytest.approx(
        [a.loss_nats for a in vlm.answer(samples(2), "FULL")], abs=1e-6
    )
    assert load_vlm(folder, prompt_template="{question}{image}").fingerprint != vlm.fingerprint
    with pytest.raises(FoveateError, match="unknown model"):
        load_vlm("tiny_qwen4vl")


@pytest.mark.parametrize("kind", ["smolvlm", "llava", "paligemma", "qwen2_5_vl"])
def test_a_published_folder_opens_without_torchvision(kind, tmp_path):
    """With the names of published files: the fast image processor's class, the chat template in a file of its own."""
    vlm = tiny_vlm(kind)
    folder, expected = save_vlm(vlm, tmp_path), [a.loss_nats for a in vlm.answer(samples(2), "FULL")]
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"image_processor_type": settings["image_processor_type"] + "Fast"}))
    again = load_vlm(folder)
    assert not again.prompts.chat
    assert [a.loss_nats for a in again.answer(samples(2), "FULL")] == pytest.approx(expected, abs=1e-6)
    template = (
        "USER: {% for c in messages[0]['content'] %}{{ c['text'] or '" + vlm.family.image_token + "' }}{% endfor %}"
    )
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    chat = load_vlm(folder).prompts
    assert chat.chat and (
        kind == "paligemma" or chat.tokenizer.decode(chat.prompt(samples(1)[0]).prefix)[:5] == "USER:"
    )


def test_a_picture_that_the_processor_refuses_is_marked_and_the_others_are_answered(monkeypatch):
    """As Qwen's does where one side is more than 200 times the other; whatever it raises."""
    vlm, some = tiny_vlm(), samples(3)
    expected = vlm.answer([some[0], some[2]], "FULL")
    images = vlm.family.images

    def refuses(pictures):
        if any(picture.getpixel((0, 0)) == (1, 2, 3) for picture in pictures):
            raise ArithmeticError("absolute aspect ratio must be smaller than 200")
        return images(pictures)

    monkeypatch.setattr(vlm.family, "images", refuses)
    buffer = io.BytesIO()
    Image.new("RGB", (3, 900), (1, 2, 3)).save(buffer, "PNG")
    some[1] = dataclasses.replace(some[1], image=buffer.getvalue())
    answers = vlm.answer(some, "FULL")
    assert answers[1].error.startswith("sample s1: the model's processor refuses the image (")
    assert answers[1].error.endswith("pixels): absolute aspect ratio must be smaller than 200")
    assert [answers[0].text, answers[2].text] == [a.text for a in expected]
    with pytest.raises(ImageError, match="sample s1: the model's processor"):
        vlm.image(some[1], "FULL")
