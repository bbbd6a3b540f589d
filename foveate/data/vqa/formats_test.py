"""Published question sets, read from small files in exactly their format."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from foveate.data.vqa import files
from foveate.data.vqa.load import load_vqa
from foveate.data.vqa.mmmu import on_one_sheet
from foveate.errors import FoveateError
from foveate.types import VQASample

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


def test_no_picture() -> None:
    assert files.picture(None) is None and files.picture(" ") is None
