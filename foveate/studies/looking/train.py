"""The study: gains on recorded episodes, a head that predicts them, and what it is worth on episodes that it never saw.

    done = train_looking(LookingTrainConfig(policy="metaworld_tiny", episodes="runs/own"))
    done.curve["head"], done.curve["motion"]        # (cost, error) each

OUT holds `gains.jsonl` (a line per episode; a call goes on with what is missing), `checkpoint-*.pt` and `curve.json`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.engine.config import Eager
from foveate.engine.record import hash_folder
from foveate.evaluation.recorded import columns_of
from foveate.evaluation.scene import load_for_droid
from foveate.studies.fit.critical import of_robot
from foveate.studies.fit.episodes import open_episodes, read_episode
from foveate.studies.looking.config import MAY_CHANGE, LookingTrainConfig
from foveate.studies.looking.dataset import CHANGE, Gains, costs_of, dataset, split
from foveate.studies.looking.gains import episode_gains
from foveate.types import COARSE, FULL, NO
from foveate.util.files import JsonLines, alone_in, write_json
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance
from foveate.util.run_folder import same_study, to_dict, write_run_files
from foveate.util.shipped import find_policy
from foveate.vision_value.checkpoint import TrainedHead, save_head
from foveate.vision_value.choose import LAMBDAS
from foveate.vision_value.head import HeadShape, ValueHead
from foveate.vision_value.looking.head import predict
from foveate.vision_value.losses import gain_regression

BATCH, RATE, DROPOUT = 256, 1e-3, 0.1
Point = tuple[float, float]
"""Mean cost, and mean weighted action error."""


@dataclass(frozen=True)
class Trained:
    """A head, and where it stands on the test episodes."""

    checkpoint: Path
    chosen_lambda: float
    chosen: Point
    """Of the test episodes."""
    curve: dict[str, list[Point]]
    """Who chooses -> points on the test episodes: `head` over lambda, `motion` over its threshold, a level by name,
    `only VIEW`: that one at FULL, the others COARSE."""
    facts: dict[str, Any]


@alone_in(lambda config: config.folder, "training a head")
def train_looking(config: LookingTrainConfig, report: Reporter = SILENT) -> Trained:
    """Measure the gains that the folder lacks, and train.

    Raises:
        FoveateError: the episodes are of another robot, too few, or with too few critical moments, or the folder holds
            gains of another policy or of other episodes.
    """
    with report.status("loading the policy"):
        policy = load_for_droid(replace(config, engine=Eager()))
    source = open_episodes(config.episodes, policy.processor.robot)
    columns, entries = columns_of(source, policy.processor.robot), of_robot(policy.processor.robot)
    out, folder = config.folder, find_policy(config.policy)
    known = {"checkpoint": hash_folder(folder), "episodes": f"{source.name}, {len(source)} episodes"}
    same_study(out, config, known, MAY_CHANGE, "gains")
    write_run_files(out, config, config.seed)
    order = np.random.default_rng(config.seed).permutation(len(source))[: config.max_episodes].tolist()
    log = JsonLines(out / "gains.jsonl", lambda row: row["episode"])
    try:
        there = {row["episode"] for row in log.rows}
        with report.bar("gains", "episodes", len(order), len(there.intersection(order))) as bar:
            for number in order:
                if number not in there:
                    episode = read_episode(source, number, columns, config.replan_steps, config.frames_per_episode)
                    log.append([episode_gains(policy, episode, entries, config)])
                    bar.advance()
        rows = [row for row in log.rows if row["episode"] in set(order)]
    finally:
        log.close()
    return fit_head(rows, config, {"policy": policy.spec.name, **known, **provenance(), "config": to_dict(config)})


def fit_head(rows: Sequence[Mapping[str, Any]], config: LookingTrainConfig, facts: Mapping[str, Any]) -> Trained:
    """Train on three fifths of the episodes, choose epoch and lambda on one fifth, and test on the last."""
    data = dataset(rows, config.elsewhere)
    train, choose, test = (data.take(part) for part in split(data.episode, config.seed))
    views, costs = list(rows[0]["views"]), costs_of(rows)
    head = _fitted(train, choose, config)
    known = {
        "views": views,
        "state_dim": (data.features.shape[1] - CHANGE - 2 - len(views)) // 2,
        "max_age": config.max_age,
        "costs": [costs[view] for view in views],
        "moments": {"train": len(train), "choose": len(choose), "test": len(test)},
        "episodes": len(rows),
        "critical": int(data.critical.sum()),
        "checkpoint": facts.get("checkpoint", ""),
    }
    trained = TrainedHead(head, "", None, known)
    # A FULL look costs 1, so lambda is the action error that it must avoid; errors are small.
    grid = [lam / 10 for lam in LAMBDAS]
    on_choose = [point(choose, decide(trained, choose, lam)) for lam in grid]
    lam = next((lam for lam, (cost, _) in zip(grid, on_choose, strict=True) if cost <= config.budget), grid[-1])
    trained = replace(trained, facts={**known, "chosen_lambda": lam})
    curve = {
        "head": [point(test, decide(trained, test, one)) for one in grid],
        "motion": [
            point(test, np.where(test.features[:, CHANGE] >= t, FULL, NO))
            for t in np.quantile(train.features[:, CHANGE], np.linspace(0, 1, 21))
        ],
        **always(test, views),
    }
    steps = math.ceil(len(train) / BATCH) * config.epochs
    checkpoint = save_head(config.folder, steps, trained)
    chosen = point(test, decide(trained, test, lam))
    document = {**facts, **trained.facts, "chosen": chosen, "curve": curve, "lambdas": grid}
    write_json(config.folder / "curve.json", document)
    return Trained(checkpoint, lam, chosen, curve, dict(trained.facts))


LEVEL_NAMES = {"no": NO, "coarse": COARSE, "full": FULL}


def decide(trained: TrainedHead, data: Gains, lam: float) -> np.ndarray:
    """int64 [n]: the level that earns most after its cost."""
    best: np.ndarray = (predict(trained, data.features) - lam * data.cost).argmax(-1)
    return best


def point(data: Gains, levels: np.ndarray) -> Point:
    """What it costs to look so, and the error that is left."""
    rows = np.arange(len(data))
    return float(data.cost[rows, levels].mean()), float(data.loss[rows, levels].mean())


def always(data: Gains, views: Sequence[str]) -> dict[str, list[Point]]:
    """Points of who always looks alike: every view at one level, or one view at FULL and the others at COARSE."""
    of_view = data.features[:, CHANGE + 2 :][:, : len(views)] == 1
    levels = {name: np.full(len(data), level) for name, level in LEVEL_NAMES.items()}
    levels |= {f"only {view}": np.where(of_view[:, v], FULL, COARSE) for v, view in enumerate(views)}
    return {name: [point(data, level)] for name, level in levels.items()}


def _fitted(train: Gains, choose: Gains, config: LookingTrainConfig) -> ValueHead:
    """The head of the epoch with the least loss on the episodes to choose by."""
    torch.manual_seed(config.seed)
    shape = HeadShape(train.features.shape[1], "hidden", config.width, layers=2)
    head, levels = ValueHead(shape, DROPOUT), torch.ones(3, dtype=torch.bool)
    seen, held = ((torch.from_numpy(part.features), torch.from_numpy(part.loss).float()) for part in (train, choose))
    head.standardise(seen[0])
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.02)
    draws = torch.Generator().manual_seed(config.seed)
    best, least = copy.deepcopy(head.state_dict()), math.inf
    for _ in range(config.epochs):
        head.train()
        for index in torch.randperm(len(train), generator=draws).split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            gain_regression(head(seen[0][index]), seen[1][index], levels).backward()
            optimizer.step()
        head.eval()
        with torch.no_grad():
            value = float(gain_regression(head(held[0]), held[1], levels))
        if value < least:
            best, least = copy.deepcopy(head.state_dict()), value
    head.load_state_dict(best)
    return head.eval()
