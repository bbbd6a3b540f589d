"""The price of a whole comparison is three passes: every row is a look-up in the same cached answers.

    experiment = Experiment(config, vlm)
    experiment.make_passes(samples, needs, pruned)
    scored = experiment.scored(dataset, samples, needs, pruned)
    rows = experiment.rows(scored, matrix_rules(...))

Each question is answered once per action, and once per share of vision tokens that is kept; rules, thresholds, lambdas
and checkpoints then choose among these answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.evaluation.vqa.cache import PassCache, config_hash
from foveate.evaluation.vqa.config import VqaConfig
from foveate.evaluation.vqa.oracle import ChanceCorrected
from foveate.evaluation.vqa.passes import TOKENS_PASS, PassOptions, PrunedPass, VLMLike, inspect_images, run_passes
from foveate.evaluation.vqa.rows import PRUNING, AnyRule, RuleResult, rule_results
from foveate.evaluation.vqa.scored import PrunedOutcomes, ScoredPasses, Scorer, score_passes
from foveate.types import VQASample
from foveate.util.shipped import VLMS, shipped
from foveate.vision_value.baselines import (
    EVERY_PASS,
    Always,
    Cascade,
    Oracle,
    RandomMatched,
    Rule,
    StringLookup,
    UncertaintyThreshold,
    make_rule,
)
from foveate.vision_value.baselines.random_matched import bucket_ratios, quantile_thresholds
from foveate.vision_value.baselines.uncertainty_threshold import between
from foveate.vision_value.checkpoint import TrainedHead
from foveate.vision_value.choose import lambda_grid
from foveate.vision_value.config import HeadConfig
from foveate.vision_value.learned import Learned, WithFallback, with_fallback

ALWAYS_SHOWN = ("random", "downsample")
"""Ways of showing less that stand beside every pruning method, at the same shares."""
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the set's uncertainties: thresholds of the rules where nobody names or learned others."""

UNSEEN = "this model was trained on whole COARSE and FULL pictures alone: fewer tokens are new to it"
"""Beside a look with fewer tokens of a model that ships with foveate: a model trained for them would lose less."""


@dataclass
class Experiment:
    """One model, its cache, and the data sets of one command."""

    config: VqaConfig
    vlm: VLMLike
    score: Scorer
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        self.meta = cache_meta(self.config, self.vlm)
        folder = self.config.eval.cache_dir or f"outputs/vqa_cache/{config_hash(self.meta)}"
        self.cache = PassCache(Path(folder), self.meta)

    def make_passes(
        self,
        samples: Sequence[VQASample],
        needs: Iterable[str],
        pruned: Sequence[PrunedPass] = (),
        on_plan: Callable[[int], None] | None = None,
        on_answers: Callable[[int], None] | None = None,
    ) -> None:
        """This process's share of what the cache lacks."""
        names = passes_of(needs)
        run_passes(
            self.vlm,
            samples,
            names,
            self.cache,
            self.options,
            pruned=pruned,
            on_plan=on_plan,
            on_answers=on_answers,
        )

    @property
    def options(self) -> PassOptions:
        """How passes are made."""
        keys = self.config.eval
        seed = self.config.training.seed
        return PassOptions(
            keys.decoding(seed),
            keys.batch_size,
            keys.cache_reuse,
            self.rank,
            self.processes,
            self.config.data.max_pixels,
        )

    def scored(
        self, dataset: str, samples: Sequence[VQASample], needs: Iterable[str], pruned: Sequence[PrunedPass] = ()
    ) -> ScoredPasses:
        """All passes over one data set, scored."""
        broken = inspect_images(samples, self.cache, self.options.max_pixels)
        return score_passes(dataset, samples, self.cache, passes_of(needs), self.score, pruned, broken)

    def rows(self, scored: ScoredPasses, rules: Sequence[AnyRule]) -> list[RuleResult]:
        """The rows of these rules, with intervals and what belongs to every row of this run."""
        config = self.config
        found = rule_results(scored, rules, config.policy, resamples=config.eval.bootstrap, seed=config.training.seed)
        cuts = quantile_thresholds(scored.outcomes.entropy)
        several = len({item.row["checkpoint"] for item in found} - {None}) > 1
        for item in found:
            if several and item.row["checkpoint"]:
                item.row["row"] += f" ({item.row['checkpoint']})"
            item.row["cache_reuse"] = reuse_note(self.vlm, config.eval.cache_reuse)
            if (
                isinstance(item.rule, PrunedOutcomes)
                and item.rule.spec.ratio < 1
                and config.model.path in shipped(VLMS)
            ):
                item.row["note"] = UNSEEN
            if isinstance(item.rule, Learned | WithFallback):
                # For `foveate value buckets`; in JSON alone.
                item.row["bucket_thresholds"] = list(cuts)
                item.row["bucket_ratios"] = bucket_ratios(scored.outcomes.entropy, item.decisions.action, cuts)
        return found


def cache_meta(config: VqaConfig, vlm: VLMLike) -> dict[str, Any]:
    """All that an answer depends on beside the question: the fingerprint covers weights, prompt and budget."""
    decoding = config.eval.decoding(config.training.seed)
    drawn = {"temperature": decoding.temperature, "seed": decoding.seed} if decoding.do_sample else {}
    budget = getattr(vlm, "budget", None)
    template = getattr(getattr(getattr(vlm, "prompts", None), "template", None), "text", None)
    return {
        "model": config.model.path,
        "fingerprint": vlm.fingerprint,
        "dtype": config.model.dtype,
        "prompt": template,
        "budget": None if budget is None else {k: v for k, v in vars(budget).items()},
        "max_new_tokens": decoding.max_new_tokens,
        "num_beams": decoding.num_beams,
        "do_sample": decoding.do_sample,
        **drawn,
    }


def reuse_note(vlm: VLMLike, asked: bool) -> str:
    """`true`, `false`, or why the text-first cache could not be reused."""
    obstacle = getattr(vlm, "reuse_obstacle", "")
    return "false" if not asked else f"no: {obstacle}" if obstacle else "true"


def passes_of(needs: Iterable[str]) -> list[str]:
    """The passes that rules need, in the order they run. A coarse look's cost is a share of the full one's."""
    needs = set(needs)
    extra = {TOKENS_PASS} if "COARSE" in needs and "FULL" not in needs else set()
    return [name for name in ("text", "NO", "COARSE", "FULL", TOKENS_PASS) if name in needs | extra]


def pruned_passes(ratios: Iterable[float], modes: Iterable[str]) -> list[PrunedPass]:
    """One look per mode and share; at a share of 1 it is the FULL pass, which costs nothing more."""
    return [PrunedPass(mode, ratio) for mode in dict.fromkeys(modes) for ratio in dict.fromkeys(ratios)]


def asked(config: VqaConfig) -> tuple[frozenset[str], list[PrunedPass]]:
    """Passes that this configuration cannot do without, and its looks with fewer tokens."""
    keys = config.policy
    pruned = pruned_passes(config.ratios, (config.mode, *ALWAYS_SHOWN))
    if keys.baseline_name == PRUNING:
        own = pruned_passes([keys.baseline_pruning_ratio], [keys.baseline_pruning_mode, *ALWAYS_SHOWN])
        return frozenset({"FULL"}), list(dict.fromkeys([*own, *pruned]))
    if keys.baseline_name in (None, "string_lookup"):
        return EVERY_PASS, pruned
    needs = with_fallback(make_rule(keys), keys).needs
    return needs | ({"FULL"} if pruned else set()), pruned


def asked_rules(config: VqaConfig, scored: ScoredPasses, heads: Sequence[TrainedHead]) -> list[AnyRule]:
    """The rows of `results.csv`: the configured rule alone, or the learned head at every lambda and checkpoint."""
    keys = config.policy
    if keys.baseline_name == PRUNING:
        own = keys.baseline_pruning_mode, keys.baseline_pruning_ratio
        return [p for p in scored.pruned if (p.spec.mode, p.spec.ratio) == own]
    if keys.baseline_name is not None:
        lookup = next((p.lookup for p in heads if p.lookup), None)
        return [with_fallback(make_rule(keys, lookup), keys)]
    return [with_fallback(rule, keys) for rule in learned_rules(config, heads)]


def learned_rules(config: VqaConfig, heads: Sequence[TrainedHead]) -> list[Learned]:
    """A row per checkpoint and lambda; a head whose lambda is trained into it has one row."""
    rules = []
    for trained in heads:
        own = trained.facts.get("lambda_cost", config.policy.lambda_cost)
        lambdas = lambdas_of(config) if trained.head.shape.learns == "gains" else (own,)
        name = checkpoint_name(trained, heads)
        rules += [Learned(trained.head, lam, config.policy, name) for lam in lambdas]
    return rules


def checkpoint_name(trained: TrainedHead, heads: Sequence[TrainedHead]) -> str:
    """The name of a head among the others of a run: its path, or its file's name where it is alone."""
    return trained.path if len(heads) > 1 else Path(trained.path).name


def lambdas_of(config: VqaConfig) -> tuple[float, ...]:
    return config.pareto or (config.policy.lambda_cost,)


def matrix_rules(config: VqaConfig, scored: ScoredPasses, heads: Sequence[TrainedHead]) -> list[AnyRule]:
    """The rows of `eval_matrix.csv`: the asked ones and what they must be compared with.

    Of the learned head that is every baseline; a fixed rule has the looks with fewer tokens beside it.
    """
    if config.policy.baseline_name is not None:
        wanted = asked_rules(config, scored, heads)
        return [*wanted, *(look for look in scored.pruned if all(look is not rule for rule in wanted))]
    outcomes, keys = scored.outcomes, config.policy
    facts = heads[0].facts if heads else {}
    rules: list[AnyRule] = [Always("FULL"), Always("COARSE"), Always("NO")]
    learned = learned_rules(config, heads)
    learned += [
        Learned(p.head, p.facts["chosen_lambda"], keys, checkpoint_name(p, heads), True)
        for p in heads
        if p.facts.get("chosen_under") == keys.prices
    ]
    rules += learned
    if keys.fallback_mode is not None:
        rules += [with_fallback(rule, keys) for rule in learned]
    for rule in learned:
        action = rule.decide(outcomes).action
        no, coarse, full = (np.bincount(action, minlength=3) / len(action)).tolist()
        cuts = quantile_thresholds(outcomes.entropy)
        buckets = bucket_ratios(outcomes.entropy, action, cuts)
        twin: dict[str, Any] = {
            "seed": keys.baseline_seed,
            "lambda_cost": rule.lambda_cost,
            "checkpoint": rule.checkpoint,
            "draws": keys.baseline_draws,
        }
        rules.append(RandomMatched((no, coarse, full), **twin))
        shares = tuple((b[0], b[1], b[2]) for b in buckets)
        rules.append(RandomMatched(bucket_ratios=shares, bucket_thresholds=cuts, **twin))
    lookup = next((p.lookup for p in heads if p.lookup), None)
    if lookup:
        rules += lookup_rules(lookup, scored, keys)
    rules += threshold_rules(config, scored, facts)
    pairs = facts.get("cascades") or [(t, t) for t in dict.fromkeys(between(outcomes.answer_entropy[:, 0], QUANTILES))]
    rules += [Cascade(float(a), float(b)) for a, b in pairs]
    return [*rules, *oracles(scored), *scored.pruned]


def oracles(scored: ScoredPasses) -> list[Oracle | ChanceCorrected]:
    """The cheapest right action, and where a question has options the same without lucky guesses."""
    fair = ChanceCorrected.of(scored)
    return [Oracle(), *([fair] if fair else [])]


def lookup_rules(
    table: Mapping[str, tuple[float, float, float]], scored: ScoredPasses, config: HeadConfig
) -> list[StringLookup]:
    """The wording's rule over the whole grid of lambdas, whatever `pareto` says; of those that do the same one."""
    found: dict[bytes, StringLookup] = {}
    for lam in lambda_grid(scored.outcomes.tokens, config):
        rule = StringLookup(table, lam, config)
        found.setdefault(rule.decide(scored.outcomes).action.tobytes(), rule)
    return list(found.values())


def threshold_rules(config: VqaConfig, scored: ScoredPasses, facts: Any) -> list[Rule]:
    """The uncertainty rule at the thresholds asked for, else at those chosen on validation, else at quantiles."""
    given: Sequence[float] = config.thresholds
    if not given:
        values = scored.outcomes.entropy if config.uncertainty == "entropy" else scored.outcomes.margin
        learned = facts.get("thresholds") if config.uncertainty == "entropy" and config.vision == "full" else None
        given = learned or list(dict.fromkeys(between(values, QUANTILES)))
    return [UncertaintyThreshold(float(t), config.uncertainty, config.vision) for t in given]


def need_head(config: VqaConfig, heads: Sequence[TrainedHead]) -> None:
    """Refuse what only a trained head can answer where there is none."""
    if heads or (config.policy.baseline_name not in (None, "string_lookup")) or not config.pareto:
        return
    raise FoveateError(
        "--pareto asks for the learned head at several lambdas, and there is no trained one: `foveate train value` "
        f"writes it into training.output_dir ({config.training.output_dir}); or name one with --checkpoint, or "
        "eval.ddp_checkpoint_path"
    )
