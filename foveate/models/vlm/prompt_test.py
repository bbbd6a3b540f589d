from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from foveate.errors import FoveateError
from foveate.models.vlm.load import assemble
from foveate.models.vlm.prompt import DEFAULT_TEMPLATE, Template, gold
from foveate.testing.vlm import QUESTION_FIRST, samples, tiny_parts, tiny_vlm
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
    assert gold(VQASample("1", "d", "?", ("", "", "nokia"), None)) == "nokia"


def test_a_chat_template_is_used_and_the_marks_vanish_without_a_picture():
    model, processor, tokenizer = tiny_parts("qwen3_vl")
    tokenizer.chat_template = CHAT
    vlm = assemble(model.eval(), processor, tokenizer, tiny_vlm().budget, "{image}{question}")
    prompt = vlm.prompts.prompt(samples(1)[0])
    assert tokenizer.decode(prompt.prefix) == "<s>user: "
    assert tokenizer.decode(prompt.suffix) == "what color is the shape?</s>assistant:"
    assert tokenizer.decode(vlm.prompts.answer("red")) == " red"


@pytest.mark.parametrize(("end", "answer"), [("assistant:", " red"), ("assistant\n", "red"), ("</s>", "red")])
def test_an_answer_follows_what_the_chat_template_ends_with(end, answer):
    """`Assistant:` (SmolVLM, LLaVA) is followed by a word of its own, `assistant\\n` (Qwen) by the bare one."""
    model, processor, tokenizer = tiny_parts("llava")
    tokenizer.chat_template = "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    tokenizer.chat_template += "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{{ " + repr(end) + " }}"
    prompts = assemble(model.eval(), processor, tokenizer, tiny_vlm().budget, "{image}{question}").prompts
    assert tokenizer.decode(prompts.answer("red")) == answer
    # The tokens are those of the whole text, cut behind the prompt.
    prompt = prompts.prompt(samples(1)[0])
    whole = tokenizer("<image>" + samples(1)[0].question + end + answer)["input_ids"]
    assert [*prompt.prefix, prompts.image_id, *prompt.suffix, *prompts.answer("red")] == whole


def test_an_answer_behind_a_break_has_no_space_of_the_tokenizers_own():
    """SentencePiece puts a space before whatever it tokenises, so an answer is tokenised where it stands."""
    from tokenizers import normalizers

    model, processor, tokenizer = tiny_parts("llava")
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend(" ")
    assert tokenizer.decode(tokenizer("red")["input_ids"]) == " red"
    prompts = assemble(model.eval(), processor, tokenizer, tiny_vlm().budget, "{image}{question}\n").prompts
    assert tokenizer.decode(prompts.answer("red")) == "red"
    prompts = assemble(model.eval(), processor, tokenizer, tiny_vlm().budget, "{image}{question}\nAnswer:").prompts
    assert tokenizer.decode(prompts.answer("red")) == " red"


def test_a_chat_template_that_moves_the_picture_forward_rules_reuse_out():
    """LLaVA's puts all pictures first: then what was read of the text is not what stands before the picture."""
    model, processor, tokenizer = tiny_parts("llava")
    tokenizer.chat_template = (
        "{% for m in messages %}USER: {% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endfor %} ASSISTANT:"
    )
    vlm, some = assemble(model.eval(), processor, tokenizer, tiny_vlm().budget, QUESTION_FIRST), samples(4)
    assert vlm.reuse_obstacle == "the model's chat template puts the image before the question"
    plain, reused = vlm.answer(some, "FULL"), vlm.answer(some, "FULL", reuse=vlm.text_pass(some))
    assert [a.loss_nats for a in plain] == pytest.approx([a.loss_nats for a in reused], abs=1e-5)
    assert not tiny_vlm("llava").reuse_obstacle


def test_a_long_picture_reaches_llava_whole():
    """The packaged processor would crop its middle."""
    vlm = tiny_vlm("llava")
    sheet = Image.new("RGB", (64, 16), "white")
    sheet.paste((255, 0, 0), (0, 0, 16, 16))
    sheet.paste((0, 0, 255), (48, 0, 64, 16))
    pixels = vlm.family.images([sheet])[0].pixels["pixel_values"][0]
    middle = pixels[:, pixels.shape[1] // 2]
    red, _, blue = middle
    assert red[2] > red.mean() > red[-3] and blue[-3] > blue.mean() > blue[2]
    assert torch.allclose(pixels[:, 0], torch.zeros(3, 1), atol=0.02)  # the margin is the mean color
    vlm.family.processor.do_center_crop = False  # a processor that squeezes keeps everything itself
    vlm.family.processor.size = {"height": 32, "width": 32}
    squeezed = vlm.family.images([sheet])[0].pixels["pixel_values"][0]
    assert (squeezed[:, 0] - squeezed[:, 16]).abs().max() < 0.05


def test_tiles_equal_those_of_the_packaged_processor():
    from transformers import Idefics3Processor

    vlm = tiny_vlm("idefics3", template="{image}{question}")
    packaged = Idefics3Processor(vlm.family.processor, vlm.prompts.tokenizer, image_seq_len=4)
    for sample in samples(3):
        picture = Image.open(io.BytesIO(sample.image)).convert("RGB")
        for level, side in (("COARSE", 32), ("FULL", 64)):
            small = picture.resize((picture.width * side // 64, picture.height * side // 64), Image.Resampling.BICUBIC)
            theirs = packaged(
                images=[[small]],
                text=[f"<image>{sample.question}"],
                images_kwargs={"size": {"longest_edge": side}},
                return_tensors="pt",
            )
            image, prompt = vlm.image(sample, level), vlm.prompts.prompt(sample)
            assert theirs["input_ids"][0].tolist() == [*prompt.prefix, *image.ids, *prompt.suffix]
            assert torch.equal(theirs["pixel_values"], image.pixels["pixel_values"])


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
    for kind in ("qwen3_vl", "qwen2_5_vl", "qwen2_vl"):
        vlm = tiny_vlm(kind)
        for sample in samples(3):
            image, prompt = vlm.image(sample, "FULL"), vlm.prompts.prompt(sample)
            ids = torch.tensor([[*prompt.prefix, *image.ids, *prompt.suffix]])
            kinds = (ids == vlm.family.config.image_token_id).int()
            theirs, _ = vlm.model.model.get_rope_index(ids, kinds, image_grid_thw=image.pixels["image_grid_thw"])
            assert torch.equal(vlm.backbone.rows([prompt], [image], None)[0].positions, theirs[:, 0])
