"""Files for the evaluation servers of splits whose answers are not public.

MMBench takes an Excel sheet (index, question, options, prediction), MMMU a JSON object from id to answer, TextVQA a
JSON list of {question_id, answer}. Other sets get JSON lines of {id, answer}.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from foveate.errors import FoveateError
from foveate.evaluation.vqa.metrics import LETTERS, chosen_letter
from foveate.types import VQASample
from foveate.util.files import draft, write_text

Cell = str | int

_PARTS = {
    "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/xl/workbook.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
    '<Override PartName="/xl/worksheets/sheet1.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>',
    "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="rId1" Target="xl/workbook.xml" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>',
    "xl/workbook.xml": '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">'
    '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="rId1" Target="worksheets/sheet1.xml" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet"/></Relationships>',
}
"""All of a workbook but its sheet (ECMA-376, part 1)."""
_HEADER = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


def write_submission(path: Path, samples: Sequence[VQASample], answers: Sequence[str]) -> Path:
    """Write the answers to one data set in the form that its server takes.

    Args:
        path: where, without the suffix: `.xlsx`, `.json` or `.jsonl` is put behind it.
        answers: what the model said, in the order of the samples. Of a multiple choice the letter is written where one
            can be read off, else the text as it is.
    Returns:
        The file that was written.
    Raises:
        FoveateError: there is no question, or the folder cannot be written.
    """
    if len(samples) != len(answers):
        raise FoveateError(f"submission {path}: {len(answers)} answers to {len(samples)} questions")
    if not samples:
        raise FoveateError(f"submission {path}: there is no question")
    said = [
        (chosen_letter(sample, text) or text) if sample.choices else text.strip()
        for sample, text in zip(samples, answers, strict=True)
    ]
    names = [sample.id.rpartition("/")[2] for sample in samples]
    dataset, suffix = samples[0].dataset, ".json"
    if dataset == "mmbench":
        return _write_sheet(_named(path, ".xlsx"), list(_mmbench_rows(samples, names, said)))
    if dataset == "mmmu":
        text = json.dumps(dict(zip(names, said, strict=True)), ensure_ascii=False, indent=1)
    elif dataset == "textvqa":
        rows = [{"question_id": int(n) if n.isdigit() else n, "answer": a} for n, a in zip(names, said, strict=True)]
        text = json.dumps(rows, ensure_ascii=False, indent=1)
    else:
        suffix = ".jsonl"
        pairs = zip(samples, said, strict=True)
        text = "\n".join(json.dumps({"id": s.id, "answer": a}, ensure_ascii=False) for s, a in pairs)
    path = _named(path, suffix)
    write_text(path, text + "\n")
    return path


def _named(path: Path, suffix: str) -> Path:
    """The path with its suffix; a point elsewhere in the name (`lambda=0.05`) stays."""
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def _mmbench_rows(samples: Sequence[VQASample], names: Sequence[str], said: Sequence[str]) -> Iterator[list[Cell]]:
    width = max(4, *(len(sample.choices) for sample in samples))
    yield ["index", "question", *LETTERS[:width], "prediction"]
    for sample, name, answer in zip(samples, names, said, strict=True):
        options = [*sample.choices, *[""] * (width - len(sample.choices))]
        yield [int(name) if name.isdigit() else name, sample.question, *options, answer]


def _write_sheet(path: Path, rows: Sequence[Sequence[Cell]]) -> Path:
    """A workbook of one sheet, the same bytes for the same rows."""
    lines = "".join(f"<row>{''.join(map(_cell, row))}</row>" for row in rows)
    sheet = (
        f'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{lines}</sheetData>'
    )
    parts = {**_PARTS, "xl/worksheets/sheet1.xml": sheet + "</worksheet>"}
    with draft(path) as begun, zipfile.ZipFile(begun, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(zipfile.ZipInfo(name), _HEADER + text, zipfile.ZIP_DEFLATED)
    return path


def _cell(value: Cell) -> str:
    if isinstance(value, int):
        return f"<c><v>{value}</v></c>"
    text = escape(_ILLEGAL.sub("", value))
    return f'<c t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'
