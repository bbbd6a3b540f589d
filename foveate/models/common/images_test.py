import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foveate.geometry import ResizeGeometry
from foveate.models.common.images import model_images, resize_with_pad_pil, to_uint8
from foveate.testing.golden import golden_dir


@pytest.mark.parametrize("case", ["sq256", "wide", "tall"])
def test_resize_agrees_with_the_reference(case: str) -> None:
    tensors = load_file(golden_dir("pi0", "resize.safetensors") / "resize.safetensors")
    if f"{case}.in_u8" not in tensors:
        pytest.skip(f"{case} is not in this set of golden data; set FOVEATE_GOLDEN")
    source, expected = tensors[f"{case}.in_u8"], tensors[f"{case}.out_f32_bhwc"]
    got = model_images([source[0].numpy()], 224, "torch")
    assert (got.permute(0, 2, 3, 1) - expected).abs().max() <= 1e-6


def test_an_image_of_the_right_size_is_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    for resize in ("pil", "torch"):
        np.testing.assert_array_equal(to_uint8(model_images([image], 28, resize))[0], image)  # type: ignore[arg-type]


def test_padding_is_black_and_the_picture_keeps_its_ratio() -> None:
    white = np.full((10, 20, 3), 255, np.uint8)
    for resize in ("pil", "torch"):
        got = to_uint8(model_images([white], 8, resize))[0]  # type: ignore[arg-type]
        assert (got[2:6] == 255).all() and (got[:2] == 0).all() and (got[6:] == 0).all()


def test_pil_averages_and_torch_does_not() -> None:
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::4] = 255  # one column in four
    assert resize_with_pad_pil(stripes, 2, 2).max() < 128
    assert model_images([stripes], 2, "torch").max() == -1


def test_mixed_sizes_in_one_batch() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in [(30, 40), (28, 28), (30, 40)]]
    together = model_images(images, 28)
    for image, row in zip(images, together, strict=True):
        torch.testing.assert_close(model_images([image], 28)[0], row)


@pytest.mark.parametrize("pad", [-1.0, -3.0])  # of LeRobot since 0.5.0, and until 0.4.4
def test_pictures_of_either_lerobot(pad: float) -> None:
    golden = np.load(golden_dir("lerobot", "pi05_processor.npz") / "pi05_processor.npz")
    for view in ("front", "wrist", "tall"):
        image = golden[f"image_u8/observation.images.{view}"]
        expected = golden[f"image_model_every5/observation.images.{view}"]
        got = model_images([image], 224, "torch", pad)[0, :, ::5, ::5].numpy()
        geometry = ResizeGeometry(image.shape[:2], (224, 224))
        (height, width), (left, _, top, _) = geometry.resized_hw, geometry.pad
        inside = np.zeros((224, 224), bool)
        inside[top : top + height, left : left + width] = True
        inside = inside[::5, ::5]
        np.testing.assert_allclose(got[:, inside], expected[:, inside], atol=2e-6)
        assert (expected[:, ~inside] == -1).all() and (got[:, ~inside] == pad).all()
        assert view == "wrist" or (~inside).any()
