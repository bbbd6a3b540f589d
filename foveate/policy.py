"""The one place that joins the rooms: observation in, action chunk (and evidence) out.

policy = foveate.load_policy("path/to/checkpoint", pruner="lightvla")
chunk = policy.infer(observation)
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.engine.base import Engine, Inference, Prefilled
from foveate.engine.config import PRESETS, Eager, EngineConfig, as_environment_says
from foveate.engine.gate import engine_for, settled
from foveate.engine.record import hash_folder
from foveate.engine.reuse import PrefixReuse
from foveate.errors import ActionsNotFinite, FoveateError, unknown
from foveate.models.base import ActionModel, ModelInputs, ModelOptions, Processor
from foveate.models.common.real_time import GivenActions, PreviousChunk, prefix_weights
from foveate.models.registry import detect
from foveate.pruning import PrunerConfig, make_config, make_pruner
from foveate.pruning.base import ROBOT_STATE, Evidence, State, TokenPruner, pruning_stats
from foveate.pruning.fitted import Fitted, is_fitted, read_fitted
from foveate.pruning.given import GivenPatches
from foveate.types import ActionChunk, AttentionMaps, AttentionRequest, LeftOver, Observation, Phase, Trace
from foveate.util.progress import SILENT, Reporter
from foveate.util.shipped import find_policy
from foveate.util.words import plural
from foveate.vision_value.looking import Looking, Rule, make_looking
from foveate.vision_value.looking.sight import Glance, Sight

"""Policies that ship with foveate; `load_policy` takes their bare names."""


@dataclass(frozen=True)
class TraceOptions:
    """What evidence every inference leaves."""

    routing: bool = True
    """The keep mask, scores and their statistics."""
    attn_layers: tuple[int, ...] = ()
    """Backbone layers whose attention from the task's tokens to the patches is kept."""
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


def check_layers(layers: Sequence[int], depth: int, option: str) -> None:
    """Raises FoveateError where an option asks for a layer that a backbone of so many does not have."""
    for layer in layers:
        if not -depth <= layer < depth:
            raise FoveateError(
                f"{option} {layer}: the backbone has layers 0 to {depth - 1} ({plural(depth, 'layer')}); negative ones "
                "count from the last"
            )


@dataclass(frozen=True, kw_only=True)
class LoadOptions(ModelOptions):
    """Which policy and how it is loaded: options of every verb that runs one, and of `load_policy`."""

    policy: str
    """Checkpoint folder, or the name of a policy that ships with foveate; in `eval sim` also a server, ws://host:port."""
    pruner: PrunerConfig | None = None
    """Pruning method, or a fit.yaml that names one; null: what the checkpoint was trained with; `none`: all tokens."""
    engine: EngineConfig = field(default_factory=Eager)
    """How the policy is run."""
    looking: Looking | None = None
    """How closely each view is looked at, step by step; null: at full resolution always, as with `full`."""

    def __post_init__(self) -> None:
        at_least_one(self, "num_steps", "action_horizon")

    def check_layers(self, layers: Sequence[int], option: str) -> None:
        """Raises FoveateError where an option asks for a layer that the backbone lacks; no weights are read."""
        if layers:
            _, info = detect(find_policy(self.policy), self)
            check_layers(layers, info.spec.depth, option)

    def settled_engine(self, environ: Mapping[str, str] = os.environ) -> Eager:
        """The engine as the environment says, and `fast` as its check on this machine allowed."""
        engine = as_environment_says(self.engine, environ)
        return engine if engine.exact else settled(engine, find_policy(self.policy), self.dtype, self.device)

    def load(self, report: Reporter = SILENT, environ: Mapping[str, str] = os.environ) -> Policy:
        """The policy, ready to act; an engine that compiles has done so.

        Args:
            report: where compilation is shown.
            environ: `OPENPI_TORCH_COMPILE` in it goes before the engine's default.
        Raises:
            FoveateError: something is missing, damaged or does not fit; the text says what to do.
        """
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0][:160]
            raise FoveateError(
                f"device {self.device!r}: {reason}; `foveate doctor` says what this machine has"
            ) from error
        folder = find_policy(self.policy)
        family, info = detect(folder, self)
        model, processor = family.load(info, self)
        pruner = make_pruner(info.pruner if self.pruner is None else self.pruner)
        if pruner is not None:
            pruner.load(folder)
            pruner.eval().to(self.device)
        config = self.settled_engine(environ)
        policy = Policy(
            engine_for(model, config, folder),
            processor,
            pruner,
            name=folder.resolve().name,
            device=self.device,
            prefix_cache=config.prefix_cache,
            looking=self.looking,
        )
        if not config.exact:
            policy.prepare(report)
        return policy


@dataclass(frozen=True)
class PolicySpec:
    """What a policy expects and gives; compared with an environment before episode 1."""

    name: str
    views: tuple[str, ...]
    """Views that an observation must hold."""
    cameras: Mapping[str, tuple[str, ...]]
    """Model view -> names under which an observation may hold it, the first that is there counts."""
    state: tuple[tuple[str, int], ...]
    """Parts of the state in order, with their lengths."""
    state_dim: int
    action_dim: int
    """Of the robot, not of the padded model."""
    action_horizon: int
    patches: int
    """Visual tokens of one inference before pruning, all cameras present."""
    conventions: Mapping[str, Any]
    """As the robot mapping declares them; see `envs.base.EnvConventions`."""
    image_size: int
    """Side of the square pictures that the model sees, in pixels."""
    grids: tuple[tuple[int, int], ...]
    """Patch rows and columns of each model view."""
    depth: int
    """Layers of the backbone."""
    heads: int
    """Attention heads of each layer."""
    noise_shape: tuple[int, int] | None
    """Of the noise that an inference starts from; None: the model decodes without noise."""
    num_steps: int | None
    """Denoising steps; None: the model has none."""
    crop: float | None = None
    """Side of the middle of a picture that the model sees, as a share; see `ModelSpec`."""
    max_delay: int = 0
    """Actions at a chunk's beginning that the model was trained to be given, at most."""

    def check_layers(self, layers: Sequence[int], option: str) -> None:
        """Raises FoveateError where an option asks for a layer that the backbone does not have."""
        check_layers(layers, self.depth, option)


class Policy:
    """An engine with its model's processing, and a pruner.

    Not thread-safe: one caller at a time.
    """

    def __init__(
        self,
        engine: Engine,
        processor: Processor,
        pruner: TokenPruner | None = None,
        *,
        name: str = "policy",
        device: str = "cpu",
        prefix_cache: PrefixReuse = PrefixReuse(),  # noqa: B008  # frozen
        looking: Rule | None = None,
    ) -> None:
        """
        Args:
            prefix_cache: when a session's inference goes on from the prefix of an earlier one; by default never.
            looking: how closely each view is looked at; None: at full resolution.
        Raises:
            FoveateError: the model cannot look coarsely, or something else does not go with `looking`.
        """
        self.engine, self.processor, self.pruner, self.device = engine, processor, pruner, device
        self.prefix_cache, self.looking = prefix_cache, looking
        self._sight = None if looking is None else _sight(looking, engine.model, pruner, prefix_cache)
        self._states: dict[str, State] = {}
        self._prefixes: dict[str, tuple[Observation, Prefilled]] = {}
        """Session -> its last prefix that was made anew, and what it was made of."""
        model, robot = engine.model.spec, processor.robot
        self.spec = PolicySpec(
            name=name,
            views=robot.required_views,
            cameras=robot.views,
            state=tuple(robot.state),
            state_dim=robot.state_dim,
            action_dim=robot.action_dim,
            action_horizon=model.action_horizon,
            patches=sum(r * c for view, (r, c) in zip(model.views, model.grids, strict=True) if robot.views.get(view)),
            conventions=robot.conventions,
            image_size=model.image_size,
            grids=model.grids,
            depth=model.depth,
            heads=model.heads,
            noise_shape=model.noise_shape,
            num_steps=model.num_steps,
            crop=model.crop,
            max_delay=model.max_delay,
        )

    def infer(
        self,
        observation: Observation,
        noise: np.ndarray | None = None,
        *,
        evidence: TraceOptions | None = None,
        keep: np.ndarray | None = None,
        session: str | None = None,
    ) -> ActionChunk:
        """Act on one observation.

        Args:
            noise: float32 [*noise_shape], standard normal; None draws it from torch's generator.
            evidence: what the chunk's `trace` shall hold; None: no trace.
            keep: bool [P], the patches to leave, instead of the pruner's choice.
            session: the episode that the observation belongs to, for whatever has a history; see `reset`.
        Raises:
            ActionsNotFinite: the actions hold NaN or infinity.
        """
        return self.infer_batch(
            [observation],
            None if noise is None else noise[None],
            evidence=evidence,
            keep=None if keep is None else keep[None],
            sessions=[session],
        )[0]

    def infer_batch(
        self,
        observations: Sequence[Observation],
        noise: np.ndarray | None = None,
        *,
        evidence: TraceOptions | None = None,
        keep: np.ndarray | None = None,
        sessions: Sequence[str | None] | None = None,
        left_over: Sequence[LeftOver | None] | None = None,
    ) -> list[ActionChunk]:
        """Act on several observations at once; the times of a batch are those of the whole batch.

        Args:
            noise: float32 [B, *noise_shape].
            keep: bool [B, P].
            sessions: one for each observation.
            left_over: of each robot, what it has left of the chunk before, which the new one shall go on from.
        Raises:
            FoveateError: something is left over, and family or engine cannot guide towards it.
            ActionsNotFinite: actions hold NaN or infinity; the error has all chunks, for who can use the others.
        """
        layers = evidence.attn_layers if evidence else ()
        request = AttentionRequest(layers, rows="task") if layers else None
        pruner = self.pruner if keep is None else GivenPatches(torch.from_numpy(np.asarray(keep, bool)))
        return self._run(observations, noise, pruner, sessions, evidence, request, left_over)[0]

    def attend(
        self, observations: Sequence[Observation], request: AttentionRequest, noise: np.ndarray | None = None
    ) -> list[tuple[ActionChunk, dict[Phase, AttentionMaps]]]:
        """Act on several observations at once, and tell where each inference looked.

        Patches of nothing but the borders that make a picture square are left out of the maps, as absent ones are.

        Args:
            noise: float32 [B, *noise_shape].
        Raises:
            ActionsNotFinite: actions hold NaN or infinity.
            FoveateError: a layer, head or phase that is not there.
        """
        chunks, inputs, result = self._run(observations, noise, self.pruner, request=request)
        assert result.attention is not None
        tokens = inputs.tokens.cpu().numpy()
        pieces = [self.processor.pieces(row) for row in tokens] if request.tokens else [[]] * len(chunks)
        answers = []
        for b, (chunk, observation) in enumerate(zip(chunks, observations, strict=True)):
            maps = result.attention.sample(b, pieces[b])
            shown = self.processor.picture_patches(observation)
            answers.append((chunk, {phase: _on_pictures(found, shown) for phase, found in maps.items()}))
        return answers

    @property
    def real_time_chunking(self) -> tuple[str, ...]:
        """How a chunk can go on from the one before: `hard_prefix` where the model was trained so, else `guided`."""
        if self.spec.max_delay:
            return ("hard_prefix",)
        return ("guided",) if getattr(self.engine, "guides", False) else ()

    def reset(self, session: str | None = None) -> None:
        """Forget what is remembered of a session: a pruner's history, the last prefix, the last looks; None: of all."""
        if self._sight is not None:
            self._sight.reset(session)
        for remembered in (self._states, self._prefixes):
            if session is None:
                remembered.clear()
            else:
                remembered.pop(session, None)

    def prepare(self, report: Reporter = SILENT) -> None:
        """Compile what the engine compiles; again: also for prefix lengths that it has met and was not ready for."""
        inputs = self.processor.inputs([self.example()]).to(self.device)
        shape = self.spec.noise_shape
        noise = None if shape is None else torch.zeros(1, *shape, device=self.device)
        self.engine.prepare(inputs, noise, self.pruner, report)

    def example(self, seed: int = 0) -> Observation:
        """A made-up observation that fits: pictures of smooth noise, a prompt of 20 to 80 letters."""
        rng = np.random.default_rng(seed)
        size = self.spec.image_size
        coarse = rng.integers(0, 256, (len(self.spec.views), -(-size // 8), -(-size // 8), 3), np.uint8)
        pictures = (coarse.repeat(8, 1).repeat(8, 2)[:, :size, :size] * rng.uniform(0.2, 1)).astype(np.uint8)
        words = "push the red block along the table to the green marker behind the blue bowl"
        return Observation(
            dict(zip(self.spec.views, pictures, strict=True)),
            rng.uniform(-0.1, 0.1, self.spec.state_dim).astype(np.float32),
            words[: 20 + 20 * (seed % 4)],
        )

    def flops(self, views: int, tokens: int | Sequence[int]) -> Mapping[str, float]:
        """GFLOP of one inference by stage, and their `total`.

        Args:
            views: images that are really there.
            tokens: prefix tokens that the backbone saw, `post_seq_len` in a trace; or those of each layer,
                `layer_tokens` there.
        """
        return self.engine.model.flops(views, tokens, self.spec.num_steps)

    def cost(self, trace: Trace) -> Mapping[str, float]:
        """GFLOP of a traced inference by stage, and their `total`: of the views that it looked at, as it did."""
        assert trace.keep is not None
        tokens = trace.layer_tokens or trace.seq_lens["post_seq_len"]
        if trace.decision is None:
            views = sum(bool(trace.keep["valid"][part].any()) for part in trace.layout.view_slices.values())
            return self.flops(views, tokens)
        levels = list(trace.decision.level.values())
        coarse = {"coarse": levels.count("COARSE")} if "COARSE" in levels else {}
        return self.engine.model.flops(levels.count("FULL"), tokens, self.spec.num_steps, **coarse)

    @property
    def has_history(self) -> bool:
        """Whether something goes by what a session saw before, so that its inferences belong in order, one by one."""
        looks = self.looking is not None and self.looking.has_history
        return looks or (self.pruner is not None and self.pruner.has_history)

    def get_token_pruning_stats(self) -> dict[str, Any]:
        """Of the last inference: `enabled, noise_scale, last_kept_per_sample` (totals), `last_kept_per_view`."""
        return pruning_stats(self.pruner)

    def _run(
        self,
        observations: Sequence[Observation],
        noise: np.ndarray | None,
        pruner: TokenPruner | None,
        sessions: Sequence[str | None] | None = None,
        evidence: TraceOptions | None = None,
        request: AttentionRequest | None = None,
        left_over: Sequence[LeftOver | None] | None = None,
    ) -> tuple[list[ActionChunk], ModelInputs, Inference]:
        start = time.perf_counter()
        inputs = self.processor.inputs(observations).to(self.device)
        earlier = self._earlier(observations, sessions) if pruner is self.pruner and request is None else None
        previous = self._previous(observations, left_over)
        glance = self._glance(observations, sessions)
        if glance is not None:
            inputs = replace(inputs, looks=glance.looks)
        result = self.engine.run(
            inputs,
            self._noise(noise, len(observations)),
            pruner=pruner,
            steps=self.spec.num_steps,
            attention=request,
            evidence=_of_pruner(evidence),
            state=self.states(observations, sessions, pruner),
            prefilled=earlier,
            previous=previous,
        )
        if earlier is None and pruner is self.pruner:
            self._remember(observations, sessions, result.prefilled)
        actions = self.processor.actions(result.actions.float().cpu(), observations)
        if glance is not None and self._sight is not None and result.patches is not None:
            self._sight.remember(glance, result.patches)
        timings = {**result.stages_ms, "total": (time.perf_counter() - start) * 1e3}
        traces = self._traces(result, observations, timings, evidence) if evidence else [None] * len(observations)
        for trace, decision in zip(traces, glance.decisions if glance is not None else (), strict=False):
            if trace is not None:
                trace.decision = decision
        for trace in traces if self.prefix_cache.pixels is not None else ():
            if trace is not None:
                trace.seq_lens["prefix_reused"] = int(earlier is not None)
        chunks = [ActionChunk(a, dict(timings), t) for a, t in zip(actions, traces, strict=True)]
        if not np.isfinite(actions).all():
            bad = int((~np.isfinite(actions)).any((1, 2)).sum())
            raise ActionsNotFinite(
                f"policy {self.spec.name!r}: {bad} of {plural(len(chunks), 'answer')} with actions that are not "
                "finite; check observation, statistics and weights, or load the policy with dtype float32",
                chunks,
            )
        return chunks, inputs, result

    def _glance(self, observations: Sequence[Observation], sessions: Sequence[str | None] | None) -> Glance | None:
        """What these observations are looked at like; None: all at full resolution."""
        if self._sight is None:
            return None
        pictures = [self.processor.source_images(observation) for observation in observations]
        return self._sight.glance(pictures, [observation.state for observation in observations], sessions)

    def _earlier(self, observations: Sequence[Observation], sessions: Sequence[str | None] | None) -> Prefilled | None:
        """The prefix to go on from, of a single sample whose session has seen nearly the same; None: look anew."""
        session = sessions[0] if sessions and len(observations) == 1 else None
        if session is None or session not in self._prefixes:
            return None
        before, made = self._prefixes[session]
        return made if self.prefix_cache.allows(before, observations[0]) else None

    def _remember(
        self, observations: Sequence[Observation], sessions: Sequence[str | None] | None, made: Prefilled | None
    ) -> None:
        """Keep the prefix of a single sample for its session's next inference."""
        session = sessions[0] if sessions and len(observations) == 1 else None
        if self.prefix_cache.pixels is not None and made is not None and session is not None:
            self._prefixes[session] = (observations[0], made)

    def _previous(
        self, observations: Sequence[Observation], left_over: Sequence[LeftOver | None] | None
    ) -> PreviousChunk | GivenActions | None:
        """What is left of the chunks before as the model sees it, relative to where the robots are now.

        A model that was trained so is given what will be executed, up to its `max_delay`; others are guided.
        """
        if left_over is None or all(left is None for left in left_over):
            return None
        horizon, width = self.spec.action_horizon, self.spec.action_dim
        actions = np.zeros((len(observations), horizon, width), np.float32)
        weights = np.zeros((len(observations), horizon), np.float32)
        for b, left in enumerate(left_over):
            if left is None:
                continue
            if left.actions.ndim != 2 or left.actions.shape[1] != width:
                raise FoveateError(f"prev_chunk_left_over: expected [n, {width}], got shape {list(left.actions.shape)}")
            rows = left.actions[:horizon]
            end = len(rows) if left.execution_horizon is None else min(len(rows), left.execution_horizon)
            actions[b, : len(rows)] = rows
            weights[b] = prefix_weights(min(left.inference_delay, end), end, horizon)
        towards = self.processor.targets(actions, np.stack([observation.state for observation in observations]))
        held = torch.from_numpy(weights)
        towards[held == 0] = 0  # what is made of no action may be anything
        if self.spec.max_delay:
            given = (held == 1) & (torch.arange(horizon) < self.spec.max_delay)
            return GivenActions(towards.to(self.device), given.to(self.device)) if given.any() else None
        return PreviousChunk(towards.to(self.device), held.to(self.device))

    def _noise(self, noise: np.ndarray | None, batch: int) -> Tensor | None:
        if self.spec.noise_shape is None:
            return None
        shape = (batch, *self.spec.noise_shape)
        if noise is not None and noise.shape != shape:
            raise FoveateError(f"noise: expected shape {shape}, got {noise.shape}")
        drawn = torch.randn(shape) if noise is None else torch.from_numpy(np.asarray(noise, np.float32))
        return drawn.to(self.device)

    def states(
        self, observations: Sequence[Observation], sessions: Sequence[str | None] | None, pruner: TokenPruner | None
    ) -> list[State] | None:
        """What a pruner with a history remembers of each session, and what the robot's state is now; None: it has none.

        Raises:
            FoveateError: the pruner has a history, and an observation belongs to no session.
        """
        if pruner is None or not pruner.has_history:
            return None
        if sessions is None or None in sessions:
            raise FoveateError(
                f"{type(pruner).__name__} chooses by what it saw before: pass session=, one name for each episode, and "
                "call reset(session) when it ends"
            )
        states = [self._states.setdefault(name, {}) for name in sessions if name is not None]
        ends = np.cumsum([dim for _, dim in self.spec.state])[:-1]
        for state, observation in zip(states, observations, strict=True):
            parts = np.split(observation.state, ends)
            state[ROBOT_STATE] = dict(zip((name for name, _ in self.spec.state), parts, strict=True))
        return states

    def _traces(
        self, result: Inference, observations: Sequence[Observation], timings: dict[str, float], options: TraceOptions
    ) -> list[Trace]:
        """Bring the evidence of a batch to the host and cut it into samples."""
        layout = result.layout
        pre, post = result.mask.sum(1).tolist(), result.post_lengths.tolist()
        patch_mask = result.mask[:, torch.as_tensor(layout.patch_index).to(result.mask.device)]
        there = patch_mask.sum(1).tolist()
        kept = there if result.keep is None else result.keep.counts().tolist()
        ahead = layout.images[0].start  # OpenVLA's BOS, which its users do not count as the task's
        arrays: dict[str, Tensor] = {"valid": patch_mask, "keep_mask": patch_mask}
        if result.keep is not None:
            arrays["keep_mask"] = result.keep.keep_mask
            if result.keep.scores is not None:
                arrays["router_scores"] = result.keep.scores.float()
            if result.keep.coordinates is not None:
                arrays["coordinates"] = result.keep.coordinates.float()
            arrays |= dict(result.keep.score_stats or {})
            if result.keep.raw_score is not None:
                arrays["raw_score"] = result.keep.raw_score.float()
            arrays |= {f"history_{name}": value for name, value in (result.keep.history or {}).items()}
        host = {name: value.cpu().numpy() for name, value in arrays.items()} if options.routing else {}
        maps = result.attention.prefix if result.attention is not None else {}
        attn = {layer: received.float().cpu().numpy() for layer, received in maps.items()}
        by_layer = [] if result.layer_tokens is None else result.layer_tokens.tolist()
        traces = []
        for b, observation in enumerate(observations):
            seq_lens = {
                "pre_seq_len": pre[b],
                "post_seq_len": post[b],
                "padded_seq_len": len(layout),
                "pre_task_len": pre[b] - there[b] - ahead,
                "post_task_len": post[b] - kept[b] - ahead,
            }
            traces.append(
                Trace(
                    layout=layout,
                    keep={name: value[b] for name, value in host.items()} or None,
                    attn={layer: received[b] for layer, received in attn.items()},
                    seq_lens=seq_lens,
                    layer_tokens=tuple(by_layer[b]) if by_layer else (),
                    timings_ms=timings,
                    model_images=self.processor.model_images(observation) if options.images else {},
                )
            )
        return traces


def _sight(rule: Rule, model: ActionModel, pruner: TokenPruner | None, prefix_cache: PrefixReuse) -> Sight:
    """Raises FoveateError where the rule does not go with the rest."""
    if not hasattr(model, "embed_coarse"):
        raise FoveateError(
            f"looking {rule.label}: {type(model).__name__} has no coarse look at a view; π0 and π0.5 have. Leave "
            "looking out"
        )
    if pruner is not None and pruner.whole_views:
        raise FoveateError(
            f"looking {rule.label}: {type(pruner).__name__.removesuffix('Pruner')} reads a view as a whole picture, of "
            "which a coarse look has every fourth patch; choose another method (lightvla, divprune, stride), or leave "
            "looking out"
        )
    if prefix_cache.pixels is not None:
        raise FoveateError(
            f"looking {rule.label} and engine.prefix_cache both reuse what was seen; leave one of them out"
        )
    return Sight(rule, model.spec)


def _of_pruner(evidence: TraceOptions | None) -> Evidence:
    """What a pruner's KeepSet shall hold for a trace."""
    if evidence is None or not (evidence.routing or evidence.raw_score):
        return "none"
    return "matrix" if evidence.raw_score else "scores"


def _on_pictures(maps: AttentionMaps, shown: Mapping[str, np.ndarray]) -> AttentionMaps:
    """The maps on these patches, view by view, and 0 on all others."""
    everywhere = np.ones(maps.valid.shape[1:], bool)
    valid = maps.valid & np.stack([shown.get(view, everywhere) for view in maps.views])
    return replace(maps, maps=maps.maps * valid, valid=valid)


def check_fitted(file: Fitted, policy: str | Path) -> None:
    """Raises FoveateError where a `fit.yaml` was made for another checkpoint than this one."""
    file.check(hash_folder(find_policy(policy)), str(policy))


def load_policy(path: str | Path, **options: Any) -> Policy:
    """Load a policy folder of any family that foveate knows, or a policy that ships with foveate by its name.

    Args:
        options: fields of `LoadOptions`. `pruner` may be a config of `foveate.pruning`, its short name (`lightvla`), a
            mapping with `name`, or the path of a `fit.yaml` made for this checkpoint; left out, or `checkpoint`: what
            the checkpoint was trained with; None or `none`: all tokens. `engine` may be a config of
            `foveate.engine.config`, or the name of a preset.
    Raises:
        FoveateError: an unknown option; something is missing, damaged or does not fit; the text says what to do.
    """
    known = [field.name for field in fields(LoadOptions) if field.name != "policy"]
    for name in options:
        if name not in known:
            raise unknown("option of load_policy", name, known)
    if isinstance(options.get("engine"), str):
        if options["engine"] not in PRESETS:
            raise unknown("engine", options["engine"], PRESETS)
        options["engine"] = PRESETS[options["engine"]]()
    if "looking" in options:
        options["looking"] = make_looking(options["looking"])
    if "pruner" in options:
        # Here None is said, and means none; among `LoadOptions` it is what nobody said.
        said = options["pruner"]
        if isinstance(said, str) and is_fitted(said):
            file = read_fitted(said)
            check_fitted(file, path)
            said = file.pruner
        options["pruner"] = None if said == "checkpoint" else make_config("none" if said is None else said)
    return LoadOptions(policy=str(path), **options).load()
