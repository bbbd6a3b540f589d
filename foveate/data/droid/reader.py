"""Reader of DROID-format episode folders, as `data.droid.writer` writes them and DROID users have them.

    for episode in find_episodes("toy_cube_benchmark"):
        for frame, observation in episode.observations(range(0, episode.rows, 8), cameras, parts):
            ...

Pictures come from `recordings/frames/<camera>/00000.jpg`, and from `recordings/<camera>.mp4` where that folder is
absent. The robot's state is read from `trajectory.h5`, never made up: what is missing, or does not fit, is a
`FoveateError` that names the episode and the field. One picture per camera is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foveate.data.droid.writer import OUTCOMES
from foveate.errors import FoveateError
from foveate.types import Observation
from foveate.util.files import read_text
from foveate.util.pictures import ImageError, read_picture

if TYPE_CHECKING:
    import h5py

Side = Literal["left", "right"]
SIDES: dict[Side, str] = {"left": "varied_camera_1", "right": "varied_camera_2"}
HAND = "hand_camera"
ROBOT_STATE = "observation/robot_state"


def cameras_of(views: Sequence[str], side: Side = "left") -> dict[str, str]:
    """View that a policy reads -> camera of a DROID folder.

    A view on the hand (`wrist`, `hand` or `gripper` in its name) is the hand camera; the first other one is the
    exterior camera of this side, a second one that of the other side.

    Args:
        views: the names under which the policy's observations carry its pictures.
    """
    exterior = [SIDES[side], *(camera for camera in SIDES.values() if camera != SIDES[side])]
    cameras: dict[str, str] = {}
    for view in views:
        on_hand = any(word in view.lower() for word in ("wrist", "hand", "gripper"))
        free = [camera for camera in ([HAND] if on_hand else exterior) if camera not in cameras.values()]
        if not free:
            raise FoveateError(
                f"view {view!r}: a DROID folder has no camera left for it (so far {cameras}); it holds one camera on "
                "the hand and two beside the robot, so this policy needs recordings of another format"
            )
        cameras[view] = free[0]
    return cameras


def find_episodes(root: str | Path) -> list[Episode]:
    """All episodes of a tree `<root>/<outcome>/<date>/<episode>`, in order of their names."""
    root = Path(root)
    if not root.is_dir():
        raise FoveateError(f"data root {root}: no such folder")
    found = [
        Episode(path, outcome)
        for outcome in OUTCOMES
        for path in sorted((root / outcome).glob("*/*"))
        if path.is_dir() and not path.name.startswith(".")
    ]
    if not found:
        here = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        raise FoveateError(
            f"data root {root}: no episode in it; expected success/<date>/<episode>/ or failure/<date>/<episode>/ with "
            f"instruction.txt, trajectory.h5 and recordings/, found {here}"
        )
    return found


def episodes_at(path: str | Path) -> list[Episode]:
    """The one episode of an episode folder, or all of a DROID-format tree.

    Raises:
        FoveateError: there is none.
    """
    folder = Path(path).resolve()
    if (folder / "trajectory.h5").exists():
        return [Episode(folder, folder.parent.parent.name)]
    return find_episodes(folder)


@dataclass(frozen=True)
class Episode:
    """One episode folder. Nothing is read before it is asked for."""

    folder: Path
    outcome: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def key(self) -> str:
        """`<outcome>/<date>/<episode>`: its place in the tree, and in whatever is made from it."""
        return "/".join((self.outcome, self.folder.parent.name, self.folder.name))

    @cached_property
    def instruction(self) -> str:
        path = self.folder / "instruction.txt"
        try:
            text = read_text(path).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FoveateError(f"episode {self.key}: instruction.txt cannot be read ({_reason(error)})") from error
        if not text:
            raise FoveateError(f"episode {self.key}: instruction.txt is empty; it should hold the task in plain words")
        return text

    @cached_property
    def rows(self) -> int:
        """Time steps of `trajectory.h5`."""
        with self._trajectory() as file:
            lengths = {len(values) for values in _datasets(file.get(ROBOT_STATE)) if values.ndim}
            if len(lengths) != 1 or lengths == {0}:
                found = f"lengths {sorted(lengths)}" if lengths else "nothing"
                raise FoveateError(
                    f"episode {self.key}: trajectory.h5, {ROBOT_STATE}: expected fields of one common length, "
                    f"got {found}"
                )
            return lengths.pop()

    def state(self, parts: Sequence[tuple[str, int]]) -> np.ndarray:
        """float32 [T, S]: the robot's state, its parts side by side.

        Args:
            parts: name and length of each, as the robot mapping has them. A part is the field of
                `observation/robot_state` of that name or its plural; where not one part is there by name, the
                recorder's raw vector `observation/robot_state/state` is taken, if it has the right length.
        """
        size = sum(length for _, length in parts)
        with self._trajectory() as file:
            group = file.get(ROBOT_STATE)
            here = {} if group is None else {name: _field(group, name) for name, _ in parts}
            if all(values is None for values in here.values()) and group is not None and "state" in group:
                columns = [self._column("state", group["state"][()], size)]
            else:
                missing = [name for name, _ in parts if here.get(name) is None]
                if missing:
                    has = sorted(group) if group is not None else "no such group"
                    raise FoveateError(
                        f"episode {self.key}: trajectory.h5 lacks {', '.join(f'{ROBOT_STATE}/{m}' for m in missing)}, "
                        f"which the policy's state needs; it has {has}"
                    )
                columns = [self._column(name, here[name], length) for name, length in parts]
        return np.concatenate(columns, axis=1)

    def frames(self, camera: str, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The camera's pictures at these rows, ascending: uint8 [H, W, 3]."""
        folder, video = (self.folder / "recordings" / name for name in (f"frames/{camera}", f"{camera}.mp4"))
        if folder.is_dir():
            return (self._jpeg(folder / f"{index:05d}.jpg") for index in indices)
        if video.exists():
            return self._decode(video, indices)
        raise FoveateError(
            f"episode {self.key}: no pictures of {camera}: neither recordings/frames/{camera}/ nor "
            f"recordings/{camera}.mp4 is there"
        )

    def observations(
        self, indices: Sequence[int], cameras: Mapping[str, str], parts: Sequence[tuple[str, int]]
    ) -> Iterator[tuple[int, Observation]]:
        """Row and what the policy would have seen there.

        Args:
            indices: rows, ascending.
            cameras: view -> camera, see `cameras_of`.
            parts: of the state, see `state`.
        """
        states, prompt = self.state(parts), self.instruction
        pictures = {view: self.frames(camera, indices) for view, camera in cameras.items()}
        for index in indices:
            if not np.isfinite(states[index]).all():
                raise FoveateError(
                    f"episode {self.key}: trajectory.h5, {ROBOT_STATE}: row {index} holds {states[index].tolist()}; "
                    "the policy's state needs finite numbers"
                )
            yield index, Observation({view: next(frames) for view, frames in pictures.items()}, states[index], prompt)

    @contextmanager
    def _trajectory(self) -> Iterator[h5py.File]:
        import h5py

        try:
            with h5py.File(self.folder / "trajectory.h5", "r") as file:
                if away := _leads_away(file):
                    raise FoveateError(
                        f"episode {self.key}: trajectory.h5, {away}: its data lie in another file, which is not read; "
                        "copy them into this one"
                    )
                yield file
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            raise FoveateError(f"episode {self.key}: trajectory.h5 cannot be read ({reason})") from error

    def _column(self, name: str, values: Any, length: int) -> np.ndarray:
        """float32 [T, length] of one field."""
        values = np.asarray(values, np.float32)
        values = values[:, None] if values.ndim == 1 else values
        if values.shape != (self.rows, length):
            raise FoveateError(
                f"episode {self.key}: trajectory.h5, {ROBOT_STATE}/{name} has the shape {list(values.shape)}, the "
                f"policy's state needs {[self.rows, length]}"
            )
        return values

    def _jpeg(self, path: Path) -> np.ndarray:
        try:
            return read_picture(path)
        except ImageError as error:
            where = path.relative_to(self.folder)
            raise FoveateError(f"episode {self.key}: {where} is not a readable picture ({error})") from error

    def _decode(self, video: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
        import av

        wanted, seen = iter(indices), -1
        try:
            with av.open(str(video)) as container:
                target = next(wanted, None)
                for seen, frame in enumerate(container.decode(video=0)):
                    if target is None:
                        return
                    if seen == target:
                        yield frame.to_ndarray(format="rgb24")
                        target = next(wanted, None)
        except (av.FFmpegError, IndexError) as error:
            raise FoveateError(f"episode {self.key}: {video.name} cannot be decoded ({error})") from error
        if target is not None:
            raise FoveateError(
                f"episode {self.key}: {video.name} has {seen + 1} frames, frame {target} is needed; the trajectory has "
                f"{self.rows} rows"
            )


def _field(group: Any, name: str) -> np.ndarray | None:
    """DROID writes `joint_positions` where its users say `joint_position`."""
    key = next((key for key in (name, f"{name}s") if key in group), None)
    return None if key is None else group[key][()]


def _leads_away(group: h5py.Group, path: str = "", seen: set[int] | None = None) -> str:
    """The first name whose data lie in another file: an external link, external storage, a virtual data set; or ``."""
    import h5py

    seen, address = seen or set(), h5py.h5o.get_info(group.id).addr
    if address in seen:  # groups may hold each other
        return ""
    seen.add(address)
    for name in group:
        link, here = group.get(name, getlink=True), f"{path}/{name}".lstrip("/")
        if isinstance(link, h5py.ExternalLink):
            return here
        # Soft links stay in the file; what they lead to is met where it is.
        item = group.get(name) if isinstance(link, h5py.HardLink) else None
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            return here
        if isinstance(item, h5py.Group) and (found := _leads_away(item, here, seen)):
            return found
    return ""


def _datasets(group: Any) -> list[Any]:
    return [] if group is None else [item for item in group.values() if hasattr(item, "shape")]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
