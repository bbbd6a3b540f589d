"""`foveate train value`, `foveate value buckets`."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foveate.errors import FoveateError
from foveate.util.progress import ProgressBar

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.evaluation.vqa.config import VqaConfig
    from foveate.evaluation.vqa.scored import ScoredPasses
    from foveate.vision_value.checkpoint import TrainedHead


def train(argv: list[str]) -> int:
    """The verb: stage 1 where it is asked for, the passes over the training questions, stage 2."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.evaluation.vqa.config import VqaConfig

    config = parse(VqaConfig, argv, "foveate train value")
    console = Console()
    for flag, value, instead in (
        ("--max_samples", config.max_samples, "--max_train_samples limits the training questions"),
        ("--dataset_config", config.dataset_config, f"training reads data.train_jsonl ({config.data.train_jsonl})"),
        ("--checkpoint", config.checkpoint, "training starts anew"),
    ):
        if value:
            console.print(f"warning: {flag} counts in evaluation alone; {instead}", highlight=False, soft_wrap=True)
    train_head(config, console)
    return 0


@dataclass(frozen=True)
class TrainingPasses:
    """The cached passes of the training questions, cut into training and validation."""

    vlm: Any
    scored: ScoredPasses
    held: Any
    """bool [n]: validation."""

    @property
    def train(self) -> Any:
        return self.scored.outcomes.take(~self.held)

    @property
    def val(self) -> Any:
        return self.scored.outcomes.take(self.held)


def train_head(config: VqaConfig, console: Console) -> Path:
    """Train under this configuration; the folder with the checkpoints. Runs under `torchrun` as well."""
    from foveate.cli.eval.vqa import joined, prepare_folder
    from foveate.training.lock import sole_training
    from foveate.training.log import MetricsFile
    from foveate.vision_value.checkpoint import save_head

    folder = Path(config.output_dir or config.training.output_dir)
    prepare_folder(folder, config.language)
    with joined(config) as world, sole_training(folder, world):
        passes = training_passes(config, console, world, folder)
        if passes is None:
            return folder
        console.print(f"stage 2: {len(passes.train)} questions, {len(passes.val)} for validation", highlight=False)
        if config.policy.use_straight_through is None:
            told = "gains are learned: policy.lambda_cost does not count here, but at evaluation"
        else:
            told = f"the policy is trained for lambda {config.policy.lambda_cost:g}"
        console.print(f"stage 2: {told}", highlight=False)
        if kept := set_aside(folder, config):
            told = f"{folder} held a policy of another configuration, now in {kept} (--checkpoint {kept} takes it)"
            console.print(f"warning: {told}", highlight=False, soft_wrap=True)
        with MetricsFile(folder / "metrics.jsonl") as metrics:
            trained = fit_head(
                config, passes, console, lambda step, t: save_head(folder, step, t), on_metrics=metrics.write
            )
        path = save_head(folder, trained.facts["steps"], trained)
        write_training(config, folder, passes, trained, path.name)
    gains = trained.facts["mean_gains"]
    console.print(
        f"policy: {path}\nvalidation loss {trained.facts['val_loss']:.4f}; a look earns {gains['coarse']:.3f} (coarse) "
        f"and {gains['full']:.3f} (full) nats per answer token on average: the scale of lambda",
        highlight=False,
        soft_wrap=True,
    )
    return folder


def training_passes(config: VqaConfig, console: Console, world: Any, folder: Path) -> TrainingPasses | None:
    """Stage 1, then the three passes over the training questions; None in processes that do not lead."""
    from foveate.cli.eval.vqa import make_all_passes
    from foveate.evaluation.vqa.cache import data_hash, image_bytes
    from foveate.evaluation.vqa.load import load_model, load_training_set, stage1_recipe
    from foveate.evaluation.vqa.matrix import Experiment
    from foveate.evaluation.vqa.metrics import score_row
    from foveate.training.value.stage1 import FOLDER, is_tuned, tune
    from foveate.training.value.stage2 import split_by_image
    from foveate.vision_value.baselines import EVERY_PASS

    with console.status("reading the training questions"):
        samples = load_training_set(config)
    # Whoever loads the model under this configuration, workers elsewhere too, finds what stage 1 left here.
    home = dataclasses.replace(config.training, output_dir=str(folder))
    unnamed = dataclasses.replace(config.eval, ddp_checkpoint_path=None)
    config, tuned = dataclasses.replace(config, training=home, eval=unnamed, checkpoint=()), folder / FOLDER
    if config.training.stage1_epochs:
        recipe = stage1_recipe(config, data_hash(samples))
        again = is_tuned(folder, recipe)
        if world.is_main:
            told = f"{config.training.stage1_epochs} epochs, {config.training.stage1_baseline_name}"
            console.print(f"stage 1: {told}{f'; done before, in {tuned}' if again else ''}", soft_wrap=True)
        if not again:
            float32 = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32"))
            start: Any = load_model(float32, str(world.device))
            tune(start, samples, config.training, world, folder, recipe)
    with console.status("loading the model"):
        vlm = load_model(config, str(world.device))
    experiment = Experiment(config, vlm, score_row, world.rank, world.size)
    make_all_passes(experiment, {"training": samples}, EVERY_PASS, (), console, world)
    if not world.is_main:
        return None
    scored = experiment.scored("training", samples, EVERY_PASS)
    if scored.broken:
        told = (
            f"{len(scored.broken)} of {len(samples)} training questions left out: {next(iter(scored.broken.values()))}"
        )
        console.print(f"warning: {told}", markup=False, highlight=False, soft_wrap=True)
    held = split_by_image([image_bytes(s) or s.id.encode() for s in scored.samples], config.training.val_fraction)
    return TrainingPasses(vlm, scored, held)


POLICY_FILES = ("checkpoint-*.pt", "metrics.jsonl", "summary.json", "results.csv", "config.yaml", "run.json")
"""What stage 2 leaves in its folder."""


def set_aside(folder: Path, config: VqaConfig) -> Path | None:
    """Move a finished policy that was trained otherwise to `folder/earlier_N`; that folder, or None."""
    from foveate.util.run_folder import differing_options

    counts = ("policy.", "training.", "model.path", "data.train_jsonl", "max_train_samples")
    otherwise = any(key.startswith(counts) for key in differing_options(folder, config))
    if not otherwise or not (folder / "summary.json").exists():
        return None
    kept = next(path for n in itertools.count(1) if not (path := folder / f"earlier_{n}").exists())
    kept.mkdir()
    for pattern in POLICY_FILES:
        for path in folder.glob(pattern):
            path.rename(kept / path.name)
    return kept


def fit_head(
    config: VqaConfig,
    passes: TrainingPasses,
    console: Console,
    on_checkpoint: Callable[[int, TrainedHead], object] | None = None,
    label: str = "stage 2",
    on_metrics: Callable[[dict[str, float]], object] | None = None,
) -> TrainedHead:
    """Stage 2 with a progress bar."""
    from foveate.training.value.stage2 import fit

    with ProgressBar(console, label, "steps") as bar:
        return fit(
            passes.train,
            passes.val,
            config.policy,
            config.training,
            model=passes.vlm.fingerprint,
            trained_on=config.data.train_jsonl,
            on_step=lambda step, steps, loss: bar.reach(step, f"loss {loss:.3f}", steps),
            on_checkpoint=on_checkpoint,
            on_metrics=on_metrics,
        )


def write_training(
    config: VqaConfig, folder: Path, passes: TrainingPasses, trained: TrainedHead, checkpoint: str
) -> None:
    """`results.csv` (the policy on validation), `summary.json`, `config.yaml`, `run.json`."""
    from foveate.evaluation.vqa.cache import config_hash
    from foveate.evaluation.vqa.files import SCHEMA_VERSION, write_table
    from foveate.evaluation.vqa.matrix import learned_rules
    from foveate.evaluation.vqa.rows import rule_results
    from foveate.util.files import write_json
    from foveate.util.provenance import provenance
    from foveate.util.run_folder import to_dict, write_run_files
    from foveate.vision_value.baselines import Always

    scored = passes.scored
    kept = tuple(s for s, held in zip(scored.samples, passes.held, strict=True) if held)
    val = dataclasses.replace(
        scored, dataset="validation", samples=kept, outcomes=passes.val, parsed=scored.parsed[passes.held]
    )
    named = dataclasses.replace(trained, path=str(folder))
    rules: list[Any] = [Always("FULL"), Always("COARSE"), Always("NO"), *learned_rules(config, [named])]
    rows = rule_results(val, rules, config.policy, resamples=config.eval.bootstrap, seed=config.training.seed)
    plain = to_dict(config)
    write_run_files(folder, config, config.training.seed)
    write_table(folder / "results.csv", [item.row for item in rows])
    summary = {
        "schema_version": SCHEMA_VERSION,
        "seed": config.training.seed,
        "config": plain,
        "config_hash": config_hash(plain),
        "data": {"training": {"hash": scored.data_hash, "samples": len(scored), "skipped": scored.broken}},
        "checkpoint": checkpoint,
        "policy": trained.facts,
        "rows": [item.row for item in rows],
        **provenance(),
    }
    write_json(folder / "summary.json", summary)


@dataclass(frozen=True)
class BucketsConfig:
    """Write the action ratios of a learned row as a configuration of `random_policy_matched`."""

    run: str
    """Folder of `foveate eval vqa`."""
    out: str = "configs/baseline_random_matched.yaml"
    """The file to write."""
    lambda_cost: float | None = None
    """Which row; null: the first learned one."""
    dataset: str | None = None
    """Which data set; null: the first."""
    by: Literal["global", "entropy"] = "global"
    """`global`: one triple; `entropy`: one per entropy bucket."""
    seed: int = 42
    """`policy.baseline_seed`."""


def buckets(argv: list[str]) -> int:
    """The verb: a YAML file that `--config` takes."""
    import yaml

    from foveate.cli.config import parse
    from foveate.util.files import write_text

    config = parse(BucketsConfig, argv, "foveate value buckets", positional=("run",))
    path = Path(config.run) / "summary.json"
    try:
        summary = json.loads(path.read_text())
        row = _learned_row(summary["rows"], config, path)
    except OSError as error:
        raise FoveateError(f"{path}: cannot be read ({error.strerror}); `foveate eval vqa` writes it") from error
    except (ValueError, KeyError) as error:
        raise FoveateError(f"{path}: not the summary of `foveate eval vqa` ({error})") from error
    policy: dict[str, Any] = {"baseline_name": "random_policy_matched", "baseline_seed": config.seed}
    rates = [round(row[f"action_rate_{level}"], 6) for level in ("no", "coarse", "full")]
    if config.by == "global":
        policy["baseline_target_ratios"] = rates
    else:
        policy["baseline_bucket_ratios"] = [[round(x, 6) for x in bucket] for bucket in row["bucket_ratios"]]
        policy["baseline_bucket_thresholds"] = list(row["bucket_thresholds"])
    source = f"{row['row']} on {row['dataset']} of {config.run}"
    about = f"# {source}\n# config {summary['config_hash']}, data {summary['data'][row['dataset']]['hash']}\n"
    write_text(Path(config.out), about + yaml.safe_dump({"policy": policy}, sort_keys=False))
    print(f"{config.out}: {row['row']} on {row['dataset']}, NO/COARSE/FULL {rates}")
    return 0


def _learned_row(rows: Sequence[dict[str, Any]], config: BucketsConfig, path: Path) -> dict[str, Any]:
    learned = [r for r in rows if not r["baseline_name"] and config.dataset in (None, r["dataset"])]
    found = [r for r in learned if config.lambda_cost is None or abs(r["lambda_cost"] - config.lambda_cost) < 1e-9]
    if not found:
        there = ", ".join(f"{r['dataset']} {r['lambda_cost']:g}" for r in learned) or "none"
        raise FoveateError(
            f"{path}: no learned row with lambda {config.lambda_cost} on {config.dataset or 'any data set'}; "
            f"learned rows there: {there}"
        )
    return found[0]
