"""The engine: vision, prune, prefill, denoise, each stage by a backend of its own and timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveate.engine.base import Inference, Prefilled
from foveate.engine.buckets import Buckets
from foveate.engine.compiled import no_compilation
from foveate.engine.parts import PreparedParts
from foveate.engine.timer import StageTimer
from foveate.errors import FoveateError
from foveate.models.base import NOTHING_AFTER, ActionModel, LayerPruner, ModelInputs, PrefixCache, pack
from foveate.models.common.layers import Run, as_written, transpose_storage
from foveate.models.common.real_time import GivenActions, PreviousChunk
from foveate.pruning import label
from foveate.pruning.base import Evidence, State, TokenPruner, patches_of
from foveate.pruning.inference import Pruning
from foveate.tracing.capture import AttentionResult, capture_attention
from foveate.types import AttentionRequest, Prefix
from foveate.util.progress import SILENT, Reporter
from foveate.util.words import plural

AS_WRITTEN: Mapping[str, Run] = dict.fromkeys(("vision", "prefill", "denoise"), as_written)


class StagedEngine:
    """Runs a model stage by stage; an `Engine`."""

    def __init__(
        self,
        model: ActionModel,
        runs: Mapping[str, Run] = AS_WRITTEN,
        buckets: Buckets | None = None,
        *,
        backbone: ActionModel | None = None,
        backends: Mapping[str, str] | None = None,
        facts: Callable[[], Mapping[str, Any]] = dict,
        compile_pruned: bool = True,
        told: Sequence[str] = (),
    ) -> None:
        """
        Args:
            runs: stage -> how its parts are called.
            buckets: lengths that prefixes are padded to; None: they are packed exactly.
            backbone: a stand-in for the model whose prefill is run, in fewer bits; None: the model's own.
            backends: stage -> name of its backend, for reports.
            facts: what else reports say.
            compile_pruned: False: pruned queries run as written.
            told: what a user should know about this engine; `prepare` says it.
        """
        if isinstance(model, nn.Module):
            model.eval()
            if next(model.parameters()).device.type == "cpu":
                transpose_storage(model)
        self.model, self.buckets = model, buckets
        self._backbone = model if backbone is None else backbone
        self._runs, self._backends, self._told = runs, dict(backends or {}), list(told)
        self._facts = facts
        self._compile_pruned = compile_pruned
        self._as_written: Counter[str] = Counter()
        """Why queries ran as written -> how many did."""

    @property
    def prepared(self) -> list[PreparedParts]:
        """The stages that run what was made for their shapes."""
        return [run for run in self._runs.values() if isinstance(run, PreparedParts)]

    @torch.inference_mode()
    def run(
        self,
        inputs: ModelInputs,
        noise: Tensor | None,
        *,
        pruner: TokenPruner | None = None,
        steps: int | None = None,
        attention: AttentionRequest | None = None,
        evidence: Evidence = "none",
        state: Sequence[State] | None = None,
        prefilled: Prefilled | None = None,
        previous: PreviousChunk | GivenActions | None = None,
    ) -> Inference:
        model, spec = self.model, self.model.spec
        if isinstance(previous, PreviousChunk) and not self.guides:
            raise FoveateError(self._cannot_guide())
        timer = StageTimer(inputs.images.device)
        runs = self._runs_of(inputs, pruner, attention)
        pruning = Pruning(pruner, model, inputs, noise, state=state, evidence=evidence)

        def fit(prefix: Prefix) -> Prefix:
            return self.buckets.pack(prefix) if self.buckets is not None and runs is self._runs else pack(prefix)

        result: AttentionResult | None = None
        patches: Tensor | None = None
        with ExitStack() as stack:
            if self.prepared:
                stack.enter_context(no_compilation())
            if prefilled is None or attention is not None:
                with timer("vision"):
                    whole = model.embed_prefix(inputs, run=pruning.vision(runs["vision"]))
                if inputs.looks is not None:
                    patches = patches_of(whole)
                with timer("prune"):
                    prefix = pruning.before(whole, fit)
                if attention is not None:
                    asked = steps or spec.num_steps or 1
                    watch = capture_attention(attention, prefix, model.attention_stacks(), spec.action_horizon, asked)
                    result = stack.enter_context(watch)
                after = {layer: _told(drop, layer, result) for layer, drop in pruning.after(fit).items()}
                backbone = self._backbone if runs is self._runs else model
                with timer("prefill"):
                    cache = backbone.prefill(prefix, after=after, run=pruning.prefill(runs["prefill"]))
                    cache = self._cache_for(runs["denoise"], cache)
                prefilled = Prefilled(whole.layout, pruning.keep, whole.mask, cache)
            else:
                timer.ms.update(dict.fromkeys(("vision", "prune", "prefill"), 0.0))
            with timer("denoise"):
                if previous is None:
                    run = pruning.denoise(runs["denoise"])
                    actions = model.decode(prefilled.cache, inputs, noise, steps, run=run)
                else:
                    if runs["denoise"] is not as_written:
                        self._as_written["a given prefix of actions"] += 1
                    actions = model.decode_after(prefilled.cache, inputs, noise, steps, previous)  # type: ignore[attr-defined]
                pruning.remember(prefilled.cache)
        lengths = prefilled.cache.prefix.mask.sum(1)
        there = (prefilled.layout, prefilled.keep, prefilled.mask)
        by_layer = prefilled.cache.lengths() if pruning.uneven else None
        return Inference(actions, *there, lengths, by_layer, timer.ms, result, prefilled, patches)

    @property
    def guides(self) -> bool:
        """Whether actions can be guided towards a chunk before: the family can, and denoising runs as written."""
        return hasattr(self.model, "decode_after") and self._runs["denoise"] is as_written

    def _cannot_guide(self) -> str:
        if not hasattr(self.model, "decode_after"):
            return (
                f"real-time chunking: {type(self.model).__name__} decodes without noise, and there is no flow to guide"
            )
        backend = self._backends.get("denoise", "of this engine")
        return (
            f"real-time chunking: the denoising backend {backend!r} has no gradients, which guidance needs; "
            "choose --engine.denoise eager"
        )

    def _cache_for(self, run: Run, cache: PrefixCache) -> PrefixCache:
        """A cache as the denoising is prepared to read it."""
        if not isinstance(run, PreparedParts):
            return cache
        return run.cache(cache, self.buckets.lengths[-1] if self.buckets is not None and self.buckets.lengths else 0)

    def _runs_of(
        self, inputs: ModelInputs, pruner: TokenPruner | None, attention: AttentionRequest | None
    ) -> Mapping[str, Run]:
        """How the parts of this query are called."""
        if not self.prepared and self._backbone is self.model:
            return self._runs
        if inputs.looks is not None and not inputs.looks.full:
            self._as_written["views looked at at several levels"] += 1
            return AS_WRITTEN
        if attention is not None:
            # Attention is observed inside of the model's layers; it never runs in the path that is measured.
            self._as_written["attention asked for"] += 1
            return AS_WRITTEN
        if pruner is not None and pruner.looks_inside:
            self._as_written["the pruner works inside of the layers"] += 1
            return AS_WRITTEN
        if pruner is not None and pruner.enabled and not self._compile_pruned:
            self._as_written["pruned"] += 1
            return AS_WRITTEN
        return self._runs

    @torch.inference_mode()
    def prepare(
        self,
        inputs: ModelInputs,
        noise: Tensor | None,
        pruner: TokenPruner | None = None,
        report: Reporter = SILENT,
    ) -> None:
        """Compile all that queries like this one need, at every length of the buckets; nothing compiles after that.

        Called again it prepares the lengths that were too long for every bucket since, too.

        Args:
            inputs: a batch of the size that queries have; single samples and batches of other sizes are ready too.
            pruner: that will choose; where no buckets are set, they span what it may leave.
        """
        for line in self._told:
            report.warn(line)
        self._told = []
        if not self.prepared:
            return
        batches = [(inputs, noise)]
        if len(inputs.tokens) > 1:
            batches.append((first_sample(inputs), None if noise is None else noise[:1]))
        whole = self.model.embed_prefix(inputs)
        lengths = () if self.buckets is None else self.buckets.to_prepare(label_of(pruner), spans_of(whole, pruner))
        after = NOTHING_AFTER if pruner is None or pruner.layer is None else {pruner.layer: _as_it_is}
        if self._backbone is not self.model:
            # Layers may settle by the first numbers that they see: before they are compiled.
            self._backbone.prefill(pack(whole), after=after)
        with ExitStack() as stack:
            for run in self.prepared:
                stack.enter_context(run.preparing())
            bar = stack.enter_context(report.bar("compiling", "parts", len(batches) * (len(lengths) + 2)))
            for given, start in batches:
                whole = self.model.embed_prefix(given, run=self._runs["vision"])
                bar.advance()
                cache = None
                for length in lengths:
                    try:
                        cache = self._prefill(whole, length, after)
                    except torch.OutOfMemoryError as error:
                        raise _too_many(lengths, length) from error
                    if self.buckets is not None:
                        self._forget(self.buckets.add(length, _bytes(cache)))
                    bar.advance()
                denoise = self._runs["denoise"]
                longest = cache or self._backbone.prefill(pack(whole), after=after)
                self.model.decode(self._cache_for(denoise, longest), given, start, None, run=denoise)
                bar.advance()
        for run in self.prepared:
            for line in run.notes():
                report.warn(line)

    def _forget(self, lengths: Sequence[int]) -> None:
        run = self._runs["prefill"]
        for length in lengths:
            if isinstance(run, PreparedParts):
                run.forget(length)

    def _prefill(self, whole: Prefix, length: int, after: Mapping[int, LayerPruner]) -> PrefixCache:
        """Run the backbone over the first tokens of a prefix at one length."""
        first = torch.arange(whole.mask.shape[1], device=whole.mask.device) < length
        prefix = pack(whole, first.expand_as(whole.mask), length=length)
        return self._backbone.prefill(prefix, after=after, run=self._runs["prefill"])

    def report(self) -> dict[str, Any]:
        """Backends, buckets, compilation, and queries that ran as written; plain values, for results."""
        facts: dict[str, Any] = {"backends": self._backends, **self._facts()}
        if self.prepared:
            facts |= {
                "compile_s": round(sum(run.seconds for run in self.prepared), 1),
                "compiled": sum(len(run) for run in self.prepared),
                "parts_as_written": sum(run.unprepared for run in self.prepared),
                **{name: fact for run in self.prepared for name, fact in run.facts().items()},
            }
        if self.prepared or self._backbone is not self.model:
            facts["queries_as_written"] = dict(self._as_written)
        if self.buckets is not None:
            facts["buckets"] = self.buckets.report()
        return facts


PROMPTS = (8, 48)
"""Tokens of the shortest prompt that buckets are spread for, and of the longest one where the layout does not tell."""


def spans_of(whole: Prefix, pruner: TokenPruner | None) -> list[tuple[int, int]]:
    """The shortest and the longest prefix that queries like this one can have, whatever the prompt; of a pruner behind
    a layer those that it leaves, and those before it."""
    parts = whole.layout.spans
    full = np.array([int(whole.mask[0, part.start : part.stop].sum()) for part in parts])
    active = pruner is not None and pruner.enabled
    budget = pruner.at_most(whole) if pruner is not None and active else full[None]

    def span(fewest: np.ndarray, most: np.ndarray) -> tuple[int, int]:
        shortest = longest = 0
        for i, part in enumerate(parts):
            if part.name == "text":
                shortest, longest = shortest + min(int(full[i]), PROMPTS[0]), longest + max(len(part), PROMPTS[1])
            else:
                low, high = (fewest, most) if part.kind == "image" else (full, full)
                shortest, longest = shortest + int(low[i]), longest + int(high[i])
        return shortest, longest

    if budget is None:
        return [span(np.minimum(full, 1), full)]
    before = [span(full, full)] if pruner is not None and active and pruner.late else []
    return [span(budget[0], budget[0]), *before]


def label_of(pruner: TokenPruner | None) -> str:
    """What lengths are planned under."""
    return label(None if pruner is None or not pruner.enabled else getattr(pruner, "config", None))


def _too_many(lengths: Sequence[int], length: int) -> FoveateError:
    fewer = [one for one in lengths if one < length] or [length // 2]
    return FoveateError(
        f"out of memory while preparing the prefill for {length} tokens, after {lengths.index(length)} of "
        f"{plural(len(lengths), 'length')}; prepare fewer or shorter ones: --engine.buckets {','.join(map(str, fewer))}"
    )


def first_sample(inputs: ModelInputs) -> ModelInputs:
    """The first observation of a batch, alone."""
    fields: dict[str, Any] = {name: value[:1] for name, value in vars(inputs).items() if isinstance(value, Tensor)}
    views, words = inputs.on_host()
    return ModelInputs(**fields, host_masks=(views[:1], words[:1]))


def _as_it_is(prefix: Prefix) -> Prefix:
    return prefix


def _bytes(cache: PrefixCache) -> int:
    return sum(t.numel() * t.element_size() for pair in cache.keys_values for t in pair)


def _told(drop: LayerPruner, layer: int, result: AttentionResult | None) -> LayerPruner:
    """The same between two layers, with the attention that is captured told what is left."""

    def run(prefix: Prefix) -> Prefix:
        left = drop(prefix)
        if result is not None:
            result.dropped_after(layer, left)
        return left

    return run
