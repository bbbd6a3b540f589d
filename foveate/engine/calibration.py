"""Static scales for a prefill in fewer bits: measured on real observations with each layer's error; by checkpoint.

    layers, left_out = calibrate(model, batches, Fp8())
    write_calibration(folder, Calibration(hash_folder(folder), len(batches), MOST_ERROR, layers, left_out), about={})
    read_calibration(folder).quantised

A layer whose outputs are off by more than the bound stays as it is, and is listed with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from foveate.engine.record import CALIBRATION, hash_folder
from foveate.engine.stand_in import NOT_WHOLE, backbone_linears, relative_error, too_far
from foveate.errors import FoveateError
from foveate.models.base import ActionModel, ModelInputs, pack
from foveate.util.checks import number, of_type, whole
from foveate.util.files import read_json, write_json
from foveate.util.words import plural

LEAST_OBSERVATIONS = 8


@dataclass(frozen=True)
class LayerScale:
    """What calibration saw of a layer."""

    input_max: float
    """Largest magnitude of its inputs."""
    error: float
    """Of its outputs in float8, the worst observation; see `stand_in.MOST_ERROR`."""


@dataclass(frozen=True)
class Calibration:
    """Scales of one checkpoint."""

    checkpoint: str
    """SHA-256 of the whole checkpoint that it was made with; see `engine.record`."""
    observations: int
    max_error: float
    """Layers that are off by more stay as they are."""
    layers: Mapping[str, LayerScale]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Layers that could not be measured -> why."""

    @property
    def quantised(self) -> list[str]:
        """Layers that run in float8."""
        return [name for name, layer in self.layers.items() if layer.error <= self.max_error]

    @property
    def kept(self) -> dict[str, str]:
        """Layers that stay as they are -> why."""
        over = {
            name: too_far(layer.error, self.max_error)
            for name, layer in self.layers.items()
            if layer.error > self.max_error
        }
        return over | dict(self.left_out)


class Form(Protocol):
    """Linear layers in fewer bits."""

    def unfit(self, linear: nn.Linear) -> str | None:
        """Why a layer cannot have this form; None: it can."""
        ...

    def trial(self, linear: nn.Linear, input_max: float) -> nn.Module:
        """The layer in this form, rounding as it will, on any device."""
        ...


class _NotFinite(Exception):
    """Of a layer's inputs or outputs; its name."""


class _Seen:
    """Of the inputs and outputs of a model's linear layers, while it runs."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}
        self.error: dict[str, float] = {}

    @contextmanager
    def watching(self, linears: Mapping[str, nn.Linear], trial: Mapping[str, nn.Module]) -> Iterator[None]:
        """Take down inputs' magnitudes; where there is a layer to try, how far its outputs are off."""
        handles = [
            linear.register_forward_hook(lambda _, inputs, out, name=name: self._see(name, inputs[0], out, trial))
            for name, linear in linears.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, name: str, x: Tensor, out: Tensor, trial: Mapping[str, nn.Module]) -> None:
        largest = x.abs().max().item()
        if not (math.isfinite(largest) and out.isfinite().all()):
            raise _NotFinite(name)
        self.largest[name] = max(self.largest.get(name, 0.0), largest)
        if name in trial:
            off = relative_error(trial[name](x).float(), out.float())
            self.error[name] = max(self.error.get(name, 0.0), off)


@torch.inference_mode()
def calibrate(
    model: ActionModel, batches: Sequence[ModelInputs], form: Form
) -> tuple[dict[str, LayerScale], dict[str, str]]:
    """Measure scales, and with them each layer's error, on all tokens of these observations.

    Args:
        batches: observations, one in each; at least `LEAST_OBSERVATIONS`.
        form: of the layers that is calibrated for.
    Returns:
        Layer -> what was seen of it; layers that cannot have the form -> why.
    Raises:
        FoveateError: too few observations, or something is not finite: its number is named.
    """
    if len(batches) < LEAST_OBSERVATIONS:
        raise FoveateError(
            f"calibration: got {plural(len(batches), 'observation')}, and static scales need at least "
            f"{LEAST_OBSERVATIONS}, of different tasks and moments"
        )
    assert isinstance(model, nn.Module)
    linears = backbone_linears(model)
    left_out = {name: why for name, linear in linears.items() if (why := form.unfit(linear)) is not None}
    linears = {name: linear for name, linear in linears.items() if name not in left_out}
    seen = _Seen()
    trial: dict[str, nn.Module] = {}
    for _ in range(2):
        for index, inputs in enumerate(batches):
            try:
                with seen.watching(linears, trial):
                    model.prefill(pack(model.embed_prefix(inputs)))
            except _NotFinite as error:
                raise FoveateError(
                    f"calibration: observation {index} gives numbers that are not finite at backbone layer {error}; "
                    "look for NaN in its state and in the checkpoint"
                ) from None
        trial = {name: form.trial(linears[name], largest) for name, largest in seen.largest.items()}
    left_out |= {name: NOT_WHOLE for name in linears if name not in seen.largest}
    return {name: LayerScale(seen.largest[name], seen.error[name]) for name in seen.largest}, left_out


def write_calibration(folder: Path, calibration: Calibration, about: Mapping[str, Any]) -> Path:
    """Keep it beside the checkpoint.

    Args:
        about: where it came from; plain values.
    Raises:
        CannotWrite: the folder cannot be written.
    """
    path = folder / CALIBRATION
    write_json(path, {**asdict(calibration), "kept": calibration.kept, **about}, indent=1)
    return path


def read_calibration(folder: Path) -> Calibration | None:
    """A checkpoint's; None: it has none.

    Raises:
        FoveateError: it was made with other weights, or the file is damaged.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    content = read_json(path)
    again = f"run `foveate engine calibrate --policy {folder}` again"
    if of_type(f"{path}: checkpoint", content.get("checkpoint"), str) != hash_folder(folder):
        raise FoveateError(f"{path}: was made with another checkpoint, some file of this folder has changed; {again}")
    layers = of_type(f"{path}: layers", content.get("layers"), dict)
    return Calibration(
        content["checkpoint"],
        whole(f"{path}: observations", content.get("observations"), LEAST_OBSERVATIONS, 1 << 30),
        number(f"{path}: max_error", content.get("max_error"), 0),
        {name: _layer(f"{path}: {name}", layer) for name, layer in layers.items()},
        {k: str(v) for k, v in of_type(f"{path}: left_out", content.get("left_out"), dict).items()},
    )


def _layer(place: str, values: Any) -> LayerScale:
    given = of_type(place, values, dict)
    return LayerScale(*(number(f"{place}.{name}", given.get(name), 0) for name in ("input_max", "error")))
