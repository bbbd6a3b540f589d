"""`foveate trace predict`: one inference without a simulator; a policy, its pictures and a prompt give a run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from foveate.cli.config import parse
from foveate.cli.observation import read_observation, take_all
from foveate.cli.trace.view import exit_status, write_evidence
from foveate.errors import FoveateError
from foveate.evaluation.sim.controls import variant_name
from foveate.evaluation.sim.simulate import pruner_label, trace_warnings
from foveate.policy import LoadOptions, TraceOptions
from foveate.tracing.store import TraceStore
from foveate.util.run_folder import write_run_files
from foveate.viz.report.page import build_report


@dataclass(frozen=True, kw_only=True)
class PredictConfig(LoadOptions):
    """One inference without a simulator: a policy, its pictures and a prompt give a full run folder."""

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
    seed: int = 0
    """Of the noise that the actions are denoised from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.exp_name is None) == (self.trace_out_dir is None):
            raise FoveateError("where to? Give either --trace_out_dir DIR or --exp_name NAME (for runs/NAME)")

    @property
    def folder(self) -> Path:
        return Path(self.trace_out_dir) if self.trace_out_dir else Path("runs") / str(self.exp_name)


def predict(argv: list[str]) -> int:
    """The verb: infer once, and write dump, pictures, overlays, token log and report."""
    aliases = {"checkpoint": "policy", "pretrained_checkpoint": "policy"}
    words, pictures = take_all(argv, "image")
    config = parse(PredictConfig, words, "foveate trace predict", aliases=aliases)
    config = replace(config, image=tuple(pictures) or config.image)
    console = Console()
    policy = config.load()
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
    meta |= {"instruction": config.prompt, "checkpoint": config.policy, "variant": variant_name(pruner_label(policy))}
    with TraceStore(config.folder, views=policy.processor.robot.views) as store:
        store.submit(chunk.trace, observation, meta)
    if warnings := trace_warnings(store):
        raise FoveateError(warnings[0])
    actions = {"actions": np.round(chunk.actions, 6).tolist(), "prompt": config.prompt}
    (config.folder / "actions.json").write_text(json.dumps(actions) + "\n")
    damaged = write_evidence(config.folder, console)
    path = build_report([config.folder], config.folder / "report")
    console.print(f"actions: {list(chunk.actions.shape)} in {config.folder / 'actions.json'}", soft_wrap=True)
    console.print(f"report: {path}", soft_wrap=True)
    return exit_status(console, damaged)
