"""Stage 1 names the pictures that it cannot look at; training itself is in tests/test_value_real.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.errors import FoveateError
from foveate.training.value import stage1
from foveate.types import VQASample
from foveate.util.world import World
from foveate.vision_value.config import TrainingConfig


def tune(samples: list[VQASample], folder: Path, **training: Any) -> None:
    stage1.tune(None, samples, TrainingConfig(stage1_epochs=1, **training), World(), folder, {})  # type: ignore[arg-type]


def test_pictures_that_cannot_be_read_are_counted_and_the_first_is_named(tmp_path: Path, caplog, monkeypatch) -> None:
    samples = [VQASample(f"q{n}", "x", "what?", ("a",), str(tmp_path / f"{n}.png")) for n in range(3)]
    with pytest.raises(FoveateError, match=rf"a picture; 3 pictures cannot be read, the first: .*{tmp_path}/0\.png"):
        tune(samples, tmp_path)

    class Reached(Exception):
        pass

    def source(questions: Any, *_: Any) -> None:
        raise Reached([s.id for s in questions[0].samples])

    monkeypatch.setattr(stage1, "QuestionSource", source)
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    with pytest.raises(Reached, match=r"\['q1'\]"):
        tune(samples, tmp_path)
    assert "stage 1: 2 of 3 questions left out: sample q0" in caplog.text and f"{tmp_path}/0.png" in caplog.text
    caplog.clear()
    with pytest.raises(Reached, match=r"'q0', 'q1', 'q2'"):  # pictures do not matter to what never looks
        tune(samples, tmp_path, stage1_baseline_name="no_vision")
    assert not caplog.text
