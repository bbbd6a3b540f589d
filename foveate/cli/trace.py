"""`foveate trace plot|tokens|report|predict`: what one can do with the evidence of a run.

The first three need a run folder and nothing else: no model, no GPU, no simulator. The folder is the bare word, or
`--run_root DIR`, `--exp_dir DIR`, or `--exp_name NAME` for `runs/NAME`. Exit status 3: done, but some dumps or
pictures were damaged; each was named and passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.errors import FoveateError

if TYPE_CHECKING:
    from rich.console import Console


DAMAGED = 3
"""Exit status where dumps were passed over."""


@dataclass(frozen=True)
class RunConfig:
    """Work on the dumps of one run folder."""

    run_root: str | None = None
    """Run folder, which holds dumps/; `--exp_dir` is the same."""
    exp_name: str | None = None
    """Name of the run: the folder runs/NAME, or NAME under --run_root."""

    @property
    def folder(self) -> Path:
        if self.run_root is None and self.exp_name is None:
            raise FoveateError("which run? Give its folder, --run_root DIR or --exp_name NAME (for runs/NAME)")
        root = Path(self.run_root or "runs")
        return root / self.exp_name if self.exp_name else root


@dataclass(frozen=True)
class PlotConfig(RunConfig):
    """Draw the overlays of a run: scores, kept patches and attention over the source pictures, under plots/."""

    limit: int | None = None
    """Draw only so many inferences, evenly over the run."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise FoveateError(f"--limit: expected at least 1, got {self.limit}")


@dataclass(frozen=True)
class TokensConfig(RunConfig):
    """Write report/tokens.jsonl, tokens_summary.json and capabilities.json of a run."""


@dataclass(frozen=True)
class ReportConfig(RunConfig):
    """Write one self-contained HTML file about a run, or about several side by side."""

    compare: tuple[str, ...] = ()
    """Further run folders, shown beside it."""
    out: str | None = None
    """Folder of the report; default: report/ in the run folder."""


def plot(argv: list[str]) -> int:
    """The verb: overlays of a run folder."""
    config, console = _parse(PlotConfig, argv, "plot"), _console()
    return _status(console, _plot(config.folder, config.limit, console))


def tokens(argv: list[str]) -> int:
    """The verb: token log and capabilities of a run folder."""
    config, console = _parse(TokensConfig, argv, "tokens"), _console()
    return _status(console, _tokens(config.folder, console))


def report(argv: list[str]) -> int:
    """The verb: HTML report over one or more run folders, with fresh token logs."""
    from foveate.tracing.store import dump_paths
    from foveate.viz.report import build_report

    config, console = _parse(ReportConfig, argv, "report"), _console()
    folders = [config.folder, *map(Path, config.compare)]
    damaged = [text for folder in folders if dump_paths(folder) for text in _tokens(folder, console)]
    path = build_report(folders, Path(config.out) if config.out else config.folder / "report")
    console.print(f"report: {path}", soft_wrap=True)
    return _status(console, damaged)


def write_evidence(folder: Path, console: Console, limit: int | None = None) -> list[str]:
    """Overlays, token log and capabilities of a traced run, as `foveate eval sim` ends; returns what was damaged.

    Args:
        limit: inferences to draw, evenly over the run; None: all.
    """
    return list(dict.fromkeys([*_plot(folder, limit, console), *_tokens(folder, console)]))


def _plot(folder: Path, limit: int | None, console: Console) -> list[str]:
    from foveate.tracing.store import dump_paths
    from foveate.tracing.tokens import check_run
    from foveate.viz.plots import plot_run, spread

    total = len(spread(dump_paths(check_run(folder)), limit))
    with _progress(console, f"overlays of {folder.name}", total) as tick:
        done = plot_run(folder, limit, tick)
    console.print(f"overlays: {done.files} of {done.inferences} inferences in {folder / 'plots'}", soft_wrap=True)
    if done.left_out:
        console.print(f"          {done.left_out} inferences left out; `foveate trace plot {folder}` draws all")
    if done.without_pictures:
        console.print(f"[yellow]warning:[/] {done.without_pictures} inferences have no saved pictures to draw on")
    return done.unreadable


def _tokens(folder: Path, console: Console) -> list[str]:
    from foveate.evaluation.collapse import diagnose
    from foveate.tracing.tokens import write_capabilities, write_token_log

    log = write_token_log(folder, diagnose)
    write_capabilities(folder)
    console.print(f"token log: {len(log.rows)} inferences in {folder / 'report/tokens.jsonl'}", soft_wrap=True)
    for warning in log.summary["warnings"]:
        console.print(f"[yellow]warning:[/] {warning}")
    for problem, count in log.summary["schema_problems"].items():
        console.print(f"[yellow]schema:[/] {problem} ({count} dumps)", highlight=False)
    return log.unreadable


@dataclass(frozen=True)
class PredictConfig:
    """One inference without a simulator: a policy, its pictures and a prompt give a full run folder."""

    policy: str
    """Checkpoint folder, or the name of a policy that ships with foveate; `--checkpoint` is the same."""
    prompt: str
    """The instruction."""
    image: tuple[str, ...] = ()
    """A picture per view, repeatable: `view=path`, or paths in the order of the policy's views."""
    state: tuple[float, ...] = ()
    """The robot's state; without one, zeros."""
    exp_name: str | None = None
    """The run folder is runs/NAME."""
    trace_out_dir: str | None = None
    """The run folder."""
    trace_dump_attn: bool = True
    """Write attention of the text over the image patches."""
    trace_attn_layers: tuple[int, ...] = (1, -1)
    """Backbone layers whose attention is written; negative ones count from the last."""
    store_raw_score: bool = False
    """Write the pruner's whole score matrix; large."""
    pruner: str | None = None
    """Pruning method by name; without one, what the checkpoint was trained with; `none`: all tokens."""
    num_steps: int | None = None
    """Euler steps of the denoising; None: as the checkpoint says."""
    seed: int = 0
    """Of the noise that the actions are denoised from."""
    device: str = "cpu"
    """Torch device of the policy."""
    dtype: str = "float32"
    """Of the policy's large matrices: float32 or bfloat16."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise FoveateError(f"--dtype: expected float32 or bfloat16, got {self.dtype!r}")
        if (self.exp_name is None) == (self.trace_out_dir is None):
            raise FoveateError("where to? Give either --trace_out_dir DIR or --exp_name NAME (for runs/NAME)")

    @property
    def folder(self) -> Path:
        return Path(self.trace_out_dir) if self.trace_out_dir else Path("runs") / str(self.exp_name)


def predict(argv: list[str]) -> int:
    """The verb: infer once, and write dump, pictures, overlays, token log and report."""
    from foveate.cli.config import parse, write_run_files
    from foveate.cli.observation import read_observation, take_all
    from foveate.policy import TraceOptions, load_policy
    from foveate.tracing.store import TraceStore
    from foveate.viz.report import build_report

    aliases = {"checkpoint": "policy", "pretrained_checkpoint": "policy"}
    words, pictures = take_all(argv, "image")
    config = parse(PredictConfig, words, "foveate trace predict", aliases=aliases)
    config = replace(config, image=tuple(pictures) or config.image)
    console = _console()
    policy = load_policy(
        config.policy,
        pruner=config.pruner or "checkpoint",
        device=config.device,
        dtype=config.dtype,  # type: ignore[arg-type]  # checked in the config
        num_steps=config.num_steps,
    )
    observation = read_observation(config.image, config.state, config.prompt, policy, console)
    policy.trace = TraceOptions(
        attn_layers=config.trace_attn_layers if config.trace_dump_attn else (),
        images=True,
        raw_score=config.store_raw_score,
    )
    shape = (policy.spec.action_horizon, policy.config.action_dim)
    noise = np.random.default_rng(config.seed).standard_normal(shape, dtype=np.float32)
    chunk = policy.infer(observation, noise)
    assert chunk.trace is not None
    write_run_files(config.folder, config, config.seed)
    meta = {"task": "predict", "task_id": 0, "episode": 0, "step": 0, "query": 0, "seed": config.seed}
    meta |= {"instruction": config.prompt, "checkpoint": config.policy, "variant": config.pruner or policy.spec.name}
    with TraceStore(config.folder, views=policy.processor.robot.views) as store:
        store.submit(chunk.trace, observation, meta)
    if store.warnings:
        raise FoveateError(store.warnings[0])
    actions = {"actions": np.round(chunk.actions, 6).tolist(), "prompt": config.prompt}
    (config.folder / "actions.json").write_text(json.dumps(actions) + "\n")
    damaged = write_evidence(config.folder, console)
    path = build_report([config.folder], config.folder / "report")
    console.print(f"actions: {list(chunk.actions.shape)} in {config.folder / 'actions.json'}", soft_wrap=True)
    console.print(f"report: {path}", soft_wrap=True)
    return _status(console, damaged)


def _parse(config_cls: type[Any], argv: list[str], verb: str) -> Any:
    from foveate.cli.config import parse

    return parse(config_cls, argv, f"foveate trace {verb}", aliases={"exp_dir": "run_root"}, positional=("run_root",))


def _console() -> Console:
    from rich.console import Console

    return Console()


def _status(console: Console, damaged: Sequence[str]) -> int:
    for text in damaged:
        console.print(f"[red]damaged:[/] {text}", highlight=False, soft_wrap=True)
    return DAMAGED if damaged else 0


@contextmanager
def _progress(console: Console, title: str, total: int) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
