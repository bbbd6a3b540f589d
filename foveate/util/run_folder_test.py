from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from foveate.errors import FoveateError
from foveate.util import run_folder
from foveate.util.run_folder import check_same_config, differing_options, same_study, to_dict, write_run_files


@dataclass(frozen=True)
class Sharp:
    keep_ratio: float = 0.5


@dataclass(frozen=True)
class Blind:
    pass


@dataclass(frozen=True)
class Run:
    policy: str
    layers: tuple[int, ...] = ()
    pruner: Sharp | Blind | None = None
    out: Path = Path("runs")
    workers: int = 1


def test_a_choice_carries_its_name() -> None:
    plain = {"policy": "π", "layers": [3], "pruner": {"name": "sharp", "keep_ratio": 0.5}, "out": "runs", "workers": 1}
    assert to_dict(Run("π", (3,), Sharp())) == plain
    assert to_dict({1: (Blind(), None)}) == {"1": [{}, None]}


def test_a_run_goes_on_with_the_options_it_began_with(tmp_path: Path) -> None:
    assert differing_options(tmp_path, Run("π")) == {}
    write_run_files(tmp_path, Run("π", pruner=Sharp()), seed=1)
    check_same_config(tmp_path, Run("π", pruner=Sharp(), workers=2), may_change=("workers",))
    assert differing_options(tmp_path, Run("π", pruner=Sharp(0.25))) == {"pruner.keep_ratio": (0.5, 0.25)}
    with pytest.raises(FoveateError, match=r"another configuration \(pruner\.keep_ratio: 0\.5 there, 0\.25 now\)"):
        check_same_config(tmp_path, Run("π", pruner=Sharp(0.25), workers=2), may_change=("workers",))


def test_a_study_goes_on_with_what_it_began_with_and_takes_no_other_runs_folder(tmp_path: Path) -> None:
    out, now = tmp_path / "study", {"episodes": "six"}
    for _ in range(2):
        same_study(out, Run("π"), now, ("workers",), "fit")
        write_run_files(out, Run("π"), seed=1)
    with pytest.raises(FoveateError, match=r"holds the fit of another episode \(six, now seven\)"):
        same_study(out, Run("π"), {"episodes": "seven"}, ("workers",), "fit")
    write_run_files(tmp_path / "simulated", Run("π"), seed=1)
    with pytest.raises(FoveateError, match=r"run of another kind \(config\.yaml, run\.json\)"):
        same_study(tmp_path / "simulated", Run("π"), now, (), "fit")


@dataclass(frozen=True)
class SharpSince(Sharp):
    """Has an option that older runs do not know."""

    steps: int = 3


@dataclass(frozen=True, kw_only=True)
class Later:
    """A `Run` of a later version."""

    policy: str
    pruner: SharpSince | Blind | None = None
    chunking: str = "queue"
    trials: int | None = None
    told: str

    def __post_init__(self) -> None:
        if self.chunking == "queue" and self.told == "aloud":
            raise FoveateError("not aloud")
        object.__setattr__(self, "trials", self.trials or 10)


def test_an_option_newer_than_the_folder_had_its_default(tmp_path: Path) -> None:
    def differing(recorded: dict, now: Later) -> dict:
        (tmp_path / "config.yaml").write_text(json.dumps(recorded))
        return differing_options(tmp_path, now)

    sharp = {"name": "sharp_since", "keep_ratio": 0.5}
    before = {"policy": "π", "pruner": sharp, "told": ""}
    assert differing(before, Later(policy="π", pruner=SharpSince(), told="")) == {}
    now = Later(policy="π", pruner=SharpSince(steps=4), chunking="real_time", trials=20, told="")
    found = {"chunking": ("queue", "real_time"), "pruner.steps": (3, 4), "trials": (10, 20)}
    assert differing(before, now) == found
    # Null or another choice: the folder's run had no such option, nor its default.
    found = differing({**before, "pruner": None}, Later(policy="π", pruner=SharpSince(), told=""))
    assert found["pruner.steps"] == (None, 3)
    found = differing({**before, "pruner": {"name": "blind"}}, Later(policy="π", pruner=SharpSince(), told=""))
    assert found["pruner.name"] == ("blind", "sharp_since")
    # Nobody knows what it was without a default, or where the default is refused.
    assert differing({"policy": "π", "pruner": None}, Later(policy="π", told="x")) == {"told": (None, "x")}
    found = differing({**before, "told": "aloud"}, Later(policy="π", chunking="real_time", told="aloud"))
    assert found["chunking"] == (None, "real_time")


def test_another_spelling_of_a_path_is_the_same_option(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    write_run_files(tmp_path / "run", {"policy": "weights", "word": "a"}, None)
    for spelt in ("./weights", "weights/../weights/", str(tmp_path / "weights")):
        assert differing_options(tmp_path / "run", {"policy": spelt, "word": "a"}) == {}
    found = differing_options(tmp_path / "run", {"policy": "other", "word": "./a"})
    assert found == {"policy": ("weights", "other"), "word": ("a", "./a")}


def test_the_record_keeps_earlier_starts(tmp_path: Path) -> None:
    for seed in (7, 8, 9):
        write_run_files(tmp_path / "run", Run("p"), seed)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [record["seed"], *(start["seed"] for start in record["earlier"])] == [9, 7, 8]
    assert record["argv"] == sys.argv and record["versions"]["numpy"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "run.json"]


def test_an_unwritable_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FoveateError, match="cannot be written there"):
        write_run_files(tmp_path / "file" / "run", Run("p"), seed=None)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(FoveateError, match=r"run\.json: not the JSON"):
        write_run_files(tmp_path, Run("p"), seed=None)


def test_a_crash_between_the_two_files_leaves_the_earlier_record(tmp_path: Path, monkeypatch) -> None:
    write_run_files(tmp_path, Run("p"), seed=1)
    write = run_folder.write_text

    def crash(path: Path, *args: str) -> None:
        if path.name == "run.json":
            raise KeyboardInterrupt
        write(path, *args)

    monkeypatch.setattr(run_folder, "write_text", crash)
    with pytest.raises(KeyboardInterrupt):
        write_run_files(tmp_path, Run("p"), seed=2)
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 1
