from __future__ import annotations

import pytest
import torch

from foveate.errors import FoveateError
from foveate.models.vlm.decoding import Decoding, uncertainty
from foveate.models.vlm.testing import samples, tiny_vlm


def packaged_answer(vlm, sample, **options):
    image, prompt = vlm.image(sample, "FULL"), vlm.prompts.prompt(sample)
    ids = torch.tensor([[*prompt.prefix, *image.ids, *prompt.suffix]])
    made = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **image.pixels,
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return vlm.prompts.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("beams", [1, 3])
def test_greedy_and_beam_search_as_transformers_do_it(beams):
    for seed in range(3):
        vlm, some = tiny_vlm("llava", seed=seed), samples(4)
        ours = vlm.answer(some, "FULL", decoding=Decoding(max_new_tokens=6, num_beams=beams))
        for sample, answer in zip(some, ours, strict=True):
            assert answer.text == packaged_answer(vlm, sample, num_beams=beams)


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
