"""Both stages leave the same questions for validation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from foveate.evaluation.vqa.config import DataConfig, EvalConfig, ModelConfig, VqaConfig
from foveate.studies.value import study, train
from foveate.testing.golden import REPO
from foveate.types import VQASample
from foveate.vision_value.config import TrainingConfig

sys.path.append(str(REPO / "tests"))
from fake_vlm import fake_samples


def test_stage_1_never_sees_what_stage_2_validates_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture of the tuned questions is among those that choose epoch, lambda and thresholds."""
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {}

    def tune(vlm: Any, samples: list[VQASample], *_: Any) -> None:
        seen["tuned"] = samples

    def split(images: list[bytes], fraction: float) -> Any:
        held = split_by_image(images, fraction)
        seen["held"] = {image for image, out in zip(images, held, strict=True) if out}
        return held

    split_by_image = train.split_by_image
    monkeypatch.setattr(train, "tune", tune)
    monkeypatch.setattr(train, "split_by_image", split)
    config = VqaConfig(
        model=ModelConfig(path="fake_vlm:FakeVLM"),
        data=DataConfig(train_jsonl="mixed"),
        eval=EvalConfig(bootstrap=20),
        training=TrainingConfig(stage1_epochs=1, stage2_epochs=1, val_fraction=0.4),
        output_dir="out",
    )
    monkeypatch.setattr(study, "load_training_set", lambda _: fake_samples(200, "mixed"))  # two about each picture
    with study.open_study(config) as opened:
        train.train_head(opened)
    tuned = {sample.image for sample in seen["tuned"]}
    assert 20 < len(seen["held"]) < 60 and len(tuned) == 100 - len(seen["held"])
    assert not tuned & seen["held"]
