from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from foveate.cli.config import parse
from foveate.errors import FoveateError
from foveate.util.run_folder import to_dict, write_run_files


@dataclass(frozen=True)
class Sharp:
    """Keep what is sharp."""

    keep_ratio: float | None = None
    """Share of patches."""
    scope: Literal["view", "joint"] = "view"
    """Where patches compete."""

    def __post_init__(self) -> None:
        if self.keep_ratio is not None and not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")


@dataclass(frozen=True)
class LuckyDraw:
    """Keep some."""

    seed: int = 0
    """Of the draw."""


@dataclass(frozen=True)
class Env:
    """The environment."""

    image_size: int = 224
    """Pixels."""


@dataclass(frozen=True)
class Run:
    """A run of something."""

    policy: str
    """The checkpoint folder."""
    layers: tuple[int, ...] = ()
    """Layers to look at."""
    tasks: tuple[str, ...] | None = None
    """Names of tasks."""
    pruner: Sharp | LuckyDraw | None = None
    """What is kept."""
    env: Env = field(default_factory=Env)
    """Where it happens."""
    out: Path = Path("runs")
    """Folder of the results."""
    store: bool = False
    """Whether to store."""
    limit: int | None = None
    """At most so many."""
    mode: Literal["fast", "slow"] | None = None
    """How."""
    shares: tuple[float, float] | None = None
    """Two of them."""


def run(*argv: str) -> Run:
    return parse(Run, argv, "foveate run", aliases={"pretrained_checkpoint": "policy"}, positional=("out",))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_defaults_and_types() -> None:
    assert run("--policy", "p") == Run("p")
    got = run("--policy=12", "--env.image-size", "96", "--limit", "3", "--store", "somewhere")
    assert got == Run("12", env=Env(96), limit=3, store=True, out=Path("somewhere"))
    assert run("--pretrained-checkpoint", "p", "--limit", "null", "--store", "False") == Run("p")


@pytest.mark.parametrize("words", [["1,31"], ["1", "31"], ["[1, 31]"], ["1, 31"]])
def test_tuples_as_people_write_them(words: list[str]) -> None:
    assert run("--policy", "p", "--layers", *words, "--store").layers == (1, 31)
    assert run("--policy", "p", "--tasks", *words).tasks == ("1", "31")


def test_choice_by_name_and_its_options() -> None:
    assert run("--policy", "p", "--pruner", "sharp", "--pruner.keep-ratio", "0.25").pruner == Sharp(0.25)
    assert run("--policy", "p", "--pruner=LuckyDraw", "--pruner.seed=3").pruner == LuckyDraw(3)
    assert run(
        "--policy", "p", "--pruner.class_path", "a.b.Sharp", "--pruner.init_args.scope", "joint"
    ).pruner == Sharp(scope="joint")
    assert run("--policy", "p", "--pruner", "none").pruner is None


def test_files_merge_in_order_and_flags_win(tmp_path: Path) -> None:
    a = write(
        tmp_path / "a.yaml", "policy: a\nlayers: [1, 2]\npruner: {name: sharp, keep_ratio: 0.5}\nenv: {image_size: 8}"
    )
    b = write(tmp_path / "b.yaml", "pretrained-checkpoint: b\npruner: {scope: joint}\nlimit: 4")
    c = write(tmp_path / "c.yaml", "pruner: lucky_draw")
    assert run("--config", a, "--config", b, "--limit", "5") == Run(
        "b", (1, 2), pruner=Sharp(0.5, "joint"), env=Env(8), limit=5
    )
    assert run("--limit=5", f"--config={b}", f"--config={a}").policy == "a"
    assert run("--config", b, "--pruner", "sharp").pruner == Sharp(scope="joint")
    assert run("--config", a, "--config", c).pruner == LuckyDraw()  # options of another method are forgotten
    assert run("--config", a, "--pruner", "none").pruner is None


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert run("--config", write(tmp_path / "e.yaml", "# nothing\n"), "--policy", "p") == Run("p")


def test_a_file_may_begin_with_the_mark_of_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"\xef\xbb\xbfpolicy: p\n")
    assert run("--config", str(tmp_path / "m.yaml")) == Run("p")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--polcy", "x"], "unknown option '--polcy'; did you mean '--policy'"),
        (["--policy", "x", "--pruner", "shrp"], "unknown pruner 'shrp'; did you mean 'sharp'"),
        (["--policy", "x", "--pruner.keep_ratio", "0.5"], "no pruner is chosen; add --pruner NAME with one of"),
        (["--policy", "x", "--pruner", "sharp", "--pruner.seed", "1"], "unknown option '--pruner.seed'"),
        (["--policy", "x", "--pruner", "sharp", "--pruner.keep_ratio", "2"], "keep_ratio must lie in (0, 1], got 2.0"),
        (["--policy", "x", "--limit", "many"], "--limit: expected a whole number or null, got 'many'"),
        (["--policy", "x", "--env.image_size", "big"], "--env.image_size: expected a whole number, got 'big'"),
        (["--policy", "x", "--layers", "a,b"], "--layers: expected whole numbers, got 'a, b'"),
        (["--policy", "x", "--mode", "fst"], "--mode: unknown value 'fst'; did you mean 'fast'?"),
        (["--policy", "x", "--mode", "?"], "--mode: unknown value '?'; choices: fast, null, slow"),
        (["--policy", "x", "--shares", "0.5,x"], "--shares: expected 2 numbers or null, got '0.5, x'"),
        (["--policy"], "--policy needs a value"),
        (["--limit", "1"], "policy"),
        (["--policy", "x", "here", "there"], "unexpected word 'there'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
    ],
)
def test_mistakes_are_one_sentence(argv: list[str], said: str) -> None:
    with pytest.raises(FoveateError) as caught:
        run(*argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("polcy: x", "unknown config key 'polcy'; did you mean 'policy'"),
        ("env: {image_sise: 3}", "unknown config key 'env.image_sise'; did you mean 'env.image_size'"),
        ("evn: {image_size: 3}", "unknown config key 'evn'; did you mean 'env'?"),
        ("zzz: 3", "'zzz'; choices: env, layers, limit, mode, out, policy, pruner, shares, store, tasks"),
        ("prune: sharp", "unknown config key 'prune'; did you mean 'pruner'?"),
        ("image_size: 3", "unknown config key 'image_size'; did you mean 'env.image_size'?"),
        ("env: 3", "config key 'env': expected keys below it (image_size), got 3"),
        ("pruner: {name: sharp, seed: 3}", "unknown config key 'pruner.seed'"),
        ("- a", "expected `key: value` lines, got a list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_in_files(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FoveateError) as caught:
        run("--policy", "x", "--config", write(tmp_path / "x.yaml", text))
    assert said in str(caught.value)


def test_help_shows_the_options_of_the_chosen_one(capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        run("--pruner", "sharp", "--help")
    assert leaving.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "--pruner.scope" in out and "Where patches compete." in out and "--pruner.seed" not in out
    assert "one of lucky_draw, sharp, none (now: sharp)" in out
    # Names stand beside their option, not as a type; bare words stand in the usage.
    assert "--pruner.scope {view,joint} Where patches compete. (default: view)" in out
    assert "--mode {fast,slow,null} How. (default: null)" in out and "Literal" not in out
    assert "usage: foveate run [OUT] [--OPTION VALUE ...]" in out
    assert "--policy POLICY, --pretrained_checkpoint POLICY The checkpoint folder. (required)" in out
    assert "--pruner lucky_draw Keep some." in out


def test_pruning_methods_go_by_their_registry_names() -> None:
    pruning = pytest.importorskip("foveate.pruning")
    namespace = {"Choice": pruning.PrunerConfig | None}

    @dataclass(frozen=True)
    class Config:
        pruner: object = None

    Config.__annotations__["pruner"] = namespace["Choice"]
    for name, cls in pruning.CONFIGS.items():
        budget = ["--pruner.keep_ratio", "0.25"] if hasattr(cls, "keep_ratio") else []
        budget = ["--pruner.keep_tokens", "16"] if name == "grids" else budget
        for said in (name, cls.__name__):
            got = parse(Config, ["--pruner", said, *budget], "x").pruner
            assert type(got) is cls
            assert pruning.make_config(to_dict(Config(got))["pruner"]) == got
    assert parse(Config, ["--pruner", "null"], "x").pruner is None  # which run folders hold; `none` is a method
    with pytest.raises(FoveateError, match="both set"):
        parse(Config, ["--pruner", "random", "--pruner.keep_ratio", "0.2", "--pruner.keep_tokens", "3"], "x")
    with pytest.raises(FoveateError, match=r"\(0, 1\]"):
        parse(Config, ["--pruner", "random", "--pruner.keep_ratio", "1.5"], "x")


def test_run_files_read_back_and_keep_earlier_starts(tmp_path: Path) -> None:
    config = Run("p", (1, 2), ("a",), Sharp(0.5), Env(8), tmp_path, True)
    write_run_files(tmp_path / "new" / "run", config, seed=7)
    folder = tmp_path / "new" / "run"
    assert run("--config", str(folder / "config.yaml")) == config
    first = json.loads((folder / "run.json").read_text())
    assert first["seed"] == 7 and first["argv"] == sys.argv and first["machine"]["cores"] >= 1
    assert set(first["git"]) == {"revision", "dirty"} and len(first["git"]["revision"]) == 40
    assert first["versions"]["jsonargparse" if "jsonargparse" in first["versions"] else "numpy"]
    write_run_files(folder, config, seed=8)
    write_run_files(folder, config, seed=9)
    again = json.loads((folder / "run.json").read_text())
    assert [again["seed"], *(start["seed"] for start in again["earlier"])] == [9, 7, 8]
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "run.json"]


def test_config_is_plain_yaml() -> None:
    assert yaml.safe_load(yaml.safe_dump(to_dict(Run("p", pruner=LuckyDraw(2))))) == {
        "policy": "p", "layers": [], "tasks": None, "pruner": {"name": "lucky_draw", "seed": 2},
        "env": {"image_size": 224}, "out": "runs", "store": False, "limit": None, "mode": None, "shares": None,
    }  # fmt: skip


def test_types_of_inherited_fields_hold_wherever_the_class_was_defined() -> None:
    from foveate.studies.attention.episodes import EpisodesConfig
    from foveate.studies.attention.scene import SceneConfig

    for config_cls, place in ((EpisodesConfig, "--data_root"), (SceneConfig, "--out")):
        with pytest.raises(FoveateError, match="--num_steps: expected a whole number"):
            parse(config_cls, ["--policy", "p", place, "here", "--num_steps", "many"], "x")


def test_sentences_and_paths_may_hold_commas(capsys) -> None:
    def tasks(*argv: str) -> Run:
        return parse(Run, ["--policy", "p", *argv], "x", whole=("tasks",), positional=("out",))

    assert tasks("--tasks", "a,b", "c", "--store", "--tasks=d, e").tasks == ("a,b", "c", "d, e")
    assert tasks("--tasks=a,b", "there") == Run("p", tasks=("a,b",), out=Path("there"))
    with pytest.raises(FoveateError, match="--tasks needs a value"):
        tasks("--tasks")
    with pytest.raises(SystemExit):
        tasks("--help")
    assert "--tasks A B ..." in capsys.readouterr().out


def test_an_alias_may_stand_for_a_field_inside(tmp_path: Path) -> None:
    def parsed(*argv: str) -> Run:
        return parse(Run, ["--policy", "p", *argv], "x", aliases={"env": "env.image_size"})

    assert parsed("--env", "96") == parsed("--env.image_size=96") == Run("p", env=Env(96))
    assert parsed("--config", write(tmp_path / "a.yaml", "env: {image_size: 96}")).env == Env(96)
    assert parsed("--config", write(tmp_path / "b.yaml", "env:")).env == Env()


def test_none_is_a_word_where_a_list_cannot_be_null() -> None:
    @dataclass(frozen=True)
    class Named:
        """Methods."""

        methods: tuple[str, ...] = ()
        """Their names."""

    assert parse(Named, ["--methods", "none"], "x").methods == ("none",)
    assert parse(Named, ["--methods", "none,random"], "x").methods == ("none", "random")
    assert parse(Run, ["--policy", "p", "--tasks", "none"], "x").tasks is None
