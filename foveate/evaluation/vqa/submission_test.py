"""Submission files: what the servers get."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from foveate.errors import FoveateError
from foveate.evaluation.vqa.submission import write_submission
from foveate.types import VQASample


def test_mmbench_sheet(tmp_path: Path) -> None:
    samples = [
        VQASample("mmbench/test/17", "mmbench", "which <one> & why?", (), None, ("cat", "dog")),
        VQASample("mmbench/test/1000017", "mmbench", "which?\x07", (), None, ("dog", "cat", "cow", "owl")),
    ]
    path = write_submission(tmp_path / "sub", samples, ["The answer is B.", "I cannot say which of these it might be"])
    assert path == tmp_path / "sub.xlsx"
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            ElementTree.fromstring(archive.read(name))
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    rows = [["".join(cell.itertext()) for cell in row] for row in sheet.iter() if row.tag.endswith("}row")]
    assert rows == [
        ["index", "question", "A", "B", "C", "D", "prediction"],
        ["17", "which <one> & why?", "cat", "dog", "", "", "B"],
        ["1000017", "which?", "dog", "cat", "cow", "owl", "I cannot say which of these it might be"],
    ]
    before = path.read_bytes()
    write_submission(tmp_path / "sub", samples, ["The answer is B.", "I cannot say which of these it might be"])
    assert path.read_bytes() == before


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
