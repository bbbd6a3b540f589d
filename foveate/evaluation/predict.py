"""One inference without a simulator: a policy, its pictures and a prompt give a full run folder.

done = predict(PredictConfig(policy="metaworld_tiny", prompt="push the puck", image=("a.png", "b.png"),
                             trace_out_dir="runs/one"))
done.chunk.actions, done.report

Without pictures and prompt it makes up both: enough to see whether a checkpoint runs, and what a trace of it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.errors import FoveateError
from foveate.evaluation.evidence import write_evidence
from foveate.evaluation.scene import made_up, read_observation
from foveate.evaluation.sim.controls import variant_name
from foveate.evaluation.sim.simulate import pruner_label, trace_warnings
from foveate.policy import LoadOptions, Policy, TraceOptions
from foveate.tracing.store import TraceStore
from foveate.types import ActionChunk
from foveate.util.checks import instruction
from foveate.util.files import alone_in, write_json
from foveate.util.noise import action_noise
from foveate.util.progress import SILENT, Reporter
from foveate.util.run_folder import write_run_files
from foveate.viz.report.page import build_report


@dataclass(frozen=True, kw_only=True)
class PredictConfig(LoadOptions):
    """One inference without a simulator: a policy, its pictures and a prompt give a full run folder."""

    prompt: str | None = None
    """The instruction; without it and without pictures both are made up, to try a checkpoint."""
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
    """Seed of the noise that the actions are denoised from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.exp_name is None) == (self.trace_out_dir is None):
            raise FoveateError("where to? Give either --trace_out_dir DIR or --exp_name NAME (for runs/NAME)")
        if self.image or self.prompt is not None:
            instruction("--prompt", self.prompt)

    @property
    def folder(self) -> Path:
        return Path(self.trace_out_dir) if self.trace_out_dir else Path("runs") / str(self.exp_name)


@dataclass(frozen=True)
class Prediction:
    """What one inference gave."""

    chunk: ActionChunk
    folder: Path
    """Run folder: the dump, pictures, overlays, token log, `actions.json`."""
    report: Path
    """The HTML file."""
    damaged: list[str]
    """One sentence per dump or picture that was passed over."""


@alone_in(lambda config: config.folder, "predicting")
def predict(config: PredictConfig, report: Reporter = SILENT, policy: Policy | None = None) -> Prediction:
    """Infer once, and write dump, pictures, overlays, token log and report.

    Args:
        policy: loaded as `config` says; None: it is loaded.
    Raises:
        FoveateError: a picture is missing or unreadable, or the dump cannot be written.
    """
    folder = config.folder
    layers = config.trace_attn_layers if config.trace_dump_attn else ()
    if policy is None:
        config.check_layers(layers, "--trace_attn_layers")
        policy = config.load()
    policy.spec.check_layers(layers, "--trace_attn_layers")
    if config.prompt is None:
        observation = made_up(policy, config.state, config.seed)
        report.line("pictures and prompt: none given, made-up ones are used; the actions mean nothing for a robot")
    else:
        observation = read_observation(config.image, config.state, config.prompt, policy, report)
    evidence = TraceOptions(
        attn_layers=layers,
        images=True,
        raw_score=config.store_raw_score,
    )
    noise = action_noise(policy.spec.noise_shape, config.seed)
    policy.infer(observation, noise, evidence=evidence, session="warm-up")  # the first one is slow, and is not measured
    policy.reset()
    chunk = policy.infer(observation, noise, evidence=evidence, session="predict")
    assert chunk.trace is not None
    write_run_files(folder, config, config.seed)
    meta = {"task": "predict", "task_id": 0, "episode": 0, "step": 0, "query": 0, "seed": config.seed}
    meta |= {
        "instruction": observation.prompt,
        "checkpoint": config.policy,
        "variant": variant_name(pruner_label(policy)),
    }
    with TraceStore(folder, views=policy.spec.cameras, model_crop=policy.spec.crop) as store:
        store.submit(chunk.trace, observation, meta, chunk.actions)
    if warnings := trace_warnings(store):
        raise FoveateError(warnings[0])
    actions = {"actions": np.round(chunk.actions, 6).tolist(), "prompt": observation.prompt}
    write_json(folder / "actions.json", actions, indent=None)
    damaged = write_evidence(folder, report)
    return Prediction(chunk, folder, build_report([folder], folder / "report"), damaged)
