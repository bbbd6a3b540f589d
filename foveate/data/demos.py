"""Demonstrations on disk: a LeRobot v2.1 style folder, its writer and a reader that loads it into memory.

    meta/info.json                  features, fps, totals; `complete` is true when the recording has ended
    meta/tasks.jsonl                {"task_index", "task"}: the instructions
    meta/episodes.jsonl             {"episode_index", "tasks": [instruction], "length", "env_task", "seed",
                                    "success_step"}
    data/chunk-000/episode_000000.parquet      one row per simulator step, 1000 episodes per chunk

Columns: `observation.state` and `action` (list<float32>), `timestamp` (float32, seconds), `frame_index`,
`episode_index`, `index`, `task_index` (int64), and `observation.images.<view>`, the "image" type of LeRobot:
struct {bytes: PNG, path: null}.

Differences from LeRobot: pictures are written at every `image_every`-th step and the image columns are null on
the others, since a chunk policy needs the actions of every step but not every picture; an episode's parquet
carries its own line of episodes.jsonl (schema metadata `foveate`), so that an interrupted recording can go on.
The action of a row is the *label*, what the expert would have done in that state; a recorder may have executed
a noised one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.util.files import draft, json_lines, write_text
from foveate.util.pictures import read_picture

EPISODES_PER_CHUNK = 1000


@dataclass
class DemoEpisode:
    """One demonstration in memory."""

    task: str
    """The instruction."""
    env_task: str
    """The environment's name of the task."""
    seed: int
    """Seed of the scene."""
    success_step: int
    """Step (1-based) after which the environment first reported success; 0: it never did."""
    states: np.ndarray
    """float32 [T, S]."""
    actions: np.ndarray
    """float32 [T, A], the label of every step."""
    images: dict[str, np.ndarray] = field(default_factory=dict)
    """View -> uint8 [T_img, H, W, 3]."""
    frames: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 [T_img]: the step of each picture."""

    def __len__(self) -> int:
        return len(self.states)

    def prompt(self, row: int) -> str:
        """The instruction of a row."""
        return self.task


def episode_path(root: Path, index: int) -> Path:
    return root / "data" / f"chunk-{index // EPISODES_PER_CHUNK:03d}" / f"episode_{index:06d}.parquet"


def write_episode(root: Path, index: int, episode: DemoEpisode, task_index: int, fps: float) -> None:
    """Write one episode's parquet, renamed into place when it is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    steps = len(episode)
    columns: dict[str, Any] = {
        "observation.state": pa.array(list(episode.states), pa.list_(pa.float32())),
        "action": pa.array(list(episode.actions), pa.list_(pa.float32())),
        "timestamp": pa.array(np.arange(steps, dtype=np.float32) / np.float32(fps)),
        "frame_index": pa.array(np.arange(steps)),
        "episode_index": pa.array(np.full(steps, index)),
        "index": pa.array(np.arange(steps)),
        "task_index": pa.array(np.full(steps, task_index)),
    }
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for view, pictures in episode.images.items():
        rows: list[dict[str, Any] | None] = [None] * steps
        for step, picture in zip(episode.frames, pictures, strict=True):
            rows[step] = {"bytes": _encode(picture), "path": None}
        columns[f"observation.images.{view}"] = pa.array(rows, struct)
    line = {
        "episode_index": index,
        "tasks": [episode.task],
        "length": steps,
        "env_task": episode.env_task,
        "seed": episode.seed,
        "success_step": episode.success_step,
    }
    table = pa.table(columns).replace_schema_metadata({"foveate": json.dumps(line)})
    path = episode_path(root, index)
    with draft(path, "the demonstration", shared=True) as begun:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, begun, compression="snappy")


def finished_episodes(root: Path) -> dict[int, dict[str, Any]]:
    """Episode index -> its line of episodes.jsonl, from the parquets that are there."""
    import pyarrow.parquet as pq

    lines = {}
    for path in sorted(root.glob("data/chunk-*/episode_*.parquet")):
        try:
            metadata = pq.read_schema(path).metadata or {}
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            raise _damaged(path, error) from error
        if b"foveate" not in metadata:
            raise FoveateError(f"{path}: not a demonstration that foveate wrote (schema metadata 'foveate' is missing)")
        line = json.loads(metadata[b"foveate"])
        lines[int(line["episode_index"])] = line
    return lines


def write_meta(root: Path, tasks: Sequence[str], fps: float, image_every: int, info: Mapping[str, Any]) -> None:
    """Write meta/ from the episodes on disk. `tasks`: instructions in order of their index; `info`: added fields."""
    lines = finished_episodes(root)
    views: dict[str, tuple[int, ...]] = {}
    state_dim = action_dim = 0
    if lines:
        first = read_episode(episode_path(root, min(lines)))
        views = {view: pictures.shape[1:] for view, pictures in first.images.items()}
        state_dim, action_dim = first.states.shape[1], first.actions.shape[1]
    scalar = {
        name: {"dtype": "int64", "shape": [1]} for name in ("frame_index", "episode_index", "index", "task_index")
    }
    document = {
        "codebase_version": "v2.1",
        "fps": fps,
        "total_episodes": len(lines),
        "total_frames": sum(line["length"] for line in lines.values()),
        "total_tasks": len(tasks),
        "chunks_size": EPISODES_PER_CHUNK,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "image_every": image_every,
        "features": {
            "observation.state": {"dtype": "float32", "shape": [state_dim]},
            "action": {"dtype": "float32", "shape": [action_dim]},
            "timestamp": {"dtype": "float32", "shape": [1]},
            **scalar,
            **{f"observation.images.{view}": {"dtype": "image", "shape": list(s)} for view, s in views.items()},
        },
        **info,
    }
    write_text(root / "meta" / "tasks.jsonl", json_lines({"task_index": i, "task": t} for i, t in enumerate(tasks)))
    write_text(root / "meta" / "episodes.jsonl", json_lines(lines[i] for i in sorted(lines)))
    write_text(root / "meta" / "info.json", json.dumps(document, indent=2) + "\n")


class DemoDataset:
    """Demonstrations in memory. `dataset.episodes` is a list of `DemoEpisode`, `dataset.views` the views' names."""

    def __init__(self, episodes: list[DemoEpisode], fps: float, info: dict[str, Any] | None = None) -> None:
        self.episodes, self.fps, self.info = episodes, fps, info or {}
        self.views = tuple(episodes[0].images) if episodes else ()

    def __len__(self) -> int:
        return len(self.episodes)

    @classmethod
    def load(
        cls, *roots: str | Path, threads: int = 2, progress: Callable[[int, int], None] | None = None
    ) -> DemoDataset:
        """Read one or more folders. A picture of 112 px costs 0.55 ms of CPU; 510 episodes hold 48,000, 1.8 GB.

        progress: called with (episodes done, episodes in all).
        """
        paths, infos = [], []
        for root in map(Path, roots):
            if not root.exists():
                raise FoveateError(f"{root}: no such folder; name one of demonstrations, or a LeRobot data set")
            if not (root / "meta" / "info.json").exists():
                raise FoveateError(
                    f"{root}: no demonstrations (meta/info.json is missing); record some with "
                    "`foveate data metaworld-demos --out DIR`"
                )
            infos.append(json.loads((root / "meta" / "info.json").read_text()))
            paths += [episode_path(root, i) for i in sorted(finished_episodes(root))]
        if not paths:
            raise FoveateError(f"{', '.join(map(str, roots))}: holds no episode")
        episodes: list[DemoEpisode] = []
        with ThreadPoolExecutor(threads) as pool:
            for episode in pool.map(read_episode, paths):
                episodes.append(episode)
                if progress:
                    progress(len(episodes), len(paths))
        return cls(episodes, float(infos[0]["fps"]), infos[0])


def read_episode(path: Path) -> DemoEpisode:
    """One episode's parquet, its pictures decoded.

    Raises:
        FoveateError: it is damaged, or nothing that foveate wrote.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        line = json.loads(table.schema.metadata[b"foveate"])
    except Exception as error:
        raise _damaged(path, error) from error
    names = [n.removeprefix("observation.images.") for n in table.column_names if n.startswith("observation.images.")]
    images, frames = {}, np.zeros(0, np.int64)
    for view in names:
        rows = table[f"observation.images.{view}"].to_pylist()
        frames = np.array([i for i, row in enumerate(rows) if row is not None], dtype=np.int64)
        images[view] = np.stack([read_picture(rows[i]["bytes"]) for i in frames])
    return DemoEpisode(
        task=line["tasks"][0],
        env_task=line["env_task"],
        seed=line["seed"],
        success_step=line["success_step"],
        states=np.array(table["observation.state"].to_pylist(), dtype=np.float32),
        actions=np.array(table["action"].to_pylist(), dtype=np.float32),
        images=images,
        frames=frames,
    )


def _damaged(path: Path, error: Exception) -> FoveateError:
    return FoveateError(f"{path}: cannot be read as a demonstration ({error}); delete it and record again")


def _encode(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
