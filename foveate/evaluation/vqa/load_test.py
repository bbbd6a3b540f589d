from __future__ import annotations

import pytest

from foveate.errors import FoveateError
from foveate.evaluation.vqa.config import DataConfig, ModelConfig, VqaConfig
from foveate.evaluation.vqa.load import load_sets, tuned_folder, untuned
from foveate.vision_value.config import TrainingConfig


def staged(folder, *checkpoints, epochs=1):
    training = TrainingConfig(stage1_epochs=epochs, output_dir=str(folder / "outputs"))
    return VqaConfig(model=ModelConfig(path="big"), training=training, checkpoint=checkpoints)


def test_the_model_that_stage_1_tuned_is_found_beside_the_named_policy(tmp_path):
    (tmp_path / "outputs" / "stage1").mkdir(parents=True)
    (tmp_path / "seed_1" / "policy" / "stage1").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    assert tuned_folder(staged(tmp_path)) == tmp_path / "outputs" / "stage1"
    named = tmp_path / "seed_1" / "policy"
    assert tuned_folder(staged(tmp_path, str(named))) == named / "stage1"
    assert tuned_folder(staged(tmp_path, str(tmp_path / "plain"))) == tmp_path / "outputs" / "stage1"


def test_an_untuned_model_is_told_where_the_configuration_has_a_stage_1(tmp_path):
    (warning,) = untuned(staged(tmp_path))
    assert "stage1_epochs is 1" in warning and "big was evaluated as it is" in warning
    assert untuned(staged(tmp_path, epochs=0)) == []
    (tmp_path / "outputs" / "stage1").mkdir(parents=True)
    assert untuned(staged(tmp_path)) == []


def test_sets_come_from_the_configuration_and_two_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.jsonl").write_text('{"question": "what?", "answer": "yes"}\n')
    one, other = (str(tmp_path / folder / "mine.jsonl") for folder in ("a", "b"))
    assert list(load_sets(VqaConfig(data=DataConfig(eval_jsonl=one)))) == ["mine"]
    with pytest.raises(FoveateError, match="two files have one name"):
        load_sets(VqaConfig(dataset_config=f"{one},{other}"))
