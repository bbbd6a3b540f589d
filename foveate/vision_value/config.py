"""What decides between NO, COARSE and FULL, what it costs, and how it is trained: the keys `policy.*` and `training.*`.

The keys of a whole experiment (`model.* data.* eval.*` beside these) are in `foveate/evaluation/vqa/config.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foveate.errors import FoveateError
from foveate.types import VisionLevel

Action = VisionLevel

BaselineName = Literal[
    "always_full",
    "always_coarse",
    "no_vision",
    "uncertainty_threshold",
    "random_policy_matched",
    "vision_token_pruning_proxy",
    "string_lookup",
    "cascade",
    "oracle",
]
Uncertainty = Literal["entropy", "margin"]
Look = Literal["coarse", "full"]
Activation = Literal["gelu", "relu", "silu", "tanh"]
FeatureMode = Literal["hidden", "hidden_entropy", "hidden_margin", "hidden_entropy_margin"]
PruningMode = Literal[
    "stride", "topk_norm", "random", "downsample", "pool", "lightvla", "divprune", "cdpruner", "dart"
]  # fmt: skip
Ratios = tuple[float, float, float]


@dataclass(frozen=True)
class HeadConfig:
    """Who decides whether, and how closely, to look: a learned head, or a fixed rule in its place."""

    baseline_name: BaselineName | None = None
    """A fixed rule in place of the learned head; null: the learned head."""
    baseline_uncertainty: Uncertainty | None = None
    """Uncertainty that `uncertainty_threshold` and `cascade` read: entropy (nats), or margin (first probability less
    the second, in [0, 1])."""
    baseline_threshold: float | None = None
    """Threshold of `uncertainty_threshold` and `cascade`: they look where entropy is above it, or margin below it."""
    baseline_coarse_threshold: float | None = None
    """Threshold of `cascade` for the coarse answer, above which it goes on to FULL; null: `baseline_threshold`."""
    baseline_vision: Look = "full"
    """Level at which `uncertainty_threshold` looks."""
    baseline_target_ratios: Ratios | None = None
    """Shares of NO, COARSE and FULL that `random_policy_matched` draws; their sum is 1."""
    baseline_seed: int = 42
    """Random seed of the actions that `random_policy_matched` draws."""
    baseline_draws: int = 100
    """Number of draws whose mean is the row of `random_policy_matched`."""
    baseline_bucket_ratios: tuple[Ratios, Ratios, Ratios] | None = None
    """Shares that `random_policy_matched` draws in each of three entropy buckets, low to high; `foveate value buckets`
    writes them."""
    baseline_bucket_thresholds: tuple[float, float] | None = None
    """Entropies between the buckets, in nats; null: terciles of the set at hand."""
    baseline_pruning_ratio: float = 0.5
    """Share of the vision tokens that `vision_token_pruning_proxy` keeps, in (0, 1]."""
    baseline_pruning_mode: PruningMode = "stride"
    """Which tokens `vision_token_pruning_proxy` keeps. `downsample` shows a smaller picture instead, `pool`
    averages neighbours, `lightvla`, `cdpruner` and `dart` go by the question too, `divprune` by the picture alone."""
    lambda_cost: float = 0.05
    """What one unit of cost must earn, in nats per answer token (with `cost_unit: full`: what FULL must earn)."""
    cost_scale: float = 1.0
    """Factor on the cost, in training and in the choice; 0.001 or so with `cost_unit: tokens`."""
    cost_unit: Literal["full", "tokens"] = "full"
    """`full`: the cost of a FULL look is 1; `tokens`: vision tokens as they are counted."""
    cost_overhead_tokens: float = 2.0
    """What a look costs whatever its size, in vision tokens (start and end tokens, launch of the encoder)."""
    use_straight_through: bool | None = None
    """What stage 2 minimises: null: gains are learned (`gain_loss`); true: task + lambda_cost * cost with Gumbel
    straight-through; false: the same over the soft mixture of the three answers."""
    gain_loss: Literal["regress", "rank"] = "regress"
    """How gains are learned: smooth L1, or by the order of the actions with the gains as margins."""
    gumbel_temperature: float = 1.0
    """Temperature of the Gumbel-softmax with `use_straight_through: true`; above 0."""
    feature_mode: FeatureMode = "hidden_entropy_margin"
    """Inputs of the head, out of the text-first pass: hidden state, entropy, margin."""
    action_space: Literal["binary", "ternary"] = "ternary"
    """Actions to choose from. `binary`: NO or FULL; `ternary`: COARSE too."""
    vow_hidden_dim: int = 256
    """Width of the head's hidden layers, in units."""
    vow_hidden_layers: int = 3
    """Number of hidden layers of the head."""
    vow_activation: Activation = "gelu"
    """Activation of the hidden layers; a checkpoint of another trainer does not say which one its head had."""
    fallback_mode: Look | None = None
    """Raise NO to this where the text-first pass is unsure; null: never."""
    fallback_entropy_threshold: float | None = None
    """NO is raised above this entropy, in nats."""
    fallback_margin_threshold: float | None = None
    """NO is raised below this margin, in [0, 1]."""

    def __post_init__(self) -> None:
        self._check_numbers()
        name = self.baseline_name
        if name in ("uncertainty_threshold", "cascade") and (
            self.baseline_uncertainty is None or self.baseline_threshold is None
        ):
            raise FoveateError(
                f"policy.baseline_name: {name} needs policy.baseline_uncertainty (entropy or margin) and "
                f"policy.baseline_threshold (a number), got {self.baseline_uncertainty} and {self.baseline_threshold}"
            )
        if self.baseline_threshold is not None and self.baseline_uncertainty is None:
            raise FoveateError(
                f"policy.baseline_threshold: {self.baseline_threshold} is a threshold of what? Set "
                "policy.baseline_uncertainty to entropy or margin"
            )
        if self.baseline_coarse_threshold is not None and name != "cascade":
            raise FoveateError(
                "policy.baseline_coarse_threshold is the second threshold of policy.baseline_name: cascade, got "
                f"baseline_name {name}"
            )
        if name == "random_policy_matched" and self.baseline_target_ratios is None and not self.baseline_bucket_ratios:
            raise FoveateError(
                "policy.baseline_name: random_policy_matched needs policy.baseline_target_ratios: [no, coarse, full], "
                "or policy.baseline_bucket_ratios; `foveate value buckets` derives both from a run"
            )
        check_ratios("policy.baseline_target_ratios", self.baseline_target_ratios)
        for bucket in self.baseline_bucket_ratios or ():
            check_ratios("policy.baseline_bucket_ratios", bucket)
        self._check_fallback()

    @property
    def prices(self) -> dict[str, str | float]:
        """What a lambda means: one that was chosen under other prices says nothing."""
        return {
            "cost_unit": self.cost_unit,
            "cost_scale": self.cost_scale,
            "cost_overhead_tokens": self.cost_overhead_tokens,
            "action_space": self.action_space,
        }

    @property
    def objective(self) -> dict[str, str | float | bool | None]:
        """The fields that say what stage 2 minimises; where actions are learned, their prices are among them."""
        if self.use_straight_through is None:
            return {"use_straight_through": None, "gain_loss": self.gain_loss}
        relaxed = {"gumbel_temperature": self.gumbel_temperature} if self.use_straight_through else {}
        return {"use_straight_through": self.use_straight_through, **relaxed, **self.prices}

    def _check_numbers(self) -> None:
        if not 0 < self.baseline_pruning_ratio <= 1:
            raise FoveateError(
                f"policy.baseline_pruning_ratio: expected a share in (0, 1], got {self.baseline_pruning_ratio}"
            )
        for key in ("lambda_cost", "cost_scale", "cost_overhead_tokens"):
            if not getattr(self, key) >= 0:
                raise FoveateError(f"policy.{key}: expected at least 0, got {getattr(self, key)}")
        for key in ("vow_hidden_dim", "vow_hidden_layers", "baseline_draws"):
            if getattr(self, key) < 1:
                raise FoveateError(f"policy.{key}: expected at least 1, got {getattr(self, key)}")
        if not self.gumbel_temperature > 0:
            raise FoveateError(f"policy.gumbel_temperature: expected more than 0, got {self.gumbel_temperature}")
        buckets = self.baseline_bucket_thresholds
        if buckets is not None and (self.baseline_bucket_ratios is None or not buckets[0] <= buckets[1]):
            raise FoveateError(
                f"policy.baseline_bucket_thresholds: expected two ascending entropies beside "
                f"policy.baseline_bucket_ratios, got {list(buckets)}"
            )

    def _check_fallback(self) -> None:
        thresholds = (self.fallback_entropy_threshold, self.fallback_margin_threshold)
        if self.fallback_mode is not None and thresholds == (None, None):
            raise FoveateError(
                f"policy.fallback_mode: {self.fallback_mode} needs policy.fallback_entropy_threshold or "
                "policy.fallback_margin_threshold"
            )
        if self.fallback_mode is None and thresholds != (None, None):
            raise FoveateError("a fallback threshold is set, but policy.fallback_mode is not: set it to coarse or full")
        if self.fallback_mode == "coarse" and self.action_space == "binary":
            raise FoveateError("policy.fallback_mode: coarse is not among the actions of policy.action_space: binary")


@dataclass(frozen=True)
class TrainingConfig:
    """How the model (stage 1) and the head (stage 2) are trained."""

    seed: int = 0
    """Random seed of the head's initial weights, of the order of samples and of draws; in evaluation of sampled answers
    and of bootstraps."""
    stage1_epochs: int = 0
    """Number of epochs in which the model itself is tuned; 0 leaves it as it is."""
    stage1_baseline_name: Literal["always_full", "always_coarse", "no_vision"] = "always_full"
    """Level at which the model looks during stage 1."""
    stage1_lr: float = 1e-5
    """Learning rate of stage 1."""
    stage2_epochs: int = 30
    """Number of epochs of the head over the cached passes."""
    batch_size: int = 64
    """Questions per step of stage 2, and of stage 1 over all processes together."""
    learning_rate: float = 1e-3
    """Learning rate of stage 2 (AdamW, cosine to 0)."""
    weight_decay: float = 0.02
    """Weight decay of AdamW."""
    dropout: float = 0.1
    """Dropout probability in the head's hidden layers during training."""
    val_fraction: float = 0.2
    """Share of the training images whose questions choose the epoch, lambdas and thresholds."""
    lambda_tolerance: float = 0.0025
    """Accuracy, as a share, that the lambda marked as chosen may lose against always FULL on validation; at least one
    question of it, since less cannot be told."""
    save_every: int = 500
    """Number of steps between two checkpoints."""
    output_dir: str = "outputs"
    """Folder of the checkpoints, unless `--output_dir` names another."""

    def __post_init__(self) -> None:
        for key in ("stage2_epochs", "batch_size", "save_every"):
            if getattr(self, key) < 1:
                raise FoveateError(f"training.{key}: expected at least 1, got {getattr(self, key)}")
        if self.stage1_epochs < 0:
            raise FoveateError(f"training.stage1_epochs: expected at least 0, got {self.stage1_epochs}")
        if not 0 <= self.lambda_tolerance < 1:
            raise FoveateError(f"training.lambda_tolerance: expected a share in [0, 1), got {self.lambda_tolerance}")
        if not 0 < self.val_fraction < 1:
            raise FoveateError(f"training.val_fraction: expected a share in (0, 1), got {self.val_fraction}")


def check_ratios(key: str, ratios: Ratios | None) -> None:
    """Shares of NO, COARSE and FULL: none below 0, their sum 1 (to 1e-3, as files round them)."""
    if ratios is not None and (min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-3):
        raise FoveateError(
            f"{key}: expected shares [no, coarse, full] that sum to 1, got {list(ratios)} with sum {sum(ratios):g}"
        )
