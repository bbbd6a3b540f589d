"""Files for the evaluation servers of splits whose answers are not public.

MMBench takes an Excel sheet (index, question, options, prediction), MMMU a JSON object from id to answer, TextVQA a
JSON list of {question_id, answer}. Other sets get JSON lines of {id, answer}.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from foveate.errors import FoveateError
from foveate.evaluation.vqa.metrics import LETTERS, chosen_letter
from foveate.types import VQASample
from foveate.util.files import draft, write_text

Cell = str | int


def write_submission(path: Path, samples: Sequence[VQASample], answers: Sequence[str]) -> Path:
    """Write the answers to one data set in the form that its server takes.

    Args:
        path: where, without the suffix: `.xlsx`, `.json` or `.jsonl` is put behind it.
        answers: what the model said, in the order of the samples. Of a multiple choice the letter is written where one
            can be read off, else the text as it is.
    Returns:
        The file that was written.
    Raises:
        FoveateError: there is no question, the folder cannot be written, or openpyxl is not installed (MMBench).
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
        return _write_sheet(_named(path, ".xlsx"), _mmbench_rows(samples, names, said))
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


def _write_sheet(path: Path, rows: Iterable[Sequence[Cell]]) -> Path:
    """A workbook of one sheet, named as pandas names it; the same bytes for the same rows."""
    try:
        from openpyxl import Workbook
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
        from openpyxl.writer.excel import ExcelWriter
    except ImportError as error:
        raise FoveateError(
            f'submission {path}: an Excel sheet needs the package openpyxl; run: pip install "foveate[vlm]"'
        ) from error
    book = Workbook()
    book.properties.created = book.properties.modified = datetime(1980, 1, 1)
    sheet = book.active
    sheet.title = "Sheet1"
    for row, values in enumerate(rows, start=1):
        for column, value in enumerate(values, start=1):
            if isinstance(value, int):
                sheet.cell(row, column, value)
            else:
                # Said to be text: an answer that begins with "=" is no formula.
                sheet.cell(row, column, ILLEGAL_CHARACTERS_RE.sub("", value)).data_type = "s"
    with draft(path) as begun, _UndatedZip(begun, "w") as archive:
        ExcelWriter(book, archive).save()
    return path


class _UndatedZip(zipfile.ZipFile):
    """An archive whose members carry no time of writing."""

    def writestr(self, zinfo_or_arcname: Any, data: Any, *args: Any, **kwargs: Any) -> None:
        super().writestr(zipfile.ZipInfo(zinfo_or_arcname), data, zipfile.ZIP_DEFLATED)

    def write(self, filename: Any, arcname: Any = None, *args: Any, **kwargs: Any) -> None:
        self.writestr(arcname, Path(filename).read_bytes())
