"""A detector of the real class, tiny and with random weights: nothing is downloaded."""

import numpy as np
import pytest
import torch

from foveate.data.masks.detector import DetectorMasks
from foveate.errors import FoveateError

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def detect():
    """A zero-shot pipeline around OWL-ViT of 16 channels that knows the words cube and bowl."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessor,
        PreTrainedTokenizerFast,
        pipeline,
    )

    words = {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "cube": 4, "bowl": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("<start>", 1), ("<end>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=marks)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=16
    )
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": 6, "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 2}
    vision = {**size, "image_size": 32, "patch_size": 8}
    config = OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    torch.manual_seed(0)
    model = OwlViTForObjectDetection(config).eval()
    with torch.no_grad():  # without training its boxes have no area
        model.box_head.dense2.weight.zero_()
        model.box_head.dense2.bias[2:] = 1.0
    return pipeline(
        "zero-shot-object-detection",
        model=model,
        tokenizer=fast,
        image_processor=OwlViTImageProcessor(size={"height": 32, "width": 32}),
    )


def test_masks_are_the_boxes_of_the_detector(detect):
    masks = DetectorMasks(detect, ["cube", "bowl"], min_score=0.3).at("hand_camera", 0, IMAGE)
    assert set(masks) <= {"cube", "bowl"} and masks
    from PIL import Image

    for name, mask in masks.items():
        expected = np.zeros((48, 64), bool)
        for found in detect(Image.fromarray(IMAGE), candidate_labels=["cube", "bowl"], threshold=0.3):
            if found["label"] == name:
                x0, y0, x1, y1 = (max(0, found["box"][key]) for key in ("xmin", "ymin", "xmax", "ymax"))
                expected[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(mask, expected)
        assert mask.any()


def test_nothing_is_found_above_a_high_score(detect):
    assert DetectorMasks(detect, ["cube"], min_score=0.999).at("hand_camera", 0, IMAGE) == {}


def test_a_detector_needs_words_and_a_model(tmp_path):
    with pytest.raises(FoveateError, match="--objects cube,bowl"):
        DetectorMasks("any", [])
    with pytest.raises(FoveateError, match="cannot be loaded by transformers"):
        DetectorMasks(str(tmp_path / "none"), ["cube"]).at("hand_camera", 0, IMAGE)
