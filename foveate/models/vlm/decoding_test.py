from __future__ import annotations

import pytest
import torch

from foveate.errors import FoveateError
from foveate.models.vlm.decoding import Decoding, uncertainty
from foveate.models.vlm.model import VLM
from foveate.testing.vlm import KINDS, samples, tiny_vlm


def packaged_answer(vlm, sample, level, **options):
    """Token ids of the answer of transformers' own `generate`, one sample, no padding."""
    prompt, pixels, family = vlm.prompts.prompt(sample), {}, vlm.family
    ids = torch.tensor([prompt.text])
    if level != "NO":
        image = vlm.image(sample, level)
        ids, pixels = torch.tensor([[*prompt.prefix, *image.ids, *prompt.suffix]]), dict(image.pixels)
    if family.config.model_type.startswith("qwen"):
        pixels["mm_token_type_ids"] = (ids == family.config.image_token_id).int()
        vlm.model.model.rope_deltas = None
    if family.config.model_type == "paligemma":
        pixels["token_type_ids"] = torch.zeros_like(ids)
    made = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **pixels,
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return made[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_and_beam_search_as_transformers_do_it(kind):
    vlm, some = tiny_vlm(kind), samples(4)
    # A model without training rarely ends: a token that it likes becomes a stop token.
    liked = packaged_answer(vlm, some[0], "FULL")[2]
    for stops in ([2], [2, liked]):
        vlm.model.generation_config.eos_token_id = stops
        vlm = VLM(vlm.model, vlm.family, vlm.prompts, vlm.budget, batch_size=4)
        for level in ("NO", "COARSE", "FULL"):
            for beams in (1, 3):
                ours = vlm.answer(some, level, decoding=Decoding(max_new_tokens=6, num_beams=beams))
                theirs = [packaged_answer(vlm, sample, level, num_beams=beams) for sample in some]
                said = [[token for token in ids if token not in (0, *stops)] for ids in theirs]
                texts = [text.strip() for text in vlm.prompts.tokenizer.batch_decode(said, skip_special_tokens=True)]
                assert [a.text for a in ours] == texts, (level, beams, stops)


def test_beam_search_with_many_stop_tokens():
    vlm, some, stops = tiny_vlm("qwen2_vl"), samples(6), [2, 5, 7, 9]
    vlm.model.generation_config.eos_token_id = stops
    vlm = VLM(vlm.model, vlm.family, vlm.prompts, vlm.budget, batch_size=6)
    ours = [a.text for a in vlm.answer(some, "NO", decoding=Decoding(max_new_tokens=6, num_beams=3))]
    theirs = [packaged_answer(vlm, sample, "NO", num_beams=3) for sample in some]
    said = [[token for token in ids if token not in (0, *stops)] for ids in theirs]
    assert ours == [text.strip() for text in vlm.prompts.tokenizer.batch_decode(said, skip_special_tokens=True)]


def test_draws_belong_to_the_sample_not_to_the_batch():
    vlm, some = tiny_vlm(), samples(5)
    drawn = Decoding(max_new_tokens=6, do_sample=True, temperature=1.5, seed=3)
    together = [a.text for a in vlm.answer(some, "FULL", decoding=drawn)]
    alone = [vlm.answer([s], "FULL", decoding=drawn)[0].text for s in some]
    assert together == alone
    other = Decoding(max_new_tokens=6, do_sample=True, temperature=1.5, seed=4)
    assert together != [a.text for a in vlm.answer(some, "FULL", decoding=other)]


def test_uncertainty_by_hand():
    entropy, margin = uncertainty(torch.tensor([[0.0, 0.0, -1e9], [2.0, 0.0, -1e9]]))
    assert entropy.tolist() == pytest.approx([0.6931472, 0.3653339], abs=1e-6)
    assert margin.tolist() == pytest.approx([0.0, 0.7615942], abs=1e-6)


def test_contradictions():
    with pytest.raises(FoveateError, match="exclude each other"):
        Decoding(do_sample=True, num_beams=2)
    with pytest.raises(FoveateError, match="temperature above 0"):
        Decoding(do_sample=True, temperature=0.0)
    with pytest.raises(FoveateError, match="start at 1"):
        Decoding(max_new_tokens=0)
