"""Every golden number that is there, and the command that compares them."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.cli.main import main
from foveate.errors import FoveateError
from foveate.golden import check
from foveate.golden.report import EXACT, Report, Tolerance
from foveate.testing.golden import golden_dir


@functools.cache
def report_of(folder: Path, group: str) -> Report:
    return check(folder, groups=[group])


@pytest.mark.parametrize("group", ["pi0", "lightvla", "vqa", "pruning"])
def test_installation_agrees_with_golden_numbers(group: str) -> None:
    report = report_of(golden_dir(group).parent, group)
    assert [f"{row.case} {row.group}: {row.error:.2e} {row.note}" for row in report.misses()] == []
    assert report.exit_status() == 0


@pytest.mark.parametrize("tag", ["tiny_pi05", "tiny_pi0", "gqa_pi05"])
def test_every_listed_tensor_is_compared(tag: str) -> None:
    """Nothing that the index lists is passed over in silence."""
    folder = golden_dir("pi0", f"{tag}.outputs.safetensors")
    rows = report_of(folder.parent, "pi0").rows
    compared = sum(row.tensors for row in rows if row.case == f"{tag} float32")
    entry = json.loads((folder / "pi0_index.json").read_text())[tag]
    listed = entry["outputs"]
    samples = sum(name.startswith("sample") for name in listed)  # packed and padded
    norms = len(entry["grad_norms"]) - 1  # the unused head of the expert
    assert compared == len(listed) + samples + norms


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """One float32 case in a folder that may be written to."""
    source = golden_dir("pi0", "tiny_pi05.model.safetensors")
    target = tmp_path / "golden" / "pi0"
    target.mkdir(parents=True)
    names = ("tiny_pi05.model", "tiny_pi05.outputs", "tiny.inputs", "images")
    for name in names:
        shutil.copyfile(source / f"{name}.safetensors", target / f"{name}.safetensors")
    index = json.loads((source / "pi0_index.json").read_text())
    (target / "pi0_index.json").write_text(json.dumps({"tiny_pi05": index["tiny_pi05"]}))
    return target.parent


def test_command_says_ok_and_writes_json(small: Path, tmp_path: Path, capsys) -> None:
    assert main(["check", "golden", str(small), "--json", str(tmp_path / "out" / "rows.json")]) == 0
    text = capsys.readouterr().out
    assert "prefix.layer*.k_cache" in text and "sample10.actions (packed)" in text and "MISS" not in text
    assert "tiny_pi05.bf16_outputs.safetensors is not in the folder" in text
    document = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert document["exit_status"] == 0
    row = next(row for row in document["rows"] if row["group"] == "denoise.v_t")
    assert row["status"] == "ok" and 0 < row["error"] < 5e-5


def test_a_miss_names_its_tensor_and_wins_over_what_was_not_compared(small: Path, capsys) -> None:
    path = small / "pi0" / "tiny_pi05.outputs.safetensors"
    outputs = load_file(path)
    outputs["prefix.layer2.k_cache"][0, 0, 3, 1] += 1e-3
    outputs["prefix.layer9.sigma"] = torch.zeros(2)
    save_file(outputs, path)
    assert main(["check", "golden", str(small), "--dtype", "float32"]) == 1
    text = capsys.readouterr().out
    assert "prefix.layer2.k_cache: 1 of" in text and "MISS" in text and "not compared" in text


def test_what_is_there_and_not_compared_is_status_two(small: Path, capsys) -> None:
    (small / "openvla_oft").mkdir()
    assert main(["check", "golden", str(small), "--dtype", "float32"]) == 2
    assert "openvla_oft" in capsys.readouterr().out
    assert main(["check", "golden", str(small), "--dtype", "float32", "--groups", "pi0"]) == 0


def test_bad_arguments_are_one_sentence(small: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    for argv, said in (
        ([str(tmp_path / "nowhere")], "expected a folder with golden groups"),
        ([str(tmp_path / "empty")], "expected golden groups (pi0, lightvla, vqa, openvla_oft, pruning) as subfolders"),
        ([str(small), "--groups", "pi00"], "unknown group 'pi00'; did you mean 'pi0'"),
        ([str(small), "--groups", "lightvla"], "group 'lightvla' is not there; it holds pi0"),
        ([str(small), "--engine", "warp"], "unknown engine 'warp'"),
    ):
        assert main(["check", "golden", *argv]) == 1
        assert said in capsys.readouterr().err


def test_nan_shape_and_tolerance_are_judged_right() -> None:
    report = Report()
    report.compare("c", "equal", torch.ones(3), torch.ones(3), EXACT)
    report.compare("c", "nan", torch.tensor([1.0, float("nan")]), torch.ones(2), Tolerance(1.0))
    report.compare("c", "shape", torch.ones(2, 3), torch.ones(3, 2), Tolerance(1.0))
    report.compare("c", "inside", torch.tensor([100.5]), torch.tensor([100.0]), Tolerance(0.1, 0.01))
    report.compare("c", "outside", torch.tensor([100.5]), torch.tensor([100.0]), Tolerance(0.1, 1e-3))
    masked, valid = torch.tensor([[1.0], [9.0]]), torch.tensor([True, False])
    report.compare("c", "masked", masked, torch.ones(2, 1), EXACT, valid=valid)
    assert [row.group for row in report.misses()] == ["nan", "shape", "outside"]
    assert next(row for row in report.rows if row.group == "masked").excluded == 1
    assert report.exit_status() == 1


def test_rows_that_cannot_be_written_are_one_sentence() -> None:
    with pytest.raises(FoveateError, match=r"rows\.json: cannot be written"):
        Report().write_json(Path("/dev/null/rows.json"))


def test_evaluation_of_lightvla_is_handed_the_padding(tmp_path: Path) -> None:
    """The reference gathers its mask along, padding too, and a batch's padding changes no other sample."""
    source, name = golden_dir("lightvla", "pruner.safetensors"), "rand_P16_T5_D32_s1"
    data = load_file(source / "pruner.safetensors")
    index = json.loads((source / "index.json").read_text())
    index["cases"] = [case for case in index["cases"] if case["name"] in (name, "batch3_P16_T5_D32")]
    for key in ("attention_mask", "eval.attention_mask", "train.attention_mask"):
        data[f"{name}/{key}"][0, -2:] = False
    (tmp_path / "lightvla").mkdir()
    (tmp_path / "lightvla" / "index.json").write_text(json.dumps(index))
    save_file(data, tmp_path / "lightvla" / "pruner.safetensors")
    report = check(tmp_path, groups=["lightvla"])
    assert [f"{row.group}: {row.note}" for row in report.misses()] == []
    padded = {row.group: row for row in report.rows if row.group.endswith("padded")}
    assert set(padded) == {"score, padded", "keep_mask, padded"}
    assert all(row.tensors == 2 and row.excluded == 2 * 16 for row in padded.values())  # a sample of each case
    data[f"{name}/eval.attention_mask"][0, -2:] = True
    save_file(data, tmp_path / "lightvla" / "pruner.safetensors")
    assert [row.group for row in check(tmp_path, groups=["lightvla"]).misses()] == ["eval.attention_mask"]
