"""The causal check of a dump, by a policy whose actions are known to hang on one corner of one view."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.studies.attention.occlusion import OcclusionConfig
from foveate.studies.attention.traced_frame import AT_RANDOM, check_traced
from foveate.tracing.record import Record, View
from foveate.types import ActionChunk
from foveate.util.noise import action_noise


class CornerPolicy:
    """Each number of its actions is the mean brightness of the camera's upper left quarter, and half of the noise."""

    spec = SimpleNamespace(
        noise_shape=(3, 2), cameras={"side": ("cam", "other"), "wrist": ("hand",)}, views=("cam", "hand"), state_dim=4
    )

    def __init__(self):
        self.asked = []

    def infer_batch(self, observations, noise=None):
        self.asked += observations
        means = [float(o.images["cam"][:8, :8].mean()) for o in observations]
        return [ActionChunk((m + n / 2).astype(np.float32)) for m, n in zip(means, noise, strict=True)]


RNG = np.random.default_rng(0)
IMAGES = {"side": np.full((16, 16, 3), 40, np.uint8), "wrist": RNG.integers(0, 255, (16, 16, 3), dtype=np.uint8)}
IMAGES["side"][:8, :8] = 200
CORNER = np.zeros((2, 4, 4), bool)
CORNER[0, :2, :2] = True
CORNER[1, 3, 3] = True
META = {"task": "push", "task_id": 0, "episode": 2, "step": 10, "query": 2, "seed": 9, "instruction": "push it"}


def record(tmp_path, **changed):
    views = tuple(View(name, i, (4, 4), slice(16 * i, 16 * i + 16), "p.png", (16, 16)) for i, name in enumerate(IMAGES))
    told = {"keep_mask": CORNER.ravel(), "state": np.zeros(4, np.float32)}
    return Record(path=tmp_path, run_dir=tmp_path, meta=META, views=views, **{**told, **changed})


def test_covering_what_the_actions_hang_on_moves_them(tmp_path):
    import zlib

    policy = CornerPolicy()
    noise = action_noise((3, 2), 7, zlib.crc32(b"push"), 2, 2)  # seed 9 is the scene's: of the run it is 7
    recorded = 200 + noise / 2
    found = check_traced(policy, record(tmp_path, action=recorded), IMAGES, OcclusionConfig(draws=4))
    assert found["reference"] == pytest.approx(0, abs=1e-4)
    cases = {case["name"]: case for case in found["cases"]}
    assert list(cases) == ["kept", f"{AT_RANDOM} (kept)", "dropped", f"{AT_RANDOM} (dropped)"]
    mean = round(IMAGES["side"].mean())  # what is covered becomes the picture's mean
    assert cases["kept"]["rms"] == pytest.approx(200 - mean, abs=1e-3)
    assert cases["kept"]["area"] == pytest.approx(5 / 32)
    assert cases["dropped"]["rms"] == 0 and cases["dropped"]["area"] == pytest.approx(27 / 32)
    assert 0 < cases[f"{AT_RANDOM} (dropped)"]["rms"] <= 200 - mean
    asked = policy.asked[0]
    assert asked.prompt == "push it" and set(asked.images) == {"cam", "hand"}


def test_absent_cameras_are_not_covered(tmp_path):
    valid = np.repeat([True, False], 16)
    keep = CORNER.ravel() & valid
    policy = CornerPolicy()
    policy.spec = SimpleNamespace(**{**vars(CornerPolicy.spec), "views": ("cam",)})
    found = check_traced(policy, record(tmp_path, keep_mask=keep, valid=valid), {"side": IMAGES["side"]})
    assert [case["area"] for case in found["cases"]] == [0.25, 0.25, 0.75, 0.75]
    assert found["reference"] is None


@pytest.mark.parametrize(
    ("changed", "images", "said"),
    [
        ({"state": None}, IMAGES, "holds no state"),
        ({"state": np.zeros(7)}, IMAGES, "its state has 7 numbers, the policy's 4"),
        ({"keep_mask": None}, IMAGES, "holds no keep mask"),
        ({"keep_mask": np.ones(32, bool)}, IMAGES, "32 of 32 patches were kept"),
        ({}, {"corner": IMAGES["side"]}, "its pictures are of corner, the policy's views are side, wrist"),
        ({}, {"side": IMAGES["side"]}, "no picture of wrist"),
        ({}, {**IMAGES, "side": np.full((16, 16, 3), 90, np.uint8)}, "leaves the picture as it was"),
    ],
)
def test_what_lacks_is_named(tmp_path, changed, images, said):
    with pytest.raises(FoveateError, match=said):
        check_traced(CornerPolicy(), record(tmp_path, **changed), images)
