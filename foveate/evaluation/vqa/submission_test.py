"""Submission files: what the servers get."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

from foveate.errors import FoveateError
from foveate.evaluation.vqa.submission import write_submission
from foveate.types import VQASample


def test_mmbench_sheet(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed (pip install .[vlm])")
    samples = [
        VQASample("mmbench/test/17", "mmbench", "which <one> & why?", (), None, ("cat", "dog")),
        VQASample("mmbench/test/1000017", "mmbench", "which?\x07", (), None, ("=1+1", "cat", "cow", "owl")),
    ]
    path = write_submission(tmp_path / "sub", samples, ["The answer is B.", "I cannot say which of these it might be"])
    assert path == tmp_path / "sub.xlsx"
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["Sheet1"]
    assert [list(row) for row in book["Sheet1"].iter_rows(values_only=True)] == [
        ["index", "question", "A", "B", "C", "D", "prediction"],
        [17, "which <one> & why?", "cat", "dog", None, None, "B"],
        [1000017, "which?", "=1+1", "cat", "cow", "owl", "I cannot say which of these it might be"],
    ]
    assert [cell.data_type for cell in book["Sheet1"][3]] == ["n", *"ssssss"], "numbers, and text that is no formula"
    before = path.read_bytes()
    for info in zipfile.ZipFile(path).infolist():
        assert info.date_time == (1980, 1, 1, 0, 0, 0), info.filename
    write_submission(tmp_path / "sub", samples, ["The answer is B.", "I cannot say which of these it might be"])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["sub.xlsx"]


def test_a_sheet_without_openpyxl_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(FoveateError, match=r'needs the package openpyxl; run: pip install "foveate\[vlm\]"'):
        write_submission(tmp_path / "sub", [VQASample("mmbench/test/1", "mmbench", "?", (), None, ("a", "b"))], ["A"])


def test_mmmu_and_textvqa_json(tmp_path: Path) -> None:
    mmmu = [
        VQASample("mmmu/test/test_Math_1", "mmmu", "?", (), None, ("x", "y")),
        VQASample("mmmu/test/test_Math_2", "mmmu", "?", (), None),
    ]
    path = write_submission(tmp_path / "mmmu", mmmu, ["(A)", " 12 "])
    assert path.name == "mmmu.json" and json.loads(path.read_text()) == {"test_Math_1": "A", "test_Math_2": "12"}
    text = [VQASample("textvqa/test/34602", "textvqa", "?", (), None)]
    path = write_submission(tmp_path / "t", text, ["dakota"])
    assert json.loads(path.read_text()) == [{"question_id": 34602, "answer": "dakota"}]


def test_other_sets_and_names_with_a_point(tmp_path: Path) -> None:
    path = write_submission(tmp_path / "mine lambda=0.05", [VQASample("mine/1", "mine", "?", (), None)], [" red"])
    assert path.name == "mine lambda=0.05.jsonl" and json.loads(path.read_text()) == {"id": "mine/1", "answer": "red"}


def test_what_cannot_be_submitted(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="2 answers to 0 questions"):
        write_submission(tmp_path / "x", [], ["a", "b"])
