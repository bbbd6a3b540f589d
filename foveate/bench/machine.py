"""What works on this machine, and what to install for the rest; how busy, fast and full it is at an instant.

    for finding in examine():
        print(finding.thing, finding.status, finding.remedy)

Everything that may crash or hang (GL drivers) is tried in a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foveate.envs import gl
from foveate.envs.base import default_python
from foveate.envs.libero.install import SIMULATOR_GB
from foveate.envs.worker import WorkerEnv
from foveate.errors import FoveateError

Status = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    thing: str
    status: Status
    detail: str
    """Version, device, or the reason."""
    purpose: str
    """What it is for."""
    remedy: str = ""
    """What to do where it does not work; empty where nothing is to be done."""
    essential: bool = False


def examine() -> list[Finding]:
    """Every check, essentials first; none of them raises."""
    found = [_python(), _torch(), *(_package(name, purpose) for name, purpose in NEEDED), _codecs(), _cuda()]
    found += [_gl(backend) for backend in ("egl", "osmesa")]
    found += [
        _libero(purpose) if module == "libero" else _extra(module, extra, purpose) for module, extra, purpose in EXTRAS
    ]
    return [*found, _browser()]


NEEDED = (
    ("transformers", "vision-language models, tokenizers"),
    ("safetensors", "weights"),
    ("sentencepiece", "the prompt's tokenizer"),
    ("jsonargparse", "the command line"),
    ("pillow", "images"),
    ("matplotlib", "overlays, plots"),
    ("h5py", "DROID recordings"),
    ("pyarrow", "LeRobot datasets"),
)
"""Distributions that foveate asks for; without one of them something fails."""

EXTRAS = (
    ("metaworld", "sim", "the simulator of `foveate demo` and `foveate eval sim --env metaworld`"),
    ("libero", "libero", "`foveate eval sim --env libero`, in its own interpreter"),
    ("tensorboard", "train", "a TensorBoard log of `foveate train policy`"),
    ("wandb", "wandb", "a Weights & Biases log of `foveate train policy`"),
    ("tensorstore", "convert", "JAX checkpoints in `foveate convert jax-to-torch`"),
    ("easy_vqa", "vlm", "a small set of questions about images, without a download"),
    ("peft", "vlm", "adapters in `foveate train vlm`"),
    ("openpyxl", "vlm", "the Excel sheet that MMBench's server takes"),
    ("simplejpeg", "oft", "pictures of OpenVLA-OFT as its training decoded them"),
    ("msgpack", "client", "`foveate.client`, the robot's side of `foveate serve`"),
    ("websockets", "serve", "`foveate serve`"),
    ("prometheus_client", "serve", "`/metrics` of `foveate serve`"),
    ("openvino", "openvino", "`--engine openvino` on a CPU"),
    ("torch_tensorrt", "tensorrt", "`--engine.vision tensorrt` on an NVIDIA GPU"),
    ("starlette", "view", "`foveate view`"),
    ("rerun", "rerun", "`foveate trace rerun`"),
    ("ray", "ray", "more than one machine: `foveate attn episodes --workers ray`"),
    ("vla_eval", "vla-eval", "a model server for vla-evaluation-harness"),
    ("playwright", "browser", "tests of the report in a real browser"),
)
"""Module, extra, what it is for."""


def _python() -> Finding:
    version = platform.python_version()
    status: Status = "ok" if sys.version_info >= (3, 11) else "broken"
    return Finding("Python", status, version, "everything", "install Python 3.11 or newer" * (status != "ok"), True)


def _torch() -> Finding:
    purpose, remedy = "models", 'pip install "torch>=2.6"'
    try:
        import torch
    except (ImportError, OSError) as error:
        status: Status = "missing" if isinstance(error, ModuleNotFoundError) else "broken"
        return Finding("torch", status, _short(error), purpose, remedy, True)
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 6):
        return Finding("torch", "broken", f"{torch.__version__}, expected 2.6 or newer", purpose, remedy, True)
    return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads", purpose, "", True)


def _cuda() -> Finding:
    purpose = "models on a GPU, CUDA graphs"
    try:
        import torch

        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            return Finding("CUDA", "ok", f"{torch.version.cuda}: {', '.join(names)}", purpose)
        if torch.version.cuda is None:
            why, remedy = "this torch is built without CUDA", "on a GPU machine: a CUDA build of torch (pytorch.org)"
        else:
            why, remedy = f"built for {torch.version.cuda}, no device found", "check the driver with nvidia-smi"
    except (ImportError, OSError, RuntimeError) as error:
        why, remedy = _short(error), "see torch"
    return Finding("CUDA", "missing", why, purpose, remedy)


def _package(name: str, purpose: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name), purpose, "", True)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", purpose, f"pip install {name}", True)


def _codecs() -> Finding:
    purpose, wanted = "videos of episodes", ("libvpx-vp9", "h264", "libx264", "mjpeg")
    try:
        import av
    except (ImportError, OSError) as error:
        return Finding("codecs (PyAV)", "missing", _short(error), purpose, "pip install av", True)
    lacking = [name for name in wanted if name not in av.codecs_available]
    if lacking:
        remedy = "pip install --force-reinstall --only-binary :all: av (its wheels bring them)"
        return Finding("codecs (PyAV)", "broken", f"no {', '.join(lacking)}", purpose, remedy)
    return Finding("codecs (PyAV)", "ok", f"{av.__version__}: vp9, h264, jpeg", purpose)


def _gl(backend: str) -> Finding:
    thing = {"egl": "GL by EGL", "osmesa": "GL by OSMesa"}[backend]
    purpose = "drawing what a simulated camera sees" + (", in software" if backend == "osmesa" else "")
    if importlib.util.find_spec("mujoco") is None:
        return Finding(thing, "missing", "not tried: no mujoco", purpose, 'pip install "foveate[sim]"')
    if trouble := gl.why_not(backend):
        return Finding(thing, "broken", trouble[:80], purpose, f"apt-get install {gl.PACKAGES[backend]}")
    return Finding(thing, "ok", "draws", purpose)


def _extra(module: str, extra: str, purpose: str) -> Finding:
    remedy = f'pip install "foveate[{extra}]"'
    if importlib.util.find_spec(module) is None:
        return Finding(module, "missing", "not installed", purpose, remedy)
    names = importlib.metadata.packages_distributions().get(module, [module])
    try:
        return Finding(module, "ok", importlib.metadata.version(names[0]), purpose)
    except importlib.metadata.PackageNotFoundError:
        return Finding(module, "ok", "version unknown", purpose)


LIBERO_SCENES = ("libero_object/0", "libero_spatial/5")
"""Where MuJoCo's versions show: a floor that is darker from 3.3.3 on, a bowl that slips from 3.10 on."""


def _libero(purpose: str) -> Finding:
    """Starts the simulator, which takes seconds, and holds two of its scenes against the reference."""
    python = default_python("libero")
    remedy = "make libero, in a clone of foveate"
    if python == sys.executable and importlib.util.find_spec("libero") is None:
        return Finding("libero", "missing", "neither here nor in a .venv-libero", purpose, remedy)
    try:
        with WorkerEnv("libero", timeout_s=300.0, tasks=LIBERO_SCENES) as env:
            versions = env.about["versions"]
            told = []
            for task in LIBERO_SCENES:
                env.reset(task, 0)
                told += env.examine()
    except FoveateError as error:
        return Finding("libero", "broken", str(error), purpose, remedy)
    what = ", ".join(f"{name} {version}" for name, version in versions.items())
    if told:
        return Finding("libero", "broken", f"{what}: {'; '.join(told)}", purpose, "make libero MUJOCO=3.2.3")
    memory = _free_gb()
    fit = f"; {int(memory / SIMULATOR_GB)} simulators fit into {memory:.0f} GB of free memory" if memory else ""
    return Finding("libero", "ok", f"{what}, scenes as they should be, in {python}{fit}", purpose)


def _free_gb() -> float | None:
    """Memory that a new process could have; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable")), None)


def _browser() -> Finding:
    purpose = "tests of the report in a real browser"
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return Finding("browser", "ok", path, purpose)
    return Finding("browser", "missing", "no Chromium on the path", purpose, "apt-get install chromium chromium-driver")


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:80]


def conditions(device: str) -> dict[str, Any]:
    """What a time depends on beside the work, where it can be read: load average, clock in MHz, power, temperature.

    `load_average` is of the last minute; of a GPU `gpu_mhz, gpu_watt, gpu_celsius`.
    """
    found: dict[str, Any] = {}
    with suppress(OSError, AttributeError):
        found["load_average"] = os.getloadavg()[0]
    with suppress(OSError):
        clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        found["cpu_mhz"] = [round(float(clock)) for clock in clocks]
    if device.startswith("cuda"):
        import torch

        # These ask the driver's management library, which not every machine has.
        for name, read in (
            ("gpu_mhz", lambda: torch.cuda.clock_rate(device)),
            ("gpu_watt", lambda: torch.cuda.power_draw(device) / 1e3),
            ("gpu_celsius", lambda: torch.cuda.temperature(device)),
        ):
            with suppress(Exception):
                found[name] = read()
    return found


def peak_memory(run: Callable[[], object], device: str) -> float | None:
    """Megabytes at most while `run` runs: of the GPU's allocations, on a CPU of the process; None: not known."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the process's highest memory
        run()
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    highest = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(highest[1]) * 1024 / 1e6 if highest else None
