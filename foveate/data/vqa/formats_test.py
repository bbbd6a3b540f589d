"""Published question sets, read from small files in exactly their format."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from foveate.data.vqa import files
from foveate.data.vqa.load import load_vqa
from foveate.data.vqa.mmmu import on_one_sheet
from foveate.errors import FoveateError
from foveate.models.vlm.images import decode
from foveate.types import VQASample
from foveate.util.pictures import ImageError, read_picture

MMBENCH_COLUMNS = (
    "index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category", "comment",
    "split",
)  # fmt: skip


def encoded(color: str = "red", size: tuple[int, int] = (6, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def write_mmbench(path: Path, rows: list[dict], columns=MMBENCH_COLUMNS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def mmbench_row(index: int, image: str, **other) -> dict:
    row = {
        "index": index,
        "question": 'Which "one"?\nSay.',
        "hint": "nan",
        "A": "cat",
        "B": "dog",
        "C": "",
        "D": "",
        "answer": "B",
        "category": "object_localization",
        "image": image,
        "source": "s",
        "l2-category": "l2",
        "comment": "",
        "split": "dev",
    }
    return row | other


def test_mmbench_tsv_with_rotations_that_name_another_rows_picture(tmp_path: Path) -> None:
    text = base64.b64encode(encoded()).decode()
    rows = [
        mmbench_row(7, text, hint="look"),
        mmbench_row(1_000_007, "7", A="dog", B="cat", answer="A"),
        mmbench_row(8, "not base64!", C="cow", D="owl", answer="D"),
    ]
    write_mmbench(tmp_path / "mmbench" / "mmbench_dev_20230712.tsv", rows)
    first, rotated, broken = load_vqa("mmbench", root=tmp_path)
    assert first == VQASample(
        "mmbench/dev/7", "mmbench", 'Which "one"?\nSay.', ("B",), encoded(), ("cat", "dog"), "look",
        "object_localization", "dev",
    )  # fmt: skip
    assert rotated.image == encoded() and rotated.answers == ("A",) and rotated.choices == ("dog", "cat")
    assert rotated.hint == "" and broken.choices == ("cat", "dog", "cow", "owl")
    # The question stays; whoever decodes its picture finds it broken.
    assert broken.image == b"not base64!"


def test_mmbench_test_split_has_no_answers(tmp_path: Path) -> None:
    text = base64.b64encode(encoded()).decode()
    columns = [c for c in MMBENCH_COLUMNS if c != "answer"]
    write_mmbench(tmp_path / "mmbench_test_20230712.tsv", [mmbench_row(1, text, split="test")], columns)
    (sample,) = load_vqa("mmbench", "test", root=tmp_path)
    assert sample.answers == () and sample.id == "mmbench/test/1"


def test_columns_are_known_in_any_case(tmp_path: Path) -> None:
    """As some tools write them: `Answer`, `QUESTION`, `c`."""
    text = base64.b64encode(encoded()).decode()
    row = mmbench_row(1, text, C="cow", D="owl", answer="D", hint="look")
    columns = {name: name.capitalize() for name in MMBENCH_COLUMNS if len(name) > 1} | {
        "C": "c",
        "question": "QUESTION",
    }
    other = {columns.get(name, name): value for name, value in row.items()}
    (expected,) = _mmbench(tmp_path / "exact", row)
    assert expected.answers == ("D",) and expected.choices == ("cat", "dog", "cow", "owl")
    assert _mmbench(tmp_path / "other", other) == [expected]
    # Where a file has both, the name as it is published counts.
    assert _mmbench(tmp_path / "both", {"Answer": "A", **row}) == [expected]

    mmmu = mmmu_row("validation_Art_1", image_2={"bytes": encoded("blue"), "path": None})
    textvqa = textvqa_row(image={"bytes": encoded(), "path": None})
    for place, change in (("exact", str), ("upper", str.upper), ("capital", str.capitalize)):
        folder = tmp_path / place
        write_parquet(folder / "validation-00000.parquet", [{change(k): v for k, v in mmmu.items()}])
        write_parquet(folder / "data" / "validation-00000.parquet", [{change(k): v for k, v in textvqa.items()}])
        named = {change(k): v for k, v in textvqa.items() if k != "image"}
        (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [named]}))
        (folder / "train_images").mkdir()
    for preset, named in {
        "mmmu": "validation-00000.parquet",
        "textvqa": "data/validation-00000.parquet",
    }.items():
        read = [load_vqa(preset, root=tmp_path / place / named) for place in ("exact", "upper", "capital")]
        assert read[0][0].answers and read[1] == read[2] == read[0]
    (sample,) = load_vqa("textvqa", root=tmp_path / "upper")
    assert len(sample.answers) == 10 and sample.id == "textvqa/validation/34602"


def _mmbench(folder: Path, row: dict) -> list[VQASample]:
    write_mmbench(folder / "mmbench_dev.tsv", [row], tuple(row))
    return load_vqa("mmbench", root=folder)


def test_without_the_column_of_its_answers_a_set_whose_answers_are_public_is_an_error(tmp_path: Path) -> None:
    columns = [c for c in MMBENCH_COLUMNS if c != "answer"]
    write_mmbench(tmp_path / "mmbench_dev.tsv", [mmbench_row(1, "x")], [*columns, "reply"])
    with pytest.raises(FoveateError, match=r"mmbench_dev\.tsv: column 'answer' is missing; .*found index, .* reply"):
        load_vqa("mmbench", root=tmp_path)
    row = textvqa_row(image={"bytes": encoded(), "path": None})
    row["reply"] = row.pop("answers")
    write_parquet(tmp_path / "validation-00000.parquet", [row])
    with pytest.raises(FoveateError, match=r"column 'answers' is missing; .*reply"):
        load_vqa("textvqa", root=tmp_path)
    del row["image"]
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [row]}))
    (tmp_path / "train_images").mkdir()
    with pytest.raises(FoveateError, match=r"column 'answers' is missing; .*reply"):
        load_vqa("textvqa", root=tmp_path)


def test_mmbench_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match=r"expected \*mmbench\*dev_en\*\.tsv or .* found no file"):
        load_vqa("mmbench", root=tmp_path)
    with pytest.raises(FoveateError, match=r"is not there; set data.root"):
        load_vqa("mmbench", root=tmp_path / "nowhere")
    file = tmp_path / "mmbench_dev_en.tsv"
    write_mmbench(file, [mmbench_row(1, "x")], [c for c in MMBENCH_COLUMNS if c != "image"])
    with pytest.raises(
        FoveateError, match=r"column 'image' is missing; expected index, .*, found index, question, hint"
    ):
        load_vqa("mmbench", root=tmp_path)
    write_mmbench(file, [mmbench_row(1, "x", split="test")])
    with pytest.raises(FoveateError, match="expected rows of split 'dev', found test"):
        load_vqa("mmbench", root=tmp_path)
    write_mmbench(file, [])
    with pytest.raises(FoveateError, match="data set 'mmbench', split 'dev': it holds no question"):
        load_vqa("mmbench", root=tmp_path)
    write_mmbench(tmp_path / "mmbench_dev_en_V11.tsv", [mmbench_row(1, "x")])
    with pytest.raises(FoveateError, match=r"mmbench_dev_en\.tsv, mmbench_dev_en_V11\.tsv .* set data\.root to one"):
        load_vqa("mmbench", root=tmp_path)
    with pytest.raises(FoveateError, match="unknown split of mmbench 'train'"):
        load_vqa("mmbench", "train", root=tmp_path)
    assert load_vqa("mmbench", root=tmp_path / "mmbench_dev_en_V11.tsv")[0].image == b"x"


def test_mmbench_in_english_where_both_languages_lie_there(tmp_path: Path) -> None:
    """As on the hub; otherwise one root for several sets could not hold both."""
    for language, question in (("cn", "哪一个？"), ("en", "Which one?")):
        write_mmbench(tmp_path / f"mmbench_dev_{language}_20231003.tsv", [mmbench_row(1, "x", question=question)])
    assert load_vqa("mmbench", root=tmp_path)[0].question == "Which one?"
    assert load_vqa("mmbench", root=tmp_path / "mmbench_dev_cn_20231003.tsv")[0].question == "哪一个？"


def test_mmbench_parquet(tmp_path: Path) -> None:
    row = mmbench_row(3, "") | {"image": {"bytes": encoded(), "path": None}, "C": None, "D": None, "hint": None}
    write_parquet(tmp_path / "en" / "dev-00000-of-00001.parquet", [row])
    (sample,) = load_vqa("mmbench", root=tmp_path)
    assert sample.image == encoded() and sample.choices == ("cat", "dog") and sample.hint == ""


def write_parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def mmmu_row(name: str, **other) -> dict:
    row = {
        "id": name,
        "question": "What is shown in <image 1>?",
        "options": "['$6', \"it's $7\"]",
        "explanation": "",
        **{f"image_{n}": None for n in range(1, 8)},
        "img_type": "['Tables']",
        "answer": "B",
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": "Audit",
    }
    return row | {"image_1": {"bytes": encoded(), "path": "1.png"}} | other


def test_mmmu_parquet_by_subject(tmp_path: Path) -> None:
    second = {"bytes": encoded("blue", (10, 12)), "path": None}
    rows = [
        mmmu_row("validation_Art_Theory_1"),
        mmmu_row("validation_Art_Theory_2", image_2=second),
        mmmu_row("validation_Art_Theory_3", question_type="open", options="[]", answer="['12', 'twelve']"),
        mmmu_row("validation_Art_Theory_4", image_2={"bytes": b"broken", "path": None}),
    ]
    write_parquet(tmp_path / "mmmu" / "Art_Theory" / "validation-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "mmmu" / "Math" / "validation-00000-of-00001.parquet", [mmmu_row("validation_Math_1")])
    single, double, is_open, broken, other = load_vqa("mmmu", root=tmp_path)
    assert single.choices == ("$6", "it's $7") and single.answers == ("B",) and single.image == encoded()
    assert (
        single.category == "Art Theory" and other.category == "Math" and single.id.endswith("validation_Art_Theory_1")
    )
    assert is_open.answers == ("12", "twelve") and is_open.choices == ()
    assert broken.image == b"broken"
    assert isinstance(double.image, bytes)
    sheet = Image.open(io.BytesIO(double.image))
    assert sheet.size == (6 + 8 + 10, 12)
    assert [sheet.getpixel(at) for at in ((0, 0), (8, 0), (0, 11), (20, 11))] == [
        (255, 0, 0), (255, 255, 255), (255, 255, 255), (0, 0, 255),
    ]  # fmt: skip


def test_mmmu_marks_in_options_and_open_answers_that_look_like_lists(tmp_path: Path) -> None:
    rows = [
        mmmu_row("validation_Art_1", options="['<image 1>', '<image 2>']", image_2={"bytes": encoded(), "path": None}),
        mmmu_row("validation_Art_2", question_type="open", options="[]", answer="[0, 2)"),
        mmmu_row("validation_Art_3", question_type="open", options="[]", answer="['24/7', '3.429']"),
        mmmu_row("validation_Art_4", question_type="open", options="[]", answer="$8,000"),
    ]
    write_parquet(tmp_path / "Art" / "validation-00000-of-00001.parquet", rows)
    pictured, interval, several, plain = load_vqa("mmmu", root=tmp_path)
    assert pictured.choices == ("<image 1>", "<image 2>")
    assert isinstance(pictured.image, bytes) and Image.open(io.BytesIO(pictured.image)).size == (6, 4 + 8 + 4)
    # It begins like a list and is none: an interval.
    assert interval.answers == ("[0, 2)",) and several.answers == ("24/7", "3.429") and plain.answers == ("$8,000",)


def test_folders_may_be_spelled_as_the_hub_spells_them(tmp_path: Path) -> None:
    write_parquet(tmp_path / "MMMU" / "Art" / "validation-00000-of-00001.parquet", [mmmu_row("validation_Art_1")])
    row = textvqa_row(image={"bytes": encoded(), "path": None})
    write_parquet(tmp_path / "TextVQA" / "data" / "validation-00000-of-00003.parquet", [row])
    assert [s.dataset for name in ("mmmu", "textvqa") for s in load_vqa(name, root=tmp_path)] == ["mmmu", "textvqa"]


def test_many_pictures_make_a_sheet_that_a_long_side_cuts_least() -> None:
    seven = [encoded(color, (100, 80)) for color in ("red", "lime", "blue", "black", "cyan", "gray", "navy")]
    sheet = Image.open(io.BytesIO(on_one_sheet(seven) or b""))
    assert sheet.size == (3 * 100 + 2 * 8, 3 * 80 + 2 * 8)  # side by side they would be 748 px wide
    seen = [sheet.getpixel((108 * (i % 3) + 50, 88 * (i // 3) + 40)) for i in range(9)]
    assert seen[:3] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)] and seen[6] == (0, 0, 128)
    assert seen[7:] == [(255, 255, 255)] * 2


def test_mmmu_test_split_and_bad_options(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test-00000-of-00003.parquet", [mmmu_row("test_Math_1", answer="?")])
    assert load_vqa("mmmu", "test", root=tmp_path)[0].answers == ()
    write_parquet(tmp_path / "dev-00000-of-00001.parquet", [mmmu_row("dev_Math_1", options="['$6', ")])
    with pytest.raises(FoveateError, match="expected a list as text"):
        load_vqa("mmmu", "dev", root=tmp_path)
    (tmp_path / "validation-00000-of-00001.parquet").write_bytes(b"nonsense")
    with pytest.raises(FoveateError, match="not a readable parquet file"):
        load_vqa("mmmu", root=tmp_path)


def textvqa_row(**other) -> dict:
    row = {
        "image_id": "003a8ae2ef43b901",
        "question_id": 34602,
        "question": "what is the brand of this camera?",
        "question_tokens": ["what", "is"],
        "image_width": 1024,
        "image_height": 664,
        "flickr_original_url": "u",
        "flickr_300k_url": "u",
        "answers": ["nous les gosses", *["dakota"] * 9],
        "image_classes": ["Cassette deck"],
        "set_name": "val",
    }
    return row | other


def test_textvqa_json_and_folder(tmp_path: Path) -> None:
    document = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [textvqa_row()]}
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps(document))
    with pytest.raises(FoveateError, match=r"expected a folder with the pictures .train_images or"):
        load_vqa("textvqa", root=tmp_path)
    (tmp_path / "train_images").mkdir()
    (sample,) = load_vqa("textvqa", "val", root=tmp_path)
    assert sample.id == "textvqa/validation/34602" and len(sample.answers) == 10 and sample.split == "validation"
    assert sample.image == str(tmp_path / "train_images" / "003a8ae2ef43b901.jpg")
    document["data"] = [{"question": "?"}]
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps(document))
    with pytest.raises(FoveateError, match=r"column 'question_id' is missing; .* found question"):
        load_vqa("textvqa", root=tmp_path)
    (tmp_path / "TextVQA_0.5.1_val.json").write_text("[]")
    with pytest.raises(FoveateError, match="expected an object with the list `data`, found list"):
        load_vqa("textvqa", root=tmp_path)


def test_textvqa_among_the_files_that_are_published_with_it(tmp_path: Path) -> None:
    (tmp_path / "train_images").mkdir()
    (tmp_path / "test_images").mkdir()
    questions = {"val": textvqa_row(answers=["", *["nan"] * 9]), "test": textvqa_row(set_name="test")}
    del questions["test"]["answers"]
    for split, row in questions.items():
        ocr = {"image_id": row["image_id"], "ocr_tokens": ["DAKOTA"], "ocr_info": []}
        (tmp_path / f"TextVQA_0.5.1_{split}.json").write_text(json.dumps({"data": [row]}))
        (tmp_path / f"TextVQA_Rosetta_OCR_v0.2_{split}.json").write_text(json.dumps({"data": [ocr]}))
    (sample,) = load_vqa("textvqa", root=tmp_path)
    # Ten annotators stay ten, whatever they wrote: the accuracy counts on it.
    assert sample.question.endswith("camera?") and sample.answers == ("", *["nan"] * 9)
    (hidden,) = load_vqa("textvqa", "test", root=tmp_path)
    assert hidden.answers == () and str(hidden.image).startswith(str(tmp_path / "test_images"))


def test_textvqa_parquet(tmp_path: Path) -> None:
    row = textvqa_row(image={"bytes": encoded(), "path": None}, ocr_tokens=["dakota"])
    write_parquet(tmp_path / "data" / "validation-00000-of-00002.parquet", [row])
    write_parquet(tmp_path / "data" / "validation-00001-of-00002.parquet", [row | {"question_id": 2}])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [row | {"answers": [""] * 10}])
    assert [s.id for s in load_vqa("textvqa", root=tmp_path)] == ["textvqa/validation/34602", "textvqa/validation/2"]
    (hidden,) = load_vqa("textvqa", "test", root=tmp_path)
    assert hidden.answers == () and hidden.image == encoded()


def test_without_a_folder_the_hub_is_asked_and_a_failure_says_what_to_do(monkeypatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: dict = {}

    def fake(repo, **options):
        asked.update(options, repo=repo)
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    with pytest.raises(
        FoveateError, match=r"cannot be fetched from the hub \(MMMU/MMMU: no route to host\).*data\.root"
    ):
        load_vqa("mmmu")
    assert asked["repo_type"] == "dataset" and "validation-*.parquet" in asked["allow_patterns"]
    write_parquet(tmp_path / "Math" / "validation-00000-of-00001.parquet", [mmmu_row("validation_Math_1")])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert load_vqa("mmmu")[0].category == "Math"


def test_files_with_a_mark_of_their_encoding_and_breaks_inside_of_words(tmp_path: Path) -> None:
    questions = ("what\u2028is it?", "and\x85that?")
    rows = [{"question": question, "answer": "a"} for question in questions]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "mine.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert tuple(s.question for s in load_vqa(str(tmp_path / "mine.jsonl"))) == questions
    write_mmbench(tmp_path / "mmbench_dev.tsv", [mmbench_row(1, "x", question=questions[0])])
    (tmp_path / "mmbench_dev.tsv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "mmbench_dev.tsv").read_bytes())
    assert load_vqa("mmbench", root=tmp_path)[0].question == questions[0]


def test_mmbench_parquet_with_base64_and_another_hub_name_of_its_split(tmp_path: Path) -> None:
    """HuggingFaceM4's copy: `validation`, whose rows say `dev`, pictures as base64 and named by their row."""
    rows = [mmbench_row(7, base64.b64encode(encoded()).decode()), mmbench_row(1_000_007, "7", A="dog", B="cat")]
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", rows)
    samples = load_vqa("mmbench", root=tmp_path / "validation-00000-of-00001.parquet")
    assert [s.image for s in samples] == [encoded()] * 2 and samples[1].id == "mmbench/dev/1000007"


def tsv(tmp_path: Path, *rows: dict) -> list[VQASample]:
    write_mmbench(tmp_path / "mmbench_dev.tsv", [mmbench_row(i, PIXELS) | row for i, row in enumerate(rows, 1)])
    return load_vqa("mmbench", root=tmp_path / "mmbench_dev.tsv")


PIXELS = base64.b64encode(encoded()).decode()


@pytest.mark.parametrize("answer", ["B", "b", "(B)", " b) ", "B.", "[B]", "dog", "DOG", "(dog)", "Dog "])
def test_an_answer_is_a_letter_or_the_options_text(tmp_path: Path, answer: str) -> None:
    assert tsv(tmp_path, {"answer": answer})[0].answers == ("B",)
    write_parquet(tmp_path / "validation-0.parquet", [mmmu_row("v_Art_1", options="['cat', 'dog']", answer=answer)])
    assert load_vqa("mmmu", root=tmp_path / "validation-0.parquet")[0].answers == ("B",)
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "?", "choices": ["cat", "dog"], "answer": answer}))
    assert load_vqa(str(tmp_path / "q.jsonl"))[0].answers == ("B",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": "E"}, "line 3: the answer 'E' is neither a letter of AB nor one of cat, dog"),
        ({"answer": "2"}, "the answer '2' is neither"),
        ({"A": "x", "B": "", "C": "z", "answer": "B"}, "the answer 'B' is neither a letter of AC nor"),
        ({"A": "dog", "answer": "dog"}, "the answer 'dog' is the text of the options A and B"),
        ({"A": "red", "B": "", "answer": "A"}, "line 3: expected two options at least, got red"),
        ({"A": "", "B": "", "answer": "A"}, "the answer 'A' is neither"),
    ],
)
def test_an_answer_that_is_no_option_is_named_by_its_line(tmp_path: Path, row: dict, said: str) -> None:
    # The first question's own text has a break, so that the second row is line 4.
    with pytest.raises(FoveateError, match=said.replace("line 3", "line 4")):
        tsv(tmp_path, {}, row)
    assert len(tsv(tmp_path, {}, {"A": "b", "B": "a", "answer": "a"})) == 2


def test_nan_and_none_are_texts_in_a_table_and_no_option_at_the_end_of_the_hubs_rows(tmp_path: Path) -> None:
    (sample,) = tsv(tmp_path, {"A": "None", "B": "NA", "C": "null", "D": "nan", "answer": "D"})
    assert sample.choices == ("None", "NA", "null", "nan") and sample.answers == ("D",)
    assert tsv(tmp_path, {"A": "nan", "B": "0", "C": "x", "D": "nan", "answer": "A"})[0].choices[3] == "nan"
    rows = [
        mmbench_row(1, "") | {"image": {"bytes": encoded(), "path": None}, "C": c, "D": d, "answer": a}
        for c, d, a in (("nan", "nan", "B"), ("cow", "nan", "D"), ("nan", "owl", "C"))
    ]
    write_parquet(tmp_path / "dev-0.parquet", rows)
    hub = load_vqa("mmbench", root=tmp_path / "dev-0.parquet")
    assert [s.choices[2:] for s in hub] == [(), ("cow", "nan"), ("nan", "owl")]
    assert [s.answers for s in hub] == [("B",), ("D",), ("C",)]


HEAD = "index\tquestion\tA\tB\tanswer\timage\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('1\t"Stop\ta\tb\tA\tx\n2\tq\ta\tb\tA\tx\n', "line 2: .* a quote that opens a cell there is not closed"),
        ('1\tq\ta\tb\tA\tx\n2\t"Stop\ta\tb\tA\tx\n3\t"go" is?\ta\tb\tA\tx\n', "line 3: .* is not closed"),
        ('1\tq\ta\tb\tA\tx\n2\t"Stop\ta\tb\tA\tx\n3\t5"\ta\tb\tA\tx\n', "line 3: column 'question' holds another row"),
        ("1\tq\ta\tb\tA\tx\n2\tq\ta\tb\n", "line 3: expected 6 cells, as in the first line, got 4; .*cut off"),
        ("1\tq\tq\ta\tb\tA\tx\n", "line 2: expected 6 cells, as in the first line, got 7; a cell holds a tab"),
        ('1\t"q\tq\ta\tb"\tA\tx\n', "line 2: expected 6 cells, as in the first line, got 4"),
    ],
)
def test_a_damaged_row_of_a_table_is_named_by_its_line(tmp_path: Path, lines: str, said: str) -> None:
    (tmp_path / "mmbench_dev.tsv").write_text(HEAD + lines)
    with pytest.raises(FoveateError, match=said):
        load_vqa("mmbench", root=tmp_path)


def test_quotes_inside_of_cells_and_empty_lines_are_no_damage(tmp_path: Path) -> None:
    rows = ('7\t"a\tb\nc\td"\ta\tb\tA\t1', f'1\tsay "go"\ta\t5"\tA\t{PIXELS}', "", '2\t"a ""b"""\ta\tb\tA\t1')
    (tmp_path / "mmbench_dev.tsv").write_text(HEAD + "\n".join(rows) + "\n")
    table, first, second = load_vqa("mmbench", root=tmp_path)
    assert table.question == "a\tb\nc\td"
    assert (first.question, first.choices, second.question) == ('say "go"', ("a", '5"'), 'a "b"')


def test_base64_as_people_write_it(tmp_path: Path) -> None:
    content = encoded(size=(40, 30)) + b"\xfb\xff\xfe"  # with + and / in it
    plain = base64.b64encode(content).decode()
    forms = (
        plain,
        plain + " ",
        base64.encodebytes(content).decode(),
        "\r\n".join(plain[i : i + 76] for i in range(0, len(plain), 76)),
        plain.rstrip("="),
        base64.urlsafe_b64encode(content).decode(),
        "data:image/png;base64," + plain,
        " ".join(plain[i : i + 50] for i in range(0, len(plain), 50)),
    )
    assert [s.image for s in tsv(tmp_path, *({"image": form} for form in forms))] == [content] * len(forms)
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"question": "?", "image": f}) + "\n" for f in forms))
    assert [s.image for s in load_vqa(str(tmp_path / "q.jsonl"))] == [content] * len(forms)


def test_a_reference_to_a_row_that_is_not_there_is_a_broken_picture(tmp_path: Path) -> None:
    rows = ({}, {"image": "1"}, {"image": "2.0"}, {"image": "77"}, {"image": "5"}, {"image": ""})
    samples = tsv(tmp_path, *rows)
    assert [s.image for s in samples[:3]] == [encoded()] * 3  # the row named may name another
    assert samples[3].image == "row 77 of mmbench_dev.tsv, which is not there"
    assert samples[4].image == "row 5 of mmbench_dev.tsv, which names itself" and samples[5].image is None
    with pytest.raises(ImageError, match=r"sample mmbench/dev/4: .*row 77 of mmbench_dev.tsv, which is not there"):
        decode(samples[3])


def test_a_picture_by_its_path_is_read_and_one_that_is_not_understood_is_broken(tmp_path: Path) -> None:
    """`{bytes: null, path}` is what the hub's library writes for a picture that it does not embed."""
    (tmp_path / "blue.png").write_bytes(encoded("blue"))
    by_path = {"bytes": None, "path": str(tmp_path / "blue.png")}
    rows = [
        mmmu_row("v_Art_1", image_1=by_path),
        mmmu_row("v_Art_2", image_1={"bytes": None, "path": "blue.png"}),
        mmmu_row("v_Art_3", image_2=by_path),
        mmmu_row("v_Art_4", image_2={"bytes": encoded("blue"), "path": None}),
        mmmu_row("v_Art_5", image_1={"bytes": None, "path": "nowhere.png"}),
        mmmu_row("v_Art_6", image_1={"bytes": b"", "path": None}),
        mmmu_row("v_Art_7", question="What do <image 1> and <image 2> show?"),
        mmmu_row("v_Art_8", question="What is it?", image_1={"bytes": None, "path": None}),
    ]
    write_parquet(tmp_path / "validation-0.parquet", rows)
    samples = load_vqa("mmmu", root=tmp_path / "validation-0.parquet")
    assert decode(samples[0]).getpixel((0, 0)) == decode(samples[1]).getpixel((0, 0)) == (0, 0, 255)
    assert samples[2].image == samples[3].image and decode(samples[2]).size == (6, 4 + 8 + 4)
    for broken, said in zip(
        samples[4:7], ("no such file", "no known picture format", "image_2 of .*, row 7"), strict=True
    ):
        with pytest.raises(ImageError, match=said):
            decode(broken)
    assert samples[7].image is None


def test_a_sheet_shows_pictures_as_a_viewer_does(tmp_path: Path) -> None:
    clear, deep = io.BytesIO(), io.BytesIO()
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(clear, "PNG")
    Image.fromarray(np.full((10, 10), 40000, np.uint16)).save(deep, "PNG")
    sheet = on_one_sheet([clear.getvalue(), deep.getvalue()])
    assert isinstance(sheet, bytes)
    seen = read_picture(sheet)
    assert seen[2, 2].tolist() == [255] * 3 and seen[-2, -2].tolist() == [40000 >> 8] * 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("['red' 'blue']", "options: expected a list as text"),
        ("['red'\n 'blue']", "options: expected a list as text"),
        ("['red', 'light' 'blue']", "options: expected a list as text"),
        ("array(['red', 'blue'], dtype=object)", "options: expected a list as text"),
        ("['red', None]", "options: expected a list as text"),
        ("['red']", "options: expected two at least"),
        ("[]", "options: expected two at least"),
    ],
)
def test_options_that_are_no_list_of_texts_are_refused(tmp_path: Path, options: str, said: str) -> None:
    write_parquet(tmp_path / "validation-0.parquet", [mmmu_row("v_Art_1", options=options, answer="A")])
    with pytest.raises(FoveateError, match=rf"row 1: {said}"):
        load_vqa("mmmu", root=tmp_path / "validation-0.parquet")


def test_options_and_answers_as_lists(tmp_path: Path) -> None:
    rows = [
        mmmu_row("v_Art_1", options=r"['$\frac{1}{2}$', '$\theta$', 'it\'s']", answer="A"),
        mmmu_row("v_Art_2", options=repr(["$\\frac{1}{2}$", "a\nb"]), answer="A"),
        mmmu_row("v_Art_3", options='["it\'s", "\\u00e9"]', answer="['A', 'b']"),
        mmmu_row("v_Art_4", question_type="Open-ended", options="[]", answer="3.5"),
    ]
    write_parquet(tmp_path / "validation-0.parquet", rows)
    raw, written, several, is_open = load_vqa("mmmu", root=tmp_path / "validation-0.parquet")
    assert raw.choices == (r"$\frac{1}{2}$", r"$\theta$", "it's") and written.choices == (r"$\frac{1}{2}$", "a\nb")
    assert several.choices == ("it's", "é") and several.answers == ("A", "B") and is_open.choices == ()


def test_textvqa_answers_as_objects_and_pictures_of_any_kind(tmp_path: Path) -> None:
    folder = tmp_path / "train_images"
    folder.mkdir()
    names = ("a.jpg", "b.JPG", "c.jpeg", "d.png", "e.webp")
    for name in names:
        (folder / name).write_bytes(encoded())
    said = [{"answer": "nokia", "answer_confidence": "yes", "answer_id": i} for i in range(10)]
    rows = [textvqa_row(image_id=name[0], answers=said) for name in names] + [textvqa_row(image_id="f")]
    (tmp_path / "TextVQA_0.5.1_val.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"data": rows}).encode())
    samples = load_vqa("textvqa", root=tmp_path)
    assert [s.image for s in samples] == [str(folder / name) for name in (*names, "f.jpg")]
    assert samples[0].answers == ("nokia",) * 10
    for answers, problem in (("['nokia']", "expected a list of texts"), ([["nokia"]], "expected texts, or objects")):
        (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [rows[0], textvqa_row(answers=answers)]}))
        with pytest.raises(FoveateError, match=rf"data\[1\]: answers: {problem}"):
            load_vqa("textvqa", root=tmp_path)


def test_no_picture() -> None:
    for empty in (None, " ", "", float("nan"), {"bytes": None, "path": None}, []):
        assert files.picture(empty, Path()) is None
