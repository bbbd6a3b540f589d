"""`foveate norm-stats`: openpi's `norm_stats.json` of a LeRobot data set."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    """The verb: compute, say where the file is, warn of entries that hardly vary."""
    from foveate.cli.config import parse
    from foveate.training.norm_stats import NormStatsConfig, norm_stats
    from foveate.util.progress import Reporter, plain_console

    config = parse(NormStatsConfig, argv, "foveate norm-stats", aliases={"repo_id": "dataset"}, positional=("dataset",))
    report = Reporter(plain_console())
    result = norm_stats(config, report)
    for warning in result.warnings:
        report.warn(warning)
    print(f"{result.rows} rows: {result.path}")
    return 0
