"""The one place that joins the rooms: observation in, action chunk (and evidence) out.

policy = foveate.load_policy("path/to/checkpoint", pruner="lightvla")
chunk = policy.infer(observation)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foveate.engine.base import Engine, Inference
from foveate.engine.eager import EagerEngine
from foveate.errors import FoveateError
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.detect import detect
from foveate.models.pi0.model import ModelInputs
from foveate.models.pi0.processing import Processor
from foveate.models.pi0.weights import load_weights
from foveate.pruning import PrunerConfig, make_pruner
from foveate.types import ActionChunk, AttentionMaps, AttentionRequest, Observation, Phase, Trace

POLICIES = Path(__file__).parent / "policies"
"""Policies that ship with foveate; `load_policy` takes their bare names."""


@dataclass(frozen=True)
class TraceOptions:
    """What evidence every inference leaves."""

    routing: bool = True
    """The keep mask, scores and their statistics."""
    attn_layers: tuple[int, ...] = ()
    """Backbone layers whose text-to-image attention is kept."""
    images: bool = False
    """The pictures as the model saw them."""
    raw_score: bool = False
    """The whole score matrix [Q, P]; large."""


def at_least_one(config: object, *names: str) -> None:
    """Raises FoveateError where one of these fields is set, and below 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise FoveateError(f"{name}: expected at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Which policy and how it is loaded: options of every verb that runs one."""

    policy: str
    """Checkpoint folder, or the name of a policy that ships with foveate; `--pretrained_checkpoint` is the same."""
    pruner: PrunerConfig | None = None
    """Pruning method; without one, what the checkpoint was trained with; `none`: all tokens."""
    num_steps: int | None = None
    """Euler steps of the denoising; None: as the checkpoint says."""
    device: str = "cpu"
    """Torch device of the policy."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the policy's large matrices."""
    robot: str | None = None
    """Robot mapping: a shipped one (droid, libero, aloha, metaworld) or a YAML file; None: as the checkpoint says."""
    tokenizer: str | None = None
    """A sentencepiece model, where the checkpoint folder has none."""
    asset_id: str | None = None
    """Which norm stats, where the checkpoint has several."""
    action_horizon: int | None = None
    """Of an openpi checkpoint, which does not store it; None: that of openpi's published policy."""

    def __post_init__(self) -> None:
        at_least_one(self, "num_steps", "action_horizon")

    def load(self) -> Policy:
        """The policy; raises as `load_policy` does."""
        return load_policy(
            self.policy,
            pruner="checkpoint" if self.pruner is None else self.pruner,
            device=self.device,
            dtype=self.dtype,
            num_steps=self.num_steps,
            robot=self.robot,
            tokenizer=self.tokenizer,
            asset_id=self.asset_id,
            action_horizon=self.action_horizon,
        )


@dataclass(frozen=True)
class PolicySpec:
    """What a policy expects and gives; compared with an environment before episode 1."""

    name: str
    views: tuple[str, ...]
    """Views that an observation must hold."""
    state_dim: int
    action_dim: int
    """Of the robot, not of the padded model."""
    action_horizon: int
    patches: int
    """Visual tokens of one inference before pruning, all cameras present."""
    conventions: Mapping[str, Any]
    """As the robot mapping declares them; see `envs.base.EnvConventions`."""


class Policy:
    """A model with its processing, pruner and engine.

    Not thread-safe: one caller at a time.
    """

    def __init__(self, engine: Engine, config: Pi0Config, processor: Processor, name: str, device: str = "cpu") -> None:
        self.engine, self.config, self.processor, self.device = engine, config, processor, device
        self.num_steps = config.num_steps
        self.trace: TraceOptions | None = None
        rows, cols = config.vision.grid
        robot = processor.robot
        self.spec = PolicySpec(
            name=name,
            views=robot.required_views,
            state_dim=robot.state_dim,
            action_dim=robot.action_dim,
            action_horizon=config.action_horizon,
            patches=rows * cols * robot.num_cameras,
            conventions=robot.conventions,
        )

    def infer(self, observation: Observation, noise: np.ndarray | None = None) -> ActionChunk:
        """Act on one observation.

        Args:
            noise: float32 [action_horizon, model action_dim], standard normal; None draws it from torch's generator.
        """
        return self.infer_batch([observation], None if noise is None else noise[None])[0]

    def infer_batch(self, observations: Sequence[Observation], noise: np.ndarray | None = None) -> list[ActionChunk]:
        """Act on several observations at once; the times of a batch are those of the whole batch.

        Args:
            noise: float32 [B, action_horizon, model action_dim].
        """
        return self._run(observations, noise)[0]

    def attend(
        self, observations: Sequence[Observation], request: AttentionRequest, noise: np.ndarray | None = None
    ) -> list[tuple[ActionChunk, dict[Phase, AttentionMaps]]]:
        """Act on several observations at once, and tell where each inference looked.

        Patches of nothing but the borders that make a picture square are left out of the maps, as absent ones are.

        Args:
            noise: float32 [B, action_horizon, model action_dim].
        Raises:
            FoveateError: a layer, head or phase that is not there.
        """
        chunks, inputs, result = self._run(observations, noise, request)
        assert result.looked is not None
        tokens = inputs.tokens.cpu().numpy()
        pieces = [self.processor.tokenizer.pieces(row) for row in tokens] if request.tokens else [[]] * len(chunks)
        answers = []
        for b, (chunk, observation) in enumerate(zip(chunks, observations, strict=True)):
            maps = result.looked.sample(b, pieces[b])
            shown = self.processor.picture_patches(observation)
            answers.append((chunk, {phase: _on_pictures(found, shown) for phase, found in maps.items()}))
        return answers

    def _run(
        self, observations: Sequence[Observation], noise: np.ndarray | None, request: AttentionRequest | None = None
    ) -> tuple[list[ActionChunk], ModelInputs, Inference]:
        start = time.perf_counter()
        inputs = self.processor.inputs(observations).to(self.device)
        shape = (len(observations), self.config.action_horizon, self.config.action_dim)
        if noise is not None and noise.shape != shape:
            raise FoveateError(f"noise: expected shape {shape}, got {noise.shape}")
        x_1 = torch.randn(shape) if noise is None else torch.from_numpy(np.asarray(noise, np.float32))
        self._collect_evidence()
        layers = self.trace.attn_layers if self.trace else ()
        result = self.engine.run(
            inputs, x_1.to(self.device), num_steps=self.num_steps, attn_layers=layers, attention=request
        )
        actions = self.processor.actions(result.actions.float().cpu(), observations)
        timings = {**result.stages_ms, "total": (time.perf_counter() - start) * 1e3}
        traces = self._traces(result, observations, timings) if self.trace else [None] * len(observations)
        chunks = [ActionChunk(a, dict(timings), t) for a, t in zip(actions, traces, strict=True)]
        return chunks, inputs, result

    @property
    def pruner(self) -> Any:
        """The model's pruner, or None."""
        return self.engine.model.pruner  # type: ignore[attr-defined]

    def _collect_evidence(self) -> None:
        """Pruners compute statistics only while somebody asks for them."""
        if self.pruner is not None:
            self.pruner.collect_stats = self.trace is not None and self.trace.routing
            self.pruner.collect_raw_score = self.trace is not None and self.trace.raw_score

    def _traces(self, result: Inference, observations: Sequence[Observation], timings: dict[str, float]) -> list[Trace]:
        """Bring the evidence of a batch to the host and cut it into samples."""
        options = self.trace
        assert options is not None
        layout = result.layout
        text = torch.as_tensor(layout.tokens_of("text"))
        pre, task = result.mask.sum(1).tolist(), result.mask[:, text.to(result.mask.device)].sum(1).tolist()
        post = result.post_lengths.tolist()
        patch_mask = result.mask[:, torch.as_tensor(layout.patch_index).to(result.mask.device)]
        arrays: dict[str, Tensor] = {"valid": patch_mask, "keep_mask": patch_mask}
        if result.keep is not None:
            arrays["keep_mask"] = result.keep.keep_mask
            if result.keep.scores is not None:
                arrays["router_scores"] = result.keep.scores.float()
            arrays |= dict(result.keep.score_stats or {})
            if result.keep.raw_score is not None:
                arrays["raw_score"] = result.keep.raw_score.float()
        host = {name: value.cpu().numpy() for name, value in arrays.items()} if options.routing else {}
        attn = {layer: maps.float().cpu().numpy() for layer, maps in result.attn.items()}
        traces = []
        for b, observation in enumerate(observations):
            seq_lens = {
                "pre_seq_len": pre[b],
                "post_seq_len": post[b],
                "padded_seq_len": len(layout),
                "pre_task_len": task[b],
                "post_task_len": task[b],
            }
            traces.append(
                Trace(
                    layout=layout,
                    keep={name: value[b] for name, value in host.items()} or None,
                    attn={layer: maps[b] for layer, maps in attn.items()},
                    seq_lens=seq_lens,
                    timings_ms=timings,
                    model_images=self.processor.model_images(observation) if options.images else {},
                )
            )
        return traces


def _on_pictures(maps: AttentionMaps, shown: Mapping[str, np.ndarray]) -> AttentionMaps:
    """The maps on these patches, view by view, and 0 on all others."""
    everywhere = np.ones(maps.valid.shape[1:], bool)
    valid = maps.valid & np.stack([shown.get(view, everywhere) for view in maps.views])
    return replace(maps, maps=maps.maps * valid, valid=valid)


def load_policy(
    path: str | Path,
    *,
    pruner: Any = "checkpoint",
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16"] = "float32",
    num_steps: int | None = None,
    robot: str | Path | None = None,
    tokenizer: str | Path | None = None,
    asset_id: str | None = None,
    action_horizon: int | None = None,
) -> Policy:
    """Load a foveate, openpi or LeRobot policy folder, or a policy that ships with foveate by its name.

    Args:
        pruner: a config of `foveate.pruning`, its short name (`lightvla`, `random` ...), None or `none` for all
            tokens; `checkpoint` takes what the checkpoint was trained with.
        dtype: of the large matrices; see `Pi0Config.dtype`.
        num_steps: Euler steps; None: as the checkpoint says.
        robot: a shipped mapping (`droid`, `libero`, `aloha`, `metaworld`) or a YAML file; None: as detected.
        tokenizer: a sentencepiece model file, where the checkpoint folder has none.
        asset_id: which norm stats, where a checkpoint has several.
        action_horizon: of an openpi checkpoint, which does not store it.
    Raises:
        FoveateError: something is missing, damaged or does not fit; the text says what to do.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0][:160]
        raise FoveateError(f"device {device!r}: {reason}; `foveate doctor` says what this machine has") from error
    folder = Path(path)
    if not folder.exists():
        shipped = POLICIES / str(path)
        if not shipped.is_dir():
            names = ", ".join(sorted(p.name for p in POLICIES.iterdir() if p.is_dir())) if POLICIES.is_dir() else "none"
            raise FoveateError(
                f"{path}: no such checkpoint folder, and no shipped policy of that name (there are: {names})"
            )
        folder = shipped
    info = detect(folder, robot=robot, tokenizer=tokenizer, action_horizon=action_horizon)
    config = replace(info.config, dtype=dtype, num_steps=num_steps or info.config.num_steps)
    processor = Processor.from_info(info, asset_id=asset_id)
    model = load_weights(info.weights, config, device)
    model.pruner = make_pruner(info.pruner if pruner == "checkpoint" else pruner)
    return Policy(EagerEngine(model), config, processor, folder.resolve().name, device)
