"""Training questions without leaks: what goes where, and what is found when something does leak."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from foveate.cli.main import main
from foveate.data.vqa.leakage import check_leakage, find_leakage, image_hash, leak_warnings, question_hash
from foveate.data.vqa.load import load_vqa
from foveate.data.vqa.mixed import generate
from foveate.data.vqa.train import VqaTrainConfig, build
from foveate.errors import FoveateError
from foveate.types import VQASample


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MMBench dev with 40 pictures in two rotations each; TextVQA train and validation with one picture in common."""
    folder = tmp_path / "published"
    (folder / "mmbench").mkdir(parents=True)
    columns = ("index", "question", "hint", "A", "B", "answer", "category", "image", "split")
    with (folder / "mmbench" / "mmbench_dev_en.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(columns)
        for n in range(40):
            text = base64.b64encode(encoded(n)).decode()
            writer.writerow((n, f"what {n}?", "", "x", "y", "A", "c", text, "dev"))
            writer.writerow((1_000_000 + n, f"what {n}?", "", "y", "x", "B", "c", str(n), "dev"))
    for split, pictures in (("train", (100, 101, 102)), ("validation", (102, 103))):
        rows = [
            {
                "image_id": f"{split}{n}",
                "question_id": n,
                "question": f"{split} {n}?",
                "answers": ["a"] * 10,
                "image": {"bytes": encoded(n), "path": None},
            }
            for n in pictures
        ]
        path = folder / "textvqa" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    return folder


def test_command_shares_pictures_out_and_leaves_known_ones_out(root: Path, tmp_path: Path, capsys) -> None:
    llava = [{"id": "l1", "image": "coco/1.jpg", "conversations": [
        {"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a cat"},
    ]}]  # fmt: skip
    (tmp_path / "llava.json").write_text(json.dumps(llava))
    (tmp_path / "pictures" / "coco").mkdir(parents=True)
    (tmp_path / "pictures" / "coco" / "1.jpg").write_bytes(encoded(200))
    argv = ["data", "vqa-train", "--root", str(root), "--against", "textvqa:validation", "--out", str(tmp_path / "out")]
    argv += ["--llava", str(tmp_path / "llava.json"), "--llava_images", str(tmp_path / "pictures")]
    assert main(argv) == 0
    assert "known picture" in capsys.readouterr().out

    train, held = (load_vqa(str(tmp_path / "out" / f"{part}.jsonl")) for part in ("train", "eval"))
    assert {s.dataset for s in train} == {"mmbench", "textvqa", "llava"} and {s.dataset for s in held} == {"mmbench"}
    assert len(train) + len(held) == 80 + 2 + 1 and 20 <= len(held) <= 60
    assert not {image_hash(s) for s in train} & {image_hash(s) for s in held}
    # Both rotations of a question are on the same side.
    assert all(sum(s.question == other.question for other in held) == 2 for s in held)
    llava_line = next(s for s in train if s.dataset == "llava")
    assert image_hash(llava_line) and llava_line.answers == ("a cat",)
    validation = load_vqa("textvqa", root=root)
    assert check_leakage(tmp_path / "out" / "train.jsonl", validation).same_image == ()
    assert leak_warnings([str(tmp_path / "out" / "train.jsonl")], {"textvqa": validation, "held": held}) == []
    (warning,) = leak_warnings([str(tmp_path / "out" / "train.jsonl")], {"all of dev": load_vqa("mmbench", root=root)})
    assert warning.startswith("all of dev leaks into") and "of 80 questions" in warning
    assert leak_warnings(["mixed", None], {"x": held}) == []
    (unknown,) = leak_warnings(["gone.jsonl", "gone.jsonl"], {"x": held})
    assert "was not checked: gone.jsonl is not there" in unknown
    first = next(s for s in train if s.dataset == "mmbench")
    assert first.answers in (("A",), ("B",)) and first.choices in (("x", "y"), ("y", "x")) and first.split == "dev"
    about = json.loads((tmp_path / "out" / "data.json").read_text())
    assert about["counts"]["textvqa:train"] == {"train": 2, "known picture": 1}
    assert about["leakage"]["eval.jsonl"]["same_image"] == 0 and len(about["train_sha256"]) == 16
    assert (tmp_path / "out" / "config.yaml").exists()

    before = (tmp_path / "out" / "train.jsonl").read_bytes()
    assert main(argv) == 0
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == before


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """Three questions in LLaVA's form, in a folder beside that of their pictures."""
    turns = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a cat"}]
    path = tmp_path / "llava" / "instruct.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{"id": f"l{n}", "image": f"{n}.jpg", "conversations": turns} for n in range(3)]))
    (tmp_path / "coco").mkdir()
    for n in range(3):
        (tmp_path / "coco" / f"{n}.jpg").write_bytes(encoded(200 + n))
    return path


def test_a_wrong_folder_of_pictures_is_an_error_that_names_it_and_writes_nothing(
    root: Path, llava: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    argv = ["data", "vqa-train", "--root", str(root), "--against", "textvqa:validation", "--out", str(out)]
    assert main([*argv, "--llava", str(llava)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "llava: no picture of 3 is there, the first:" in told and "--llava_images" in told
    assert str(llava.parent / "0.jpg") in told and not out.exists()

    (tmp_path / "coco" / "1.jpg").unlink()
    assert main([*argv, "--llava", str(llava), "--llava_images", str(tmp_path / "coco")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    missing = tmp_path / "coco" / "1.jpg"
    assert f"warning: llava: 1 picture missing, their questions are left out; the first: {missing}" in told
    about = json.loads((out / "data.json").read_text())
    assert about["counts"]["llava"] == {"train": 2, "missing picture": 1}


def test_pictures_that_training_must_not_know_have_to_be_there(tmp_path: Path) -> None:
    """Otherwise no leak of theirs could be found."""
    (tmp_path / "1.png").write_bytes(encoded(1))
    for name, pictures in (("mine", ("1.png",)), ("other", ("2.png", "3.png")), ("half", ("2.png", "1.png"))):
        lines = [{"image": image, "question": f"{image}?", "answer": "a"} for image in pictures]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    mine, other = str(tmp_path / "mine.jsonl"), str(tmp_path / "other.jsonl")
    config = VqaTrainConfig(out=str(tmp_path / "out"), sets=(mine,), eval_sets=(), against=(other,))
    with pytest.raises(FoveateError, match=r"other\.jsonl: no picture of 2 is there, the first: .*2\.png"):
        build(config, lambda samples, _: samples)
    half = str(tmp_path / "half.jsonl")
    lines = [{"image": "1.png", "question": "?", "answer": "a"}, {"question": "without one?", "answer": "a"}]
    Path(mine).write_text("\n".join(map(json.dumps, lines)))
    about = build(dataclasses.replace(config, against=(half,)), lambda samples, _: samples)
    assert about["counts"][mine] == {"known picture": 1, "train": 1}
    assert about["missing"] == {half: {"pictures": 1, "first": str(tmp_path / "2.png")}}


def test_leaks_are_found_by_picture_and_by_wording() -> None:
    def sample(name: str, question: str, image: bytes | None, **other) -> VQASample:
        return VQASample(name, "x", question, ("a",), image, **other)

    training = [sample("t1", "What  is it?", b"one"), sample("t2", "no picture?", None)]
    asked = [
        sample("both", "what is it?", b"one"),
        sample("picture", "and this?", b"one"),
        sample("wording", "what is it?", b"two"),
        sample("blind", "No picture?", None),
        sample("other", "what is it?", b"two", hint="with a hint"),
    ]
    leak = find_leakage(training, asked)
    assert leak.same_image == ("both", "picture") and leak.same_both == ("both", "blind")
    assert leak.same_wording == ("both", "wording", "blind") and "of 5 questions" in str(leak)
    rotated = [sample("r", "q", None, choices=c) for c in (("x", "y"), ("y", "x"))]
    assert question_hash(rotated[0]) == question_hash(rotated[1])


def test_questions_whose_picture_cannot_be_decoded_are_counted_and_left_out(tmp_path: Path) -> None:
    whole = encoded(7)
    pictures = {"whole.png": whole, "cut.png": whole[: len(whole) // 2], "none.png": b"no picture"}
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)
    lines = [{"image": name, "question": f"{name}?", "answer": "a"} for name in (*pictures, "gone.png")]
    lines += [{"question": "without one?", "answer": "a"}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = VqaTrainConfig(out=str(tmp_path / "out"), sets=(str(tmp_path / "mine.jsonl"),), eval_sets=(), against=())
    about = build(config, lambda samples, _: samples)
    assert about["counts"][config.sets[0]] == {"train": 2, "broken picture": 2, "missing picture": 1}
    assert about["missing"] == {config.sets[0]: {"pictures": 1, "first": str(tmp_path / "gone.png")}}
    assert [s.question for s in load_vqa(str(tmp_path / "out" / "train.jsonl"))] == ["whole.png?", "without one?"]


def test_nothing_left_is_said_in_words_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "known.png").write_bytes(encoded(1))
    lines: list[dict] = [{"image": "known.png", "question": f"{n}?", "answer": "a"} for n in range(2)]
    lines += [{"question": "without an answer?"}, {"image": "gone.png", "question": "?", "answer": "a"}]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    known = tmp_path / "known.jsonl"
    known.write_text(json.dumps(lines[0]))
    config = VqaTrainConfig(out=str(tmp_path / "out"), sets=(str(path),), eval_sets=(), against=(str(known),))
    with pytest.raises(FoveateError) as caught:
        build(config, lambda samples, _: samples)
    assert str(caught.value) == (
        f"no question is left to train on ({path}: 1 without an answer, 2 with a picture that training must not know, "
        "1 with a picture that is not there); name other --sets"
    )
    assert not (tmp_path / "out").exists()


def test_near_misses_of_a_leak(tmp_path: Path) -> None:
    """What is told apart, and what is not: one byte of a picture, a path, an order of options, a missing file."""
    picture, other = encoded(1), encoded(1)[:-1] + b"x"
    (tmp_path / "train.png").write_bytes(picture)
    (tmp_path / "eval copy.png").write_bytes(picture)
    rows = [
        {"image": "train.png", "question": "Which  ONE?", "choices": ["x", "y"], "answer": "A"},
        {"question": "no picture at all?", "answer": "yes"},
        {"image": "gone.png", "question": "of a missing file?", "answer": "yes"},
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    asked = [
        VQASample("copied", "x", "which one?", ("B",), str(tmp_path / "eval copy.png"), ("y", "x")),
        VQASample("one byte", "x", "which one?", ("A",), other, ("x", "y")),
        VQASample("other options", "x", "which one?", ("A",), other, ("x", "z")),
        VQASample("also missing", "x", "what?", ("a",), str(tmp_path / "gone too.png")),
    ]
    leak = check_leakage(path, asked)
    assert leak.same_image == leak.same_both == ("copied",) and leak.same_wording == ("copied", "one byte")
    # A question without a picture leaks by its words alone.
    blind = [VQASample("blind", "x", "No picture at all?", ("yes",), None)]
    assert leak_warnings([str(path)], {"blind": blind})[0].startswith("blind leaks into")
    assert leak_warnings([str(path)], {"new": [VQASample("new", "x", "another?", ("yes",), None)]}) == []


def test_a_build_that_was_killed_goes_on_to_the_same_files(root: Path, tmp_path: Path) -> None:
    def config(name: str) -> VqaTrainConfig:
        return VqaTrainConfig(out=str(tmp_path / name), root=str(root), against=("textvqa:validation",))

    def killed(samples, name):
        for number, sample in enumerate(samples):
            if (name, number) == ("mmbench:dev", 30):
                raise KeyboardInterrupt
            yield sample

    with pytest.raises(KeyboardInterrupt):
        build(config("killed"), killed)
    pictures = list((tmp_path / "killed" / "images").iterdir())
    assert pictures and not (tmp_path / "killed" / "train.jsonl").exists()
    # What was written is kept, and a picture that was cut off in the middle is written again.
    (tmp_path / "killed" / "images" / f".{pictures[0].name}.draft").write_bytes(b"half")
    pictures[0].unlink()
    written = {p.name: p.stat().st_mtime_ns for p in pictures[1:]}
    build(config("killed"), lambda samples, _: samples)
    build(config("whole"), lambda samples, _: samples)
    folder = tmp_path / "killed" / "images"
    assert {name: (folder / name).stat().st_mtime_ns for name in written} == written
    for part in ("train.jsonl", "eval.jsonl", *(f"images/{p.name}" for p in (tmp_path / "whole" / "images").iterdir())):
        assert (tmp_path / "killed" / part).read_bytes() == (tmp_path / "whole" / part).read_bytes()
    assert len(list(folder.iterdir())) == len(list((tmp_path / "whole" / "images").iterdir()))


def test_the_mixed_set_does_not_leak() -> None:
    leak = find_leakage(generate("train", 400), generate("test", 200))
    assert leak.same_image == () and len(leak.same_wording) > 0


def test_contradictions_are_told() -> None:
    with pytest.raises(FoveateError, match="'mmmu' is not among the sets"):
        VqaTrainConfig(eval_sets=("mmmu",))
    with pytest.raises(FoveateError, match="expected a share"):
        VqaTrainConfig(eval_share=1.0)
