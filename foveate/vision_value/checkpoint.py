"""A trained head on the disk: head, wording table, and thresholds that were chosen on validation.

    OUT/checkpoint-000300.pt     {"policy": weights, "shape": {...}, "facts": {...}}

Read with `weights_only=True`: no code in a checkpoint is ever run. The state folders of accelerate and the checkpoints
of other trainers are searched for a two-layer MLP under a name such as `vow_head`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.util.files import draft
from foveate.vision_value.config import HeadConfig
from foveate.vision_value.head import HeadShape, ValueHead

HEAD_NAMES = ("vow_head", "value_head", "policy_head", "policy", "vow", "head")
STATE_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.safetensors")
"""What accelerate's `save_state` calls the weights."""


@dataclass(frozen=True)
class TrainedHead:
    """A head, and what was learned beside it."""

    head: ValueHead
    path: str
    lookup: Mapping[str, tuple[float, float, float]] | None = None
    """Mean gains per wording of the training questions."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`model` (fingerprint), `seed`, `lambda_cost`, `mean_gains`; `thresholds` and `cascades` chosen on validation."""
    model_weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Of another trainer's checkpoint: all tensors in it, among which the tuned model's may be."""


def save_head(folder: Path, step: int, trained: TrainedHead) -> Path:
    """Write `folder/checkpoint-STEP.pt`, whole or not at all."""
    final = folder / f"checkpoint-{step:06d}.pt"
    payload = {
        "policy": {name: tensor.detach().cpu() for name, tensor in trained.head.state_dict().items()},
        "shape": dataclasses.asdict(trained.head.shape),
        "lookup": {key: list(gains) for key, gains in (trained.lookup or {}).items()},
        "facts": dict(trained.facts),
        "step": step,
    }
    with draft(final) as begun:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(payload, begun)
    return final


def newest_checkpoint(folder: Path) -> Path | None:
    """The `checkpoint-*.pt` that the folder's `summary.json` calls finished; without one that of the most steps.

    A shorter training in the same folder leaves longer ones' files there.
    """
    try:
        finished = folder / json.loads((folder / "summary.json").read_text())["checkpoint"]
        if finished.is_file():
            return finished
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = [path for path in folder.glob("checkpoint-*.pt") if re.search(r"\d+", path.stem)]
    return max(found, key=lambda path: int(re.findall(r"\d+", path.stem)[-1]), default=None)


def load_head(path: str | Path, config: HeadConfig) -> TrainedHead:
    """Open a `checkpoint-*.pt`, a folder of them (the newest), or an accelerate state folder.

    Args:
        config: says what features a head of another trainer reads.
    Raises:
        FoveateError: there is none, it cannot be read, or it holds no head.
    """
    path = Path(path)
    file = path
    if path.is_dir():
        state = next((path / name for name in STATE_FILES if (path / name).exists()), None)
        file = state or newest_checkpoint(path) or path
    if not file.is_file():
        raise FoveateError(
            f"{path}: expected a checkpoint-*.pt, a folder of them, or an accelerate state folder (with one of "
            f"{', '.join(STATE_FILES)}); `foveate train value` writes one"
        )
    content = read_weights(file)
    if "shape" in content and "policy" in content:
        head = ValueHead(HeadShape(**content["shape"]))
        head.load_state_dict(content["policy"])
        lookup = {key: (gains[0], gains[1], gains[2]) for key, gains in content["lookup"].items()}
        return TrainedHead(head.eval(), str(path), lookup or None, content["facts"])
    weights = weights_of(content)
    return TrainedHead(foreign_head(weights, config, file).eval(), str(path), model_weights=weights)


def read_weights(file: Path) -> dict[str, Any]:
    """The content of a checkpoint file; nothing in it is executed.

    Raises:
        FoveateError: it cannot be read, or holds anything but tensors and plain data.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        with torch.serialization.safe_globals(_numpy_types()):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds, and torch advises to trust the file
        foreign = re.search(r"(?:GLOBAL|[Cc]lass) `?([\w.]+)", str(error))
        if isinstance(error, OSError):
            reason = f"cannot be read: {error.strerror or error}"
        elif foreign:
            reason = f"it holds a Python object ({foreign[1]}), and code is not run; save the state dict alone"
        else:
            reason = (
                "not a checkpoint: expected a whole file of torch.save or safetensors, got something else or a part"
            )
        raise FoveateError(f"{file}: {reason}") from error
    if not isinstance(content, dict):
        raise FoveateError(f"{file}: expected a dictionary of tensors, got a {type(content).__name__}")
    return content


def _numpy_types() -> list[Any]:
    """Plain data that trainers keep beside the weights: the state of NumPy's random generator."""
    return [np.ndarray, np.dtype, np.dtypes.UInt32DType, np.zeros(0).__reduce__()[0]]


def weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The flat state dict in a checkpoint, with DDP's `module.` removed."""
    nested = [content[key] for key in ("model", "state_dict", "model_state_dict", "policy") if key in content]
    flat = next((inner for inner in nested if isinstance(inner, Mapping)), content)
    return {name.removeprefix("module."): value for name, value in flat.items() if isinstance(value, Tensor)}


def adopt_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """Load the tensors whose names, but for leading words such as `vlm.`, and shapes are the model's; how many."""
    own = model.state_dict()
    found: dict[str, Tensor] = {}
    for cut in range(4):
        named = {".".join(name.split(".")[cut:]): value for name, value in weights.items()}
        fitting = {name: value for name, value in named.items() if name in own and own[name].shape == value.shape}
        found = max(found, fitting, key=len)
    model.load_state_dict(found, strict=False)
    return len(found)


def foreign_head(weights: Mapping[str, Tensor], config: HeadConfig, file: Path) -> ValueHead:
    """The two linear layers of another trainer's head, as a head that chooses by argmax of its logits."""
    layers = [
        (name.removesuffix(".weight"), value)
        for name, value in weights.items()
        if name.endswith(".weight") and value.ndim == 2 and any(f"{h}." in name for h in HEAD_NAMES)
    ]
    last = next(
        (
            i
            for i, (_, w) in enumerate(layers)
            if i and w.shape[0] in (2, 3) and w.shape[1] == layers[i - 1][1].shape[0]
        ),
        0,
    )
    if not last:
        raise FoveateError(
            f"{file}: no policy head in it: expected two linear layers under {', '.join(HEAD_NAMES)}, the last with 2 "
            f"or 3 outputs; found {', '.join(list(weights)[:6]) or 'no tensors'}"
        )
    (first_name, first), (last_name, final) = layers[last - 1], layers[last]
    extra = ("entropy" in config.feature_mode) + ("margin" in config.feature_mode)
    space: Literal["binary", "ternary"] = "ternary" if final.shape[0] == 3 else "binary"
    reads = first.shape[1] - extra
    shape = HeadShape(reads, config.feature_mode, first.shape[0], space, "policy", activation=config.vow_activation)
    rows = [0, 1, 2] if space == "ternary" else [0, 2]
    bias = {n: weights.get(f"{n}.bias", torch.zeros(len(w))) for n, w in ((first_name, first), (last_name, final))}
    # The head's own layers are net.0 and net.3; an action that the other trainer did not have keeps zeros.
    last_weight, last_bias = torch.zeros(3, first.shape[0]), torch.zeros(3)
    last_weight[rows], last_bias[rows] = final.float(), bias[last_name].float()
    head = ValueHead(shape)
    loaded = {
        "net.0.weight": first,
        "net.0.bias": bias[first_name],
        "net.3.weight": last_weight,
        "net.3.bias": last_bias,
    }
    head.load_state_dict({"mean": head.mean, "std": head.std, **loaded})
    return head
