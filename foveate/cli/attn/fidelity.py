"""`foveate attn fidelity`: are the attention maps true? Cover what they mark, and see whether the actions care.

    foveate attn fidelity --policy CHECKPOINT DATA_ROOT --out runs/fidelity
    foveate attn fidelity --policy CHECKPOINT --image side.jpg --image wrist.jpg --prompt "open the drawer"

Writes `frames.jsonl` (what was measured in each frame; a run that is started again goes on behind it),
`fidelity.json`, `fidelity.md`, `index.html` and `pictures/`. Exit status 1: some episodes could not be read; each is
named with its reason, the others are in the results.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foveate.cli.attn.options import load_on_tree
from foveate.cli.attn.scene import layers_of
from foveate.errors import FoveateError
from foveate.policy import LoadOptions
from foveate.types import Phase
from foveate.util.progress import ProgressBar, Reporter

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.data.droid.reader import Episode
    from foveate.policy import Policy
    from foveate.studies.attention.fidelity_run import Frame, Plan, Sight, Study

SCHEMA = "foveate.fidelity/v1"
MAY_CHANGE = ("episodes", "frames_per_episode", "pictures", "batch", "device", "data_root")


@dataclass(frozen=True, kw_only=True)
class FidelityConfig(LoadOptions):
    """Are the maps true? Cover what they mark in the pictures, and compare the actions with those of random covers."""

    data_root: str | None = None
    """DROID-format tree, or one episode folder of it; the bare word. Without one: --image and --prompt."""
    out: str = "runs/fidelity"
    """Folder of the results; the same command again goes on where it was interrupted."""
    episodes: int | None = None
    """Episodes at most, evenly over the tree; None: all."""
    frames_per_episode: int = 4
    """Keyframes of each episode at most, evenly over it."""
    keyframe_interval: int = 8
    """Frames between two keyframes."""
    camera: Literal["left", "right"] = "left"
    """Side camera of a DROID folder: left is varied_camera_1, right varied_camera_2."""
    image: tuple[str, ...] = ()
    """Without a tree: a picture per view, `view=path`, or paths in the order of the policy's views."""
    prompt: str = ""
    """Without a tree: the instruction."""
    state: tuple[float, ...] = ()
    """Without a tree: the robot's state; zeros where none is given."""
    layers: tuple[int, ...] = ()
    """Backbone layers, negative ones count from the end; none: 1,4,5,7,10, or all of a shallow model."""
    views: tuple[str, ...] = ("both", "side", "wrist")
    """Choices of views to cover: both (all), side, wrist, or the model's name of one."""
    phase: Phase = "prefix"
    """prefix: attention of the text; suffix: of the actions, mean over the denoising steps."""
    heads: Literal["mean", "active"] = "mean"
    """A layer's map: the mean of its heads, or its most active head."""
    percentile: float = 90.0
    """What lies above this percentile of the map is covered, of each view the same share of its area."""
    fill: Literal["mean", "blur", "noise"] = "mean"
    """What stands in place of what is covered: the picture's mean colour, the blurred picture, or noise."""
    draws: int = 10
    """Random covers of as much area elsewhere."""
    metric: Literal["mse", "si_mse", "scale", "direction"] = "si_mse"
    """Measure that layers are ranked by; all are in the results."""
    curve_points: int = 6
    """Points of the insertion and deletion curves of the first choice of views; 0: none."""
    pictures: int = 3
    """Frames whose covered pictures are shown in the report."""
    batch: int = 8
    """Observations per inference."""
    seed: int = 0
    """Of noise and random covers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.data_root is None) == (not self.image) or (self.image and not self.prompt):
            raise FoveateError("what is to be tested? Give either a DROID-format tree, or --image and --prompt")
        for name in ("frames_per_episode", "keyframe_interval"):
            if getattr(self, name) < 1:
                raise FoveateError(f"--{name}: expected at least 1, got {getattr(self, name)}")


def fidelity(argv: list[str]) -> int:
    """The verb."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.cli.words import take_all
    from foveate.studies.attention.fidelity_run import Frame, Sight
    from foveate.studies.attention.kept_inference import measure_frame
    from foveate.util.files import JsonLines
    from foveate.util.run_folder import check_same_config, write_run_files

    words, images = take_all(argv, "image")
    words += [f"--image={json.dumps(images)}"] if images else []
    aliases = {"checkpoint": "policy", "pretrained_checkpoint": "policy"}
    config = parse(FidelityConfig, words, "foveate attn fidelity", aliases=aliases, positional=("data_root",))
    console, out = Console(), Path(config.out)
    if (out / "frames.jsonl").exists():
        check_same_config(out, config, MAY_CHANGE)
    with console.status("loading the policy"):
        policy = load_on_tree(config) if config.data_root else config.load()
    plan, sight = plan_of(config, policy.spec.depth), Sight.of(policy)
    places, failed = _places(config, policy, console)
    write_run_files(out, config, config.seed)
    log = JsonLines(out / "frames.jsonl")
    done = {(row["episode"], row["frame"]) for row in log.rows}
    shown = {places[round(i)][:2] for i in np.linspace(0, len(places) - 1, min(config.pictures, len(places)))}
    before = sum(place[:2] in done for place in places)
    with ProgressBar(console, "fidelity", "frames", len(places), before) as bar:
        for episode, index, read in places:
            if (episode, index) in done or episode in failed:
                continue
            try:
                frame = Frame(episode, index, read())
            except FoveateError as error:
                failed[episode] = str(error)
                continue
            row, study = measure_frame(policy, sight, frame, plan)
            if (episode, index) in shown:
                _draw(study, sight, frame, plan, out / "pictures")
            log.append([row])  # after the pictures: a frame in the log lacks nothing
            bar.advance()
    for text in failed.values():
        console.print(f"[red]failed:[/] {text}", highlight=False, soft_wrap=True)
    wanted = {place[:2] for place in places}
    rows = [row for row in log.rows if (row["episode"], row["frame"]) in wanted]
    if not rows:
        raise FoveateError("not one frame could be read; the reasons stand above")
    result = finish(config, plan, policy, rows, out)
    for choice in plan.views:
        console.print(_table(result, choice))
    if result["pruner"]:
        console.print(_pruner_table(result))
    console.print(f"results: {out / 'fidelity.json'}\nreport:  {out / 'index.html'}", soft_wrap=True, highlight=False)
    return int(bool(failed))


def plan_of(config: FidelityConfig, depth: int) -> Plan:
    """The plan, layers counted from 0."""
    from foveate.studies.attention.fidelity_run import Plan

    layers = layers_of(config.layers, depth)
    for layer in layers:
        if not -depth <= layer < depth:
            raise FoveateError(f"--layers {layer}: the model has {depth} layers, 0 to {depth - 1}")
    return Plan(
        layers=tuple(dict.fromkeys(layer % depth for layer in layers)),
        views=config.views,
        phase=config.phase,
        heads=config.heads,
        percentile=config.percentile,
        draws=config.draws,
        fill=config.fill,
        curve_points=config.curve_points,
        batch=config.batch,
        seed=config.seed,
    )


def finish(
    config: FidelityConfig, plan: Plan, policy: Policy, rows: Sequence[dict[str, Any]], out: Path
) -> dict[str, Any]:
    """Summaries of all frames, written as `fidelity.json` and both reports."""
    import dataclasses

    from foveate.attention.fidelity import rank, summarise, summarise_curves
    from foveate.attention.fidelity_pruner import summarise_pruner
    from foveate.pruning import CONFIGS
    from foveate.util.files import nan_to_null, write_text
    from foveate.util.provenance import provenance
    from foveate.util.run_folder import to_dict
    from foveate.viz.report.fidelity import write_reports

    def flat(name: str) -> list[dict[str, Any]]:
        return [{"episode": row["episode"], **part} for row in rows for part in row[name]]

    summary = summarise(flat("effects"))
    method = next((name for name, cls in CONFIGS.items() if policy.pruner and type(policy.pruner.config) is cls), None)
    pruned = [{"episode": row["episode"], **row["pruner"]} for row in rows if row["pruner"]]
    result = {
        "schema": SCHEMA,
        "policy": policy.spec.name,
        "frames": len(rows),
        "episodes": len({row["episode"] for row in rows}),
        "metric": config.metric,
        "views": list(plan.views),
        "plan": to_dict(dataclasses.asdict(plan)),
        "rankings": {choice: rank(summary, choice, config.metric) for choice in plan.views},
        "summary": summary,
        "curves": summarise_curves(flat("curves")),
        "pruner": {"name": method, **summarise_pruner(pruned)} if pruned else None,
        "config": to_dict(config),
        **provenance(),
    }
    result = nan_to_null(result)
    write_text(out / "fidelity.json", json.dumps(result, indent=1) + "\n")
    write_reports(result, sorted((out / "pictures").glob("*.jpg")), out)
    return result


Place = tuple[str, int, Callable[[], Any]]
"""Episode, frame, and what reads its observation."""


def _places(config: FidelityConfig, policy: Policy, console: Console) -> tuple[list[Place], dict[str, str]]:
    """Every frame to be tested, and the episodes that cannot be read, with the reason."""
    if config.data_root is None:
        from foveate.evaluation.scene import read_observation

        observation = read_observation(config.image, config.state, config.prompt, policy, Reporter(console))
        return [("picture", 0, lambda: observation)], {}
    from foveate.data.droid.reader import cameras_of
    from foveate.viz.plots import spread

    cameras, parts = cameras_of(policy.spec.views, config.camera), policy.spec.state
    places: list[Place] = []
    failed: dict[str, str] = {}
    for episode in spread(episodes_at(Path(config.data_root)), config.episodes):

        def read(index: int, episode: Episode = episode) -> Any:
            return next(episode.observations([index], cameras, parts))[1]

        try:
            keyframes = range(0, episode.rows, config.keyframe_interval)
        except FoveateError as error:
            failed[episode.key] = str(error)
            continue
        for index in spread(keyframes, config.frames_per_episode):
            places.append((episode.key, index, functools.partial(read, index)))
    if not places:
        raise FoveateError(next(iter(failed.values())))
    return places, failed


def episodes_at(path: Path) -> list[Episode]:
    """The one episode of an episode folder, or all of a tree."""
    from foveate.data.droid.reader import Episode, find_episodes

    path = path.resolve()
    if (path / "trajectory.h5").exists():
        return [Episode(path, path.parent.parent.name)]
    return find_episodes(path)


def _draw(study: Study, sight: Sight, frame: Frame, plan: Plan, folder: Path) -> None:
    """One picture per layer: what was covered of the first choice of views."""
    from foveate.viz.attention import save_jpeg
    from foveate.viz.fidelity_pictures import stack, strip

    folder.mkdir(parents=True, exist_ok=True)
    images, choice = frame.observation.images, plan.views[0]
    for layer, maps in study.maps.items():
        covered = study.covered[choice, layer]
        shown = {kind: study.show(covered[kind]).images for kind in ("high", "random", "low")}
        strips = []
        for view in covered["high"]:
            name = sight.source(view, images)
            title = f"layer {layer} · {name} · {frame.episode.rpartition('/')[2]}, frame {frame.index}"
            pictures = {kind: seen[name] for kind, seen in shown.items()}
            strips.append(strip(images[name], maps[view], pictures, sight.model_hw, title))
        stem = f"{frame.episode.replace('/', '_')}__frame{frame.index:05d}__L{layer:02d}"
        save_jpeg(folder / f"{stem}.jpg", stack(strips), 88)


def _table(result: dict[str, Any], choice: str) -> Any:
    """The ranking of layers, for the terminal."""
    from rich.table import Table

    from foveate.viz.report.fidelity import NAMES, ranking_table

    caption = f"{NAMES[result['metric']]} of the actions, {result['frames']} frames; 95 % intervals"
    table = Table(title=f"covering {choice}", caption=caption)
    head, rows = ranking_table(result, choice)
    columns = [i for i, name in enumerate(head) if name not in ("random", "low")]  # what fits into 80 columns
    for i in columns:
        table.add_column(head[i], justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[i] for i in columns))
    return table


def _pruner_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    from foveate.viz.report.fidelity import PRUNER_NAMES, with_ci

    pruner = result["pruner"]
    table = Table(title=f"{pruner['name']}: {pruner['kept']:.1f} of {pruner['patches']:.0f} patches kept")
    table.add_column("the actions change, when the policy goes")
    table.add_column(result["metric"], justify="right", no_wrap=True)
    for kind, name in PRUNER_NAMES.items():
        table.add_row(name, with_ci(pruner["metrics"][result["metric"]][kind]))
    return table
