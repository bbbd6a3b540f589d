"""The whole comparison on the model that ships with foveate, from three passes, with its curve."""

from __future__ import annotations

from foveate.evaluation.vqa.config import EvalConfig, ModelConfig, VqaConfig
from foveate.evaluation.vqa.load import shipped_head
from foveate.studies.value.config import DemoVqaConfig
from foveate.studies.value.result import EvaluationResult
from foveate.studies.value.run import evaluate
from foveate.studies.value.study import open_study
from foveate.util.progress import SILENT, Reporter
from foveate.util.words import percent, plural

MODEL = "tiny_qwen3vl"
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def run_demo(config: DemoVqaConfig, report: Reporter = SILENT) -> EvaluationResult:
    """Every baseline and lambda, with the shipped head."""
    experiment = VqaConfig(
        model=ModelConfig(path=MODEL),
        eval=EvalConfig(batch_size=64, max_new_tokens=1, cache_dir=None),
        dataset_config=config.dataset,
        checkpoint=(str(shipped_head(MODEL)),),
        max_samples=config.max_samples,
        output_dir=config.out,
        pareto=LAMBDAS,
        ratios=config.ratios,
        language=config.language,
    )
    with open_study(experiment, report) as study:
        return evaluate(study)


def verdict(result: EvaluationResult) -> list[str]:
    """The learned row whose lambda validation has chosen, and how far it lies above each rival's curve."""
    full = next(row for row in result.table if row["baseline_name"] == "always_full")
    chosen = next(row for row in result.table if row["chosen"])
    share, right = chosen["avg_cost"] / full["avg_cost"], chosen["accuracy"]
    lines = [
        f"{chosen['row']}, {plural(chosen['samples'], 'question')}: {percent(right, 1)} at {percent(share)} of the "
        f"cost of always FULL ({percent(full['accuracy'], 1)})"
    ]
    if chosen["path_ms_share"] is not None:
        lines.append(
            f"  with the text pass and the answer: {percent(chosen['gflops_share'])} of its FLOPs, "
            f"{percent(chosen['path_ms_share'])} of its time"
        )
    for margin in result.comparison():
        if margin["row"] == chosen["row"] and margin["rival"] != "always_full":
            low, high = 100 * margin["margin_low"], 100 * margin["margin_high"]
            lines.append(
                f"  against {margin['rival']} at the same cost: {100 * margin['margin']:+.1f} points "
                f"({low:+.1f} to {high:+.1f})"
            )
    return lines
