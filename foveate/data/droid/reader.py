"""Reader of DROID-format episode folders, as `data.droid.writer` writes them and DROID users have them.

    for episode in find_episodes("toy_cube_benchmark"):
        for frame, observation in episode.observations(range(0, episode.rows, 8), cameras, parts):
            ...

Pictures come from the first of these that is there:

    recordings/frames/<camera>/00000.jpg     or .jpeg, .png
    recordings/<camera>.mp4
    recordings/MP4/<serial>.mp4              the published `droid_raw`; metadata_*.json says which camera has which
    recordings/MP4/<serial>-stereo.mp4       number; both eyes side by side, of which one is taken

The instruction is `instruction.txt`, or `current_task` of that metadata. The robot's state is read from
`trajectory.h5`, never made up: what is missing, or does not fit, is a `FoveateError` that names the episode and the
field. One picture per camera is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foveate.data.droid.writer import OUTCOMES
from foveate.errors import FoveateError, unknown
from foveate.types import Observation
from foveate.util.files import read_json, read_text
from foveate.util.pictures import MAX_PIXELS, ImageError, read_picture

if TYPE_CHECKING:
    import h5py

Side = Literal["left", "right"]
SIDES: dict[Side, str] = {"left": "varied_camera_1", "right": "varied_camera_2"}
HAND = "hand_camera"
PICTURES = (".jpg", ".jpeg", ".png")
RIGHT_EYE = "_right"
"""Behind a camera's name: the right picture of its stereo recording."""
SERIALS = {HAND: "wrist", "varied_camera_1": "ext1", "varied_camera_2": "ext2"}
"""Camera -> how metadata_*.json of `droid_raw` begins what it says of it."""
MAX_ROWS = 1_000_000
"""Time steps of an episode; at 15 a second 18 hours."""
MAX_INSTRUCTION = 10_000
"""Characters."""
ROBOT_STATE = "observation/robot_state"


def cameras_of(views: Sequence[str], side: Side = "left", stereo: Side | None = None) -> dict[str, str]:
    """View that a policy reads -> camera of a DROID folder.

    A view on the hand (`wrist`, `hand` or `gripper` in its name) is the hand camera; the first other one is the
    exterior camera of this side, a second one that of the other side.

    Args:
        views: the names under which the policy's observations carry its pictures.
        stereo: right: the right eye of each camera, where the recording has both.
    """
    if stereo not in (None, *SIDES):
        raise unknown("--stereo", str(stereo), SIDES)
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
    return {view: camera + RIGHT_EYE if stereo == "right" else camera for view, camera in cameras.items()}


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
        deeper = sorted({path.parent.name for outcome in OUTCOMES for path in root.glob(f"*/{outcome}")})
        hint = f"; there are episodes in {', '.join(deeper[:6])}: name one of these folders" if deeper else ""
        raise FoveateError(
            f"data root {root}: no episode in it; expected success/<date>/<episode>/ or failure/<date>/<episode>/ with "
            f"instruction.txt, trajectory.h5 and recordings/, found {holds(root)}{hint}"
        )
    return found


def holds(folder: Path) -> str:
    """What lies in a folder, for an error; recordings in forms that are not read are named with what to do."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "nothing"
    kinds = {path.suffix.lower() for path in folder.rglob("*") if path.suffix} if names else set()
    if kinds & {".svo", ".svo2"}:
        found += "; .svo and .svo2 are ZED's own recordings: export them as recordings/MP4/<serial>.mp4 with its tools"
    if ".npz" in kinds:
        found += "; .npz is not read: write trajectory.h5 as HDF5, and pictures as recordings/frames/<camera>/00000.jpg"
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
        path, where = self.folder / "instruction.txt", "instruction.txt"
        if not path.exists() and (task := self._metadata.get("current_task")):
            text, where = str(task).strip(), "current_task of metadata_*.json"
        else:
            try:
                text = read_text(path).strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = _reason(error) if path.exists() else "no such file, nor a metadata_*.json with current_task"
                raise FoveateError(f"episode {self.key}: instruction.txt cannot be read ({reason})") from error
        if not text:
            raise FoveateError(f"episode {self.key}: {where} is empty; it should hold the task in plain words")
        if len(text) > MAX_INSTRUCTION:
            raise FoveateError(f"episode {self.key}: {where} has {len(text):,} characters; it should hold one sentence")
        return text

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        """What `droid_raw` says of the episode; empty in other folders."""
        path = next(iter(sorted(self.folder.glob("metadata_*.json"))), None)
        try:
            return {} if path is None else read_json(path)
        except FoveateError as error:
            raise FoveateError(f"episode {self.key}: {error}") from error

    @cached_property
    def rows(self) -> int:
        """Time steps of `trajectory.h5`."""
        with self._trajectory() as file:
            lengths = {len(values) for values in self._fields(file).values() if values.ndim}
            if len(lengths) != 1 or lengths == {0}:
                found = f"lengths {sorted(lengths)}" if lengths else "nothing"
                raise FoveateError(
                    f"episode {self.key}: trajectory.h5, {ROBOT_STATE}: expected fields of one common length, "
                    f"got {found}"
                )
            if max(lengths) > MAX_ROWS:
                raise FoveateError(
                    f"episode {self.key}: trajectory.h5 says that it has {max(lengths):,} rows; expected at most "
                    f"{MAX_ROWS:,}"
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
            fields = self._fields(file)
            # DROID writes `joint_positions` where its users say `joint_position`.
            here = {name: next((n for n in (name, f"{name}s") if n in fields), None) for name, _ in parts}
            if all(field is None for field in here.values()) and "state" in fields:
                columns = [self._column("state", fields["state"], size)]
            else:
                missing = [name for name, _ in parts if here[name] is None]
                if missing:
                    has = sorted(fields) or "no such group"
                    raise FoveateError(
                        f"episode {self.key}: trajectory.h5 lacks {', '.join(f'{ROBOT_STATE}/{m}' for m in missing)}, "
                        f"which the policy's state needs; it has {has}"
                    )
                columns = [self._column(name, fields[str(here[name])], length) for name, length in parts]
        return np.concatenate(columns, axis=1)

    def numbers(self, group: str) -> dict[str, np.ndarray]:
        """Numeric fields right in a group of `trajectory.h5` (`action`), each [T] or [T, D]; empty: no such group."""
        with self._trajectory() as file:
            fields = self._fields(file, group).items()
            return {name: item[()] for name, item in fields if item.ndim in (1, 2) and item.dtype.kind in "biuf"}

    @cached_property
    def control_hz(self) -> float:
        """Rows per second, as the recorder noted it; DROID's own recorder notes nothing and runs at 15."""
        with self._trajectory() as file:
            return float(file.attrs.get("control_hz", 15.0))

    def frames(self, camera: str, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The camera's pictures at these rows, ascending: uint8 [H, W, 3]."""
        folder, video = (self.folder / "recordings" / name for name in (f"frames/{camera}", f"{camera}.mp4"))
        if pictures := _numbered(folder):
            return (self._picture(pictures.get(index, folder / f"{index:05d}.jpg")) for index in indices)
        if video.exists():
            return self._decode(video, indices)
        name, right = camera.removesuffix(RIGHT_EYE), camera.endswith(RIGHT_EYE)
        if serial := self._serial(name):
            alone, both = (self.folder / "recordings" / "MP4" / f"{serial}{end}.mp4" for end in ("", "-stereo"))
            if alone.exists() and not right:
                return self._decode(alone, indices)
            if both.exists():
                return (_half(frame, right) for frame in self._decode(both, indices))
        raise FoveateError(f"episode {self.key}: no pictures of {name}: {self._missing(name, serial, right)}")

    def _serial(self, camera: str) -> str:
        """The serial number of a camera of `droid_raw`; empty where nothing says it."""
        begin = SERIALS.get(camera, camera)
        said = (
            self._metadata.get(f"{begin}_cam_serial") or Path(str(self._metadata.get(f"{begin}_mp4_path") or "")).stem
        )
        return PurePosixPath(str(said)).name

    def _missing(self, camera: str, serial: str, right: bool) -> str:
        """Why there is no picture of a camera."""
        if right:
            needed = f"recordings/MP4/{serial or '<serial>'}-stereo.mp4 is not there, and --stereo right needs it"
        else:
            needed = f"neither recordings/frames/{camera}/ nor recordings/{camera}.mp4 is there"
            needed += f", nor recordings/MP4/{serial}.mp4" if serial else ""
        known = sorted(path.stem for path in (self.folder / "recordings" / "MP4").glob("*.mp4"))
        if known and not serial:
            needed += (
                f"; of recordings/MP4/ ({', '.join(known[:6])}) only metadata_*.json tells which camera is which: it "
                f"should say {SERIALS.get(camera, camera)}_cam_serial"
            )
        return f"{needed}; recordings/ holds {holds(self.folder / 'recordings')}"

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

        path = self.folder / "trajectory.h5"
        if not path.is_file():
            here = f"no such file; the folder holds {holds(self.folder)}"
            reason = "it is no regular file" if path.exists() else here
            raise FoveateError(f"episode {self.key}: trajectory.h5 cannot be read ({reason})")
        try:
            with h5py.File(path, "r") as file:
                if away := _leads_away(file):
                    raise FoveateError(
                        f"episode {self.key}: trajectory.h5, {away}: its data lie in another file, which is not read; "
                        "copy them into this one"
                    )
                yield file
        except FoveateError:
            raise
        except Exception as error:  # of a damaged file HDF5 raises OSError, RuntimeError, KeyError, ...
            raise FoveateError(f"episode {self.key}: trajectory.h5 cannot be read ({_reason(error)})") from error

    @staticmethod
    def _fields(file: h5py.File, group: str = ROBOT_STATE) -> dict[str, h5py.Dataset]:
        """The data sets right in a group, none of them read; links that lead nowhere are passed over."""
        import h5py

        found = file.get(group)
        members = {name: found.get(name) for name in found} if isinstance(found, h5py.Group) else {}
        return {name: item for name, item in members.items() if isinstance(item, h5py.Dataset)}

    def _column(self, name: str, field: h5py.Dataset, length: int) -> np.ndarray:
        """float32 [T, length] of one field, which is read if it has that shape."""
        fits = field.shape == (self.rows, length) or (field.shape == (self.rows,) and length == 1)
        if not fits or field.dtype.kind not in "biuf":
            kind = "" if field.dtype.kind in "biuf" else f" of {field.dtype}"
            raise FoveateError(
                f"episode {self.key}: trajectory.h5, {ROBOT_STATE}/{name} has the shape {list(field.shape)}{kind}, the "
                f"policy's state needs {[self.rows, length]}"
            )
        return np.asarray(field[()], np.float32).reshape(self.rows, length)

    def _picture(self, path: Path) -> np.ndarray:
        try:
            return read_picture(path)
        except ImageError as error:
            where = path.relative_to(self.folder)
            raise FoveateError(f"episode {self.key}: {where} is not a readable picture ({error})") from error

    def _decode(self, video: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
        import av

        wanted, seen = iter(indices), -1
        target = next(wanted, None)
        try:
            if not video.is_file():
                raise FoveateError("no regular file")
            with av.open(str(video)) as container:
                stream = container.streams.video[0]
                if stream.width * stream.height > MAX_PIXELS:
                    raise FoveateError(f"{stream.width} x {stream.height} are more than {MAX_PIXELS:,} pixels")
                for seen, frame in enumerate(container.decode(stream)):
                    if target is None:
                        return
                    if seen == target:
                        yield frame.to_ndarray(format="rgb24")
                        target = next(wanted, None)
        except Exception as error:  # whatever a decoder raises of a damaged file
            raise FoveateError(f"episode {self.key}: {video.name} cannot be decoded ({error})") from error
        if target is not None:
            raise FoveateError(
                f"episode {self.key}: {video.name} has {seen + 1} frames, frame {target} is needed; the trajectory has "
                f"{self.rows} rows"
            )


def _numbered(folder: Path) -> dict[int, Path]:
    """Row -> its picture, of whatever kind; none: there is no such folder, or no picture in it."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.stem.isdecimal() and path.suffix.lower() in PICTURES:
            found.setdefault(int(path.stem), path)
    return found


def _half(frame: np.ndarray, right: bool) -> np.ndarray:
    """One eye of a stereo picture [H, 2 W, 3]: [H, W, 3]."""
    width = frame.shape[1] // 2
    return np.ascontiguousarray(frame[:, width:] if right else frame[:, :width])


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


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
