from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from foveate.errors import FoveateError
from foveate.models.vlm.load import assemble
from foveate.models.vlm.prompt import DEFAULT_TEMPLATE, Template, gold
from foveate.models.vlm.testing import QUESTION_FIRST, samples, tiny_parts, tiny_vlm
from foveate.types import VQASample

CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_lines_without_content_vanish():
    sample = VQASample("1", "d", "which?", ("A",), None, choices=("red", "green"))
    before, after = Template(QUESTION_FIRST).render(sample)
    assert (before, after) == ("which?\nA. red\nB. green\n", "\nAnswer:")
    open_ = VQASample("2", "d", "which?", ("red",), None, hint="it is red.")
    assert Template(QUESTION_FIRST).render(open_)[0] == "it is red.\nwhich?\n"
    before, after = Template(DEFAULT_TEMPLATE).render(open_)
    assert before == "" and after == "it is red.\nwhich?\nAnswer the question using a single word or phrase."
    assert Template("{question}").fields_behind_image == ("question",)


def test_a_wrong_template_is_named():
    with pytest.raises(FoveateError, match=r"unknown field \{options\}"):
        Template("{question} {options}")
    with pytest.raises(FoveateError, match=r"\{question\} is missing"):
        Template("{image} Describe.")
    with pytest.raises(FoveateError, match="stands there twice"):
        Template("{image}{question}{image}")
    with pytest.raises(FoveateError, match="literal brace"):
        Template("{question")


def test_gold_is_the_most_frequent_answer():
    assert gold(VQASample("1", "d", "?", ("a", "b", "b"), None)) == "b"
    assert gold(VQASample("1", "d", "?", (), None)) is None


def test_a_chat_template_is_used_and_the_marks_vanish_without_a_picture():
    model, processor, tokenizer = tiny_parts("qwen3_vl")
    tokenizer.chat_template = CHAT
    vlm = assemble(model.eval(), processor, tokenizer, tiny_vlm().budget, "{image}{question}")
    prompt = vlm.prompts.prompt(samples(1)[0])
    assert tokenizer.decode(prompt.prefix) == "<s>user: "
    assert tokenizer.decode(prompt.suffix) == "what color is the shape?</s>assistant:"
    assert tokenizer.decode(vlm.prompts.answer("red")) == "red"


@pytest.mark.parametrize("kind", ["llava", "paligemma"])
def test_inputs_equal_those_of_the_packaged_processor(kind):
    from transformers import LlavaProcessor, PaliGemmaProcessor

    vlm = tiny_vlm(kind, template="{image}{question}")
    sample = samples(1)[0]
    picture = Image.open(io.BytesIO(sample.image)).convert("RGB")
    processor, tokenizer = vlm.family.processor, vlm.prompts.tokenizer
    if kind == "llava":
        packaged = LlavaProcessor(
            processor, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
        theirs = packaged(images=picture, text=f"<image>{sample.question}", return_tensors="pt")
    else:
        packaged = PaliGemmaProcessor(processor, tokenizer)
        theirs = packaged(images=picture, text=f"<image>{sample.question}", return_tensors="pt")
    image, prompt = vlm.image(sample, "FULL"), vlm.prompts.prompt(sample)
    assert theirs["input_ids"][0].tolist() == [*prompt.prefix, *image.ids, *prompt.suffix]
    assert torch.equal(theirs["pixel_values"], image.pixels["pixel_values"])


def test_qwen_positions_equal_the_models_own():
    for kind in ("qwen3_vl", "qwen2_5_vl"):
        vlm = tiny_vlm(kind)
        for sample in samples(3):
            image, prompt = vlm.image(sample, "FULL"), vlm.prompts.prompt(sample)
            ids = torch.tensor([[*prompt.prefix, *image.ids, *prompt.suffix]])
            kinds = (ids == vlm.family.config.image_token_id).int()
            theirs, _ = vlm.model.model.get_rope_index(ids, kinds, image_grid_thw=image.pixels["image_grid_thw"])
            assert torch.equal(vlm.backbone.rows([prompt], [image], None)[0].positions, theirs[:, 0])
