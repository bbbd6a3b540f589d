"""Questions in a file of the user's own: what is read, and what is refused."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from foveate.data.vqa.load import load_vqa
from foveate.errors import FoveateError
from foveate.types import VQASample


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_jsonl_of_the_user(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    rows = [
        {"image": "a.png", "question": "what brand?", "answer": "nokia", "category": "text", "split": "test"},
        {"image": uri, "question": "which?", "choices": ["red", "blue"], "answer": "blue", "hint": "h", "id": "q7"},
        {"question": "which?", "choices": {"A": "x", "B": "y"}, "answers": ["A"]},
        {
            "image": None,
            "conversations": [
                {"from": "human", "value": "<image>\nwhat is it?"},
                {"from": "gpt", "value": "a cat"},
                {"from": "human", "value": "sure?"},
            ],
        },
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second, third, talk = load_vqa(str(path))
    assert first == VQASample(
        "mine/1", "mine", "what brand?", ("nokia",), str(tmp_path / "a.png"), category="text", split="test"
    )
    assert second.image == png() and second.answers == ("B",) and second.id == "q7" and second.hint == "h"
    assert third.choices == ("x", "y") and third.answers == ("A",) and third.image is None
    assert talk.question == "what is it?" and talk.answers == ("a cat",)
    assert load_vqa(str(path), split="test") == [first]
    with pytest.raises(FoveateError, match="expected lines of split 'dev', found test"):
        load_vqa(str(path), split="dev")
    path.with_suffix(".json").write_text(json.dumps(rows))
    assert len(load_vqa(str(path.with_suffix(".json")), max_samples=2)) == 2
    path.write_text(json.dumps({"question": "?", "choices": {"B": 2, "A": 1}, "answer": 2, "id": None}))
    (numbers,) = load_vqa(str(path))
    assert numbers.choices == ("1", "2") and numbers.answers == ("B",) and numbers.id == "mine/1"
    with pytest.raises(FoveateError, match="split 'trian' is asked for, but no line has a field 'split'"):
        load_vqa(str(path), split="trian")


def test_jsonl_of_llava_names_a_picture_more_than_once(tmp_path: Path) -> None:
    """`id` is the picture's there, and several conversations are about one; questions must differ by id."""
    turns = [{"from": "human", "value": "what is it?\n<image>"}, {"from": "gpt", "value": "a cat"}]
    rows = [{"id": "000000033471", "image": "1.jpg", "conversations": turns} for _ in range(2)]
    rows += [{"question": "<image>\nwhat brand?", "answers": None, "answer": "nokia"}]
    path = tmp_path / "llava.json"
    path.write_text(json.dumps(rows))
    first, second, plain = load_vqa(str(path))
    assert (first.id, second.id) == ("000000033471", "000000033471/2") and first.question == "what is it?"
    # The mark of a picture is the template's matter; a model whose own mark it is would see two pictures.
    assert plain.question == "what brand?" and plain.answers == ("nokia",)


def test_jsonl_keeps_ten_annotators_of_whom_some_wrote_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"question": "?", "answers": ["", *["nokia"] * 9]}, {"question": "?", "answer": " "}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [len(sample.answers) for sample in load_vqa(str(path))] == [10, 0]


def test_each_answered_turn_of_a_conversation_is_a_question(tmp_path: Path) -> None:
    turns = [("gpt", "(cut off)"), ("human", "<image>\nwhat is it?"), ("gpt", "a cat")]
    turns += [("human", "what colour?"), ("gpt", "black"), ("human", "sure?")]
    rows = [{"id": "7", "image": "a.png", "conversations": [{"from": who, "value": said} for who, said in turns]}]
    (tmp_path / "llava.json").write_text(json.dumps(rows * 2))
    samples = load_vqa(str(tmp_path / "llava.json"))
    assert [s.id for s in samples] == ["7", "7#2", "7/2", "7#2/2"]
    assert [(s.question, s.answers) for s in samples[:2]] == [("what is it?", ("a cat",)), ("what colour?", ("black",))]
    assert {s.image for s in samples} == {str(tmp_path / "a.png")}
    rows[0]["conversations"].insert(3, {"from": "gpt", "value": "again"})
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    with pytest.raises(FoveateError, match="line 1: expected conversations as"):
        load_vqa(str(tmp_path / "llava.json"))


def test_marks_of_encoding_of_files_put_together_and_nan_of_pandas(tmp_path: Path) -> None:
    lines = [
        b'{"question": "one?", "answer": "nan", "hint": NaN, "image": NaN}',
        b'{"question": "two?", "answer": NaN}',
    ]
    (tmp_path / "mine.jsonl").write_bytes(b"\n".join(b"\xef\xbb\xbf" + line for line in lines))
    one, two = load_vqa(str(tmp_path / "mine.jsonl"))
    assert (one.question, one.answers, one.hint, one.image) == ("one?", ("nan",), "", None)
    assert (two.question, two.answers) == ("two?", ())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: expected one JSON object, got '{'"),
        ("3", "line 1: expected a JSON object, got a int"),
        ('{"query": "?"}', "line 1: field 'question' is missing; expected question, image, .* found query"),
        ('{"question": "<image> "}', "field 'question' is missing"),
        ('{"question": "?", "choices": ["x"], "answer": "z"}', "the answer 'z' is neither a letter of A nor one of x"),
        ('{"question": "?", "conversations": [{}]}', "expected conversations as"),
        (
            '{"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": 3}]}',
            "expected conversations as",
        ),
        ('{"question": ["?"]}', r"field 'question': expected text, got \["),
        ('{"question": "?", "choices": "red,green", "answer": "A"}', r"expected a list of options .*, got 'red,green'"),
        ('{"question": "?", "choices": ["red", null]}', r"expected a list of options .*, got \["),
        ('{"question": "?", "choices": [{"A": "red"}]}', r"expected a list of options .*, got {"),
        ('{"question": "?", "choices": {"A": "red", "C": "blue"}}', "expected the letters A, B, ..., got A, C"),
        ('{"question": "?", "answers": {"a": 1}}', "field 'answers': expected text or a list of texts, got {"),
        (
            '{"question": "?", "answers": [{"answer": "net"}]}',
            "field 'answers': expected text or a list of texts, got {",
        ),
        ('{"question": "?", "answers": ["net", null]}', r"expected text or a list of texts, got \["),
        ('{"question": "?", "answer": true}', "field 'answer': expected text or a list of texts, got true"),
        ('{"question": "?", "hint": ["look"]}', "field 'hint': expected text"),
        ('{"question": "?", "image": 7}', "field 'image': expected one path or data:image/...;base64,..., got 7"),
        ('{"question": "?", "image": ["a.png", "b.png"]}', "field 'image': expected one path"),
        ('{"question": "?", "choices": ["red"], "answer": "A"}', "line 1: expected two options at least, got red"),
        ('{"question": "?", "choices": ["red", "", ""]}', "line 1: expected two options at least, got red"),
        ('{"question": "?", "choices": ["red", "blue"], "answer": "C"}', "neither a letter of AB nor one of red, blue"),
        ('{"question": "?", "choices": ["red", NaN]}', "field 'choices': expected a list of options"),
        ("", "it holds no question"),
    ],
)
def test_jsonl_says_which_line_is_wrong(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(FoveateError, match=said):
        load_vqa(str(path))


def test_a_missing_jsonl_is_named(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match=r"nothing\.jsonl: cannot be read"):
        load_vqa(str(tmp_path / "nothing.jsonl"))
