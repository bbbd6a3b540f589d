"""The verbs of `foveate trace`, called as users call them."""

from __future__ import annotations

import pytest

from foveate.cli.main import main
from foveate.testing.runs import write_run
from foveate.tracing.store import dump_paths


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs/try", tasks=("reach",), episodes=1, queries=3, side=(48, 64))


@pytest.mark.parametrize(
    "words", [["--exp_dir", "runs/try"], ["--run-root=runs/try"], ["--exp-name", "try"], ["runs/try"]]
)
def test_a_run_is_named_as_users_do(run, words):
    assert main(["trace", "tokens", *words]) == 0
    for name in ("tokens.jsonl", "tokens_summary.json", "capabilities.json"):
        assert (run / "report" / name).exists()


def test_plot_and_report(run, capsys):
    assert main(["trace", "plot", "--exp_dir", "runs/try", "--limit", "2"]) == 0
    assert len(list((run / "plots/score_heatmap").glob("*.png"))) == 4
    assert "1 inference left out" in capsys.readouterr().out
    assert main(["trace", "report", "--run_root", "runs/try", "--compare", "runs/try", "--out", "both"]) == 0
    assert (run.parent.parent / "both/index.html").exists()
    assert main(["trace", "report", "--exp_name", "try"]) == 0
    assert (run / "report/index.html").exists()


def test_a_damaged_dump_is_named_and_the_status_says_so(run, capsys):
    dump_paths(run)[1].write_bytes(b"")
    for verb in ("plot", "tokens", "report"):
        assert main(["trace", verb, "runs/try"]) == 3
        out = capsys.readouterr().out
        assert "damaged:" in out and "step00005.pt" in out
    assert len((run / "report/tokens.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokens"], "which run?"),
        (["plot", "--exp_name", "trie"], "no such run folder"),
        (["plot", "runs/try", "--limit", "0"], "--limit: expected at least 1"),
        (["report", "runs/try", "--compare", "runs/none"], "no such run folder"),
    ],
)
def test_mistakes_are_one_sentence(run, capsys, words, said):
    assert main(["trace", *words]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_damaged_picture_is_named_by_the_report_as_by_the_plots(run, capsys):
    picture = sorted((run / "images").rglob("*.png"))[3]
    picture.write_bytes(picture.read_bytes()[:200])
    for verb in ("plot", "report"):
        assert main(["trace", verb, "runs/try"]) == 3
        assert f"{picture.name}: not a readable picture" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["plot", "tokens", "report"])
def test_a_folder_whose_dumps_are_all_damaged_is_an_error(run, capsys, verb):
    for path in dump_paths(run):
        path.write_bytes(b"x")
    assert main(["trace", verb, "runs/try"]) == 1
    assert "no dump of 3 can be used" in capsys.readouterr().err


def test_pictures_are_checked_before_they_are_decoded(run, capsys):
    from PIL import Image

    pictures = sorted((run / "images").rglob("*.png"))
    Image.new("L", (13000, 13000)).save(pictures[0])
    Image.new("L", (1, 1)).save(pictures[2])
    for verb in ("plot", "report"):
        assert main(["trace", verb, "runs/try"]) == 3
        out = capsys.readouterr().out
        assert "13000x13000 pixels; a picture of a dump has 50000000 at most" in out
        assert "1x1 pixels, where its dump says 64x48" in out


def test_names_are_no_markup(run, capsys):
    odd = run.with_name("run[red]y[")
    odd.mkdir()
    run.rename(odd / "b]z")
    for verb in ("plot", "tokens", "report"):
        assert main(["trace", verb, str(odd / "b]z")]) == 0
        assert "run[red]y[/b]z" in capsys.readouterr().out
