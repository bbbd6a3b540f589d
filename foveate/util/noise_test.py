import numpy as np

from foveate.util.noise import action_noise, stack_noise


def test_noise_hangs_on_its_key_alone() -> None:
    first, again, other = action_noise((3, 2), 1, 2), action_noise((3, 2), 1, 2), action_noise((3, 2), 1, 3)
    assert first is not None and first.shape == (3, 2) and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, np.random.default_rng([1, 2]).standard_normal((3, 2), dtype=np.float32))
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(stack_noise([first, other]), np.stack([first, other]))  # type: ignore[list-item]


def test_a_model_without_noise_gets_none() -> None:
    assert action_noise(None, 1) is None and stack_noise([None, None]) is None
