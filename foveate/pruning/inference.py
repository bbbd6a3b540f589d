"""A pruner at work in one inference: where it chooses, what of the model it looks at, what it chose.

    pruning = Pruning(pruner, model, inputs, noise)
    prefix = pruning.before(model.embed_prefix(inputs, run=pruning.vision(run)), pack)
    cache = model.prefill(prefix, after=pruning.after(pack), run=pruning.prefill(run))
    actions = model.decode(cache, inputs, noise, steps, run=pruning.denoise(run))
    pruning.remember(cache)

Engines and training run a model under a pruner by this alone. Without a pruner all of it passes on what it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.models.base import ActionModel, LayerPruner, ModelInputs, PrefixCache
from foveate.models.common.layers import Run
from foveate.pruning.base import Budget, Evidence, State, TokenPruner, find_patches
from foveate.pruning.inside import Inside, LayerAttention, Skip, TowerAttention, Watch
from foveate.types import KeepSet, Prefix, Selection

Fit = Callable[[Prefix], Prefix]


class Pruning:
    """See the module. One object serves one inference."""

    def __init__(
        self,
        pruner: TokenPruner | None,
        model: ActionModel,
        inputs: ModelInputs,
        noise: Tensor | None,
        *,
        state: Sequence[State] | None = None,
        evidence: Evidence = "none",
    ) -> None:
        """
        Raises:
            FoveateError: the method looks at what the model does not show, chooses behind a layer it lacks, or is to
                keep more patches than there are.
        """
        self.pruner, self._model, self._inputs, self._noise = pruner, model, inputs, noise
        self._state, self._evidence = state, evidence
        self._stack = model.attention_stacks()["prefix"]
        self._layers: tuple[int, ...] = () if pruner is None else pruner.layers(len(self._stack))
        self._acting = None if pruner is None else pruner.action_layer(len(self._stack))
        self._skipped: frozenset[int] = frozenset()
        self._watches: dict[str, Watch] = {}
        self._chosen: list[Selection] = []
        self._inside = Inside(self._stack, getattr(model, "final_norm", None))
        if pruner is not None:
            self._check(pruner)

    def _check(self, pruner: TokenPruner) -> None:
        name, depth = type(pruner).__name__.removesuffix("Pruner"), len(self._stack)
        budget = getattr(pruner, "config", None)
        most = max((rows * columns for rows, columns in self._model.spec.grids), default=0)
        if isinstance(budget, Budget) and budget.keep_tokens is not None and budget.keep_tokens > most:
            raise FoveateError(
                f"{name}: keep_tokens {budget.keep_tokens}, and a view has {most} patches; ask for fewer, or for a "
                "share of them with keep_ratio"
            )
        for layer in self._layers:
            if not 0 <= layer < depth - 1:
                raise FoveateError(f"{name}, pruning after backbone layer {layer}: choose one of 0 to {depth - 2}")
        if self._acting is not None and not 0 <= self._acting < depth:
            raise FoveateError(
                f"{name}, attention of the actions in layer {self._acting}: choose one of 0 to {depth - 1}"
            )
        lacking = {
            "attention": not all(hasattr(layer, "queries_keys") for layer in self._stack),
            "tower": getattr(self._model, "tower", None) is None,
        }
        for part in sorted(pruner.looks_at):
            if lacking[part]:
                what = {"attention": "of its backbone", "tower": "of its vision tower"}[part]
                raise FoveateError(
                    f"{name} goes by attention {what}, and {type(self._model).__name__} shows none; choose a method "
                    "that reads tokens alone (divprune, cdpruner, dart before the backbone)"
                )

    @property
    def keep(self) -> KeepSet | None:
        """What stays at last, of all patches that were there."""
        if not self._chosen:
            return None
        first, last = self._chosen[0].keep, self._chosen[-1].keep
        return last if first is last else KeepSet(**{**vars(last), "valid": first.valid})

    @property
    def uneven(self) -> bool:
        """Whether backbone layers see different numbers of tokens."""
        return bool(self._layers or self._skipped)

    # ---- the stages of an inference -----------------------------------------------------------------

    def vision(self, run: Run) -> Run:
        """How layers of the vision tower are called."""
        if self.pruner is None or "tower" not in self.pruner.looks_at:
            return run
        assert self._model.tower is not None
        return self._watch("vision", run, self._model.tower.layer)

    def before(self, whole: Prefix, fit: Fit) -> Prefix:
        """The prefix as the backbone gets it.

        Args:
            fit: packs what is left; not where training is to keep the length.
        """
        if self.pruner is None:
            return fit(whole)
        self._inside = Inside(self._inside.layers, self._inside.norm, whole, tower=self._tower())
        self._skipped = self.pruner.skipped(len(self._stack), whole.layout, self._flops)
        return fit(whole) if self._layers else self._choose(whole, self._inside, fit)

    def after(self, fit: Fit) -> dict[int, LayerPruner]:
        """Backbone layer -> what drops tokens behind it.

        Args:
            fit: packs what is left.
        """

        def behind(layer: int) -> LayerPruner:
            def drop(prefix: Prefix) -> Prefix:
                module, here = self._stack[layer], self._inside
                attention = None
                if self.pruner is not None and "attention" in self.pruner.looks_at:
                    attention = LayerAttention.of(module, self._watches["prefill"].calls[module])
                inside = Inside(here.layers, here.norm, here.whole, layer, attention, here.tower, here.seen)
                return self._choose(prefix, inside, fit)

            return drop

        return {layer: behind(layer) for layer in self._layers}

    def prefill(self, run: Run) -> Run:
        """How backbone layers are called."""
        if self._skipped:
            run = Skip(run, self._stack, self._skipped)
        watched = self._layers if self.pruner is not None and "attention" in self.pruner.looks_at else ()
        if self._acting is not None and not self._has_suffix:
            watched = (*watched, self._acting)
        return self._watch("prefill", run, *(self._stack[layer] for layer in watched)) if watched else run

    def denoise(self, run: Run) -> Run:
        """How layers are called while actions are decoded."""
        if self._acting is None or not self._has_suffix:
            return run
        return self._watch("denoise", run, self._model.attention_stacks()["suffix"][self._acting])

    def remember(self, cache: PrefixCache) -> None:
        """Tell a method with a history where the actions of this inference looked."""
        if self.pruner is None or self._acting is None or self._state is None:
            return
        stage = "denoise" if self._has_suffix else "prefill"
        module = self._model.attention_stacks()["suffix"][self._acting]
        if stage not in self._watches:  # decoded from an earlier inference's prefix
            return
        slots, there = find_patches(cache.prefix)
        rows = None if self._has_suffix else _slots_of(cache.prefix, "action")
        attention = LayerAttention.of(module, self._watches[stage].calls[module])
        received = attention.rows(rows).mean((1, 2))
        self.pruner.remember(received.gather(1, slots).masked_fill(~there, 0.0), self._state)

    # ---- within -------------------------------------------------------------------------------------

    @property
    def _has_suffix(self) -> bool:
        """Whether actions stand behind the prefix, in layers of their own."""
        stacks = self._model.attention_stacks()
        return stacks["suffix"] is not stacks["prefix"]

    def _watch(self, stage: str, run: Run, *layers: nn.Module) -> Run:
        watch = self._watches[stage] = Watch(run, *layers)
        return watch

    def _tower(self) -> TowerAttention | None:
        watch, tower = self._watches.get("vision"), getattr(self._model, "tower", None)
        if watch is None or tower is None or tower.layer not in watch.calls:  # no camera is there
            return None
        return TowerAttention.of(tower, watch.calls[tower.layer].tensors[0], self._inputs.on_host()[0])

    def _flops(self, tokens: Sequence[int]) -> float:
        """Of prefill and decoding."""
        stages = self._model.flops(0, tokens, self._model.spec.num_steps)
        return stages["prefill"] + stages["denoise"]

    def _choose(self, prefix: Prefix, inside: Inside, fit: Fit) -> Prefix:
        assert self.pruner is not None
        queries = self._model.extra_queries(self._inputs, self._noise, self.pruner.queries)
        selection = self.pruner.select(prefix, queries, state=self._state, evidence=self._evidence, inside=inside)
        self._chosen.append(selection)
        left = selection.apply(prefix)
        return left if selection.keeps_length else fit(left)


def _slots_of(prefix: Prefix, kind: str) -> Tensor:
    """int64 [B, R]: the slots of all tokens of a kind that no method drops."""
    tokens = torch.as_tensor(prefix.layout.tokens_of(kind), device=prefix.mask.device)  # type: ignore[arg-type]
    if prefix.source is None:
        return tokens.expand(prefix.mask.shape[0], -1)
    return (prefix.source[:, None] == tokens[:, None]).long().argmax(-1)
