"""`lmms-eval --model foveate` with the real lmms-eval, on a local task and a tiny random LLaVA."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lmms_eval", reason="needs lmms-eval in an environment of its own: scripts/check_lmms_eval.sh")

import datasets
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaProcessor

import foveate
from foveate.errors import FoveateError
from foveate.testing.vlm import tiny_parts

pytestmark = pytest.mark.peer

TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %} Answer:"
)
TASK = """
task: noise
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function local.pictures
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 6}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
PICTURES = """
def pictures(doc):
    return [picture.convert("RGB") for picture in doc["pictures"]]
"""
STRIDE = {"pruner": "stride", "pruner.keep_ratio": 0.5}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    model, pictures, tokenizer = tiny_parts("llava")
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor = LlavaProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four questions, one of which has two pictures."""
    folder, rng = tmp_path_factory.mktemp("tasks"), np.random.default_rng(0)

    def picture() -> dict[str, bytes]:
        drawn = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(drawn, "PNG")
        return {"bytes": drawn.getvalue()}

    rows = [
        {"question": f"what color is shape {i}?", "answer": "red", "pictures": [picture() for _ in range(1 + (i == 2))]}
        for i in range(4)
    ]
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.Value("string"), "pictures": [datasets.Image()]}
    )
    datasets.Dataset.from_list(rows, features).to_parquet(folder / "noise.parquet")
    (folder / "noise.yaml").write_text(TASK.format(file=folder / "noise.parquet"))
    (folder / "local.py").write_text(PICTURES)
    return folder


def words(checkpoint: Path, base: str | None = "llava_hf", **options: Any) -> str:
    given = {"pretrained": checkpoint, "device_map": "cpu", **({} if base is None else {"base": base}), **options}
    return ",".join(f"{name}={value}" for name, value in given.items())


def evaluated(model: str, checkpoint: Path, tasks: Path, **options: Any) -> tuple[list[str], dict[str, Any]]:
    """Answers in the order of the questions, and the whole result."""
    manager = TaskManager("ERROR", include_path=str(tasks), include_defaults=False)
    result = simple_evaluate(
        model, words(checkpoint, **options), tasks=["noise"], task_manager=manager, batch_size=1, device="cpu"
    )
    return [sample["filtered_resps"][0] for sample in result["samples"]["noise"]], result


def test_answers_are_those_of_the_pruned_model(checkpoint: Path, tasks: Path) -> None:
    """Against generate() under `foveate.prune`; without a pruner against lmms-eval's own model."""
    full, _ = evaluated("llava_hf", checkpoint, tasks, base=None)
    assert evaluated("foveate", checkpoint, tasks)[0] == full
    pruned, result = evaluated("foveate", checkpoint, tasks, **STRIDE)
    assert pruned != full
    assert result["throughput"]["avg_image_tokens"] == 20 and result["throughput"]["avg_image_tokens_kept"] == 10

    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    rows = datasets.load_dataset("parquet", data_files=str(tasks / "noise.parquet"))["train"]
    for row, answer in zip(rows, pruned, strict=True):
        text = "<image>" * len(row["pictures"]) + row["question"] + " Answer:"
        inputs = processor(text=text, images=row["pictures"], return_tensors="pt")
        with foveate.prune(model, {"name": "stride", "keep_ratio": 0.5}):
            tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)
        left = tokens[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(left, skip_special_tokens=True) == answer


def test_the_command_line(checkpoint: Path, tasks: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmms_eval", "--model", "foveate", "--model_args", words(checkpoint, **STRIDE)]
    command += ["--tasks", "noise", "--include_path", str(tasks), "--batch_size", "1", "--device", "cpu"]
    ran = subprocess.run([*command, "--output_path", str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads(next(tmp_path.rglob("*results.json")).read_text())
    assert "exact_match,none" in result["results"]["noise"] and "stride" in str(result["config"]["model_args"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pruner": "strid"}, "did you mean 'stride'"),
        ({"pruner": "stride"}, "no budget"),
        ({"pruner": "stride", "pruner.ratio": 0.5}, "unknown option 'ratio'"),
        ({"base": None}, "name one of lmms-eval's own models"),
        ({"base": "dummy"}, "runs it elsewhere than in transformers"),
    ],
)
def test_what_does_not_fit_is_named(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FoveateError, match=message):
        get_model("foveate").create_from_arg_string(words(checkpoint, **options))
