"""The golden group `pi0/`: π0 and π0.5 against numbers of the reference implementation.

A case is a tag of `pi0_index.json` (`tiny_pi05`, ...). Cases whose model or outputs are not in the folder are
listed as absent. Rows of padding do not count: their attention is uniform garbage in the reference.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from foveate.engine.base import Engine
from foveate.golden import record
from foveate.golden.report import EXACT, FLOAT64, FREQUENCY, TOLERANCES, Kind, Report, Tolerance
from foveate.models.base import ModelInputs
from foveate.models.common.images import resize_with_pad
from foveate.models.common.layers import rope_frequencies
from foveate.models.pi0.config import Pi0Config
from foveate.models.pi0.model import Pi0
from foveate.models.pi0.weights import TIED_EMBEDDING, UNUSED, expected_shapes, load_weights, split_parameter

STEPS = (10, 3, 1)
"""Euler steps of the golden samples."""


def run(folder: Path, report: Report, *, device: str, dtypes: tuple[str, ...], engine: Callable[[Pi0], Engine]) -> None:
    """Compare every case in the folder; `dtypes` chooses between the float32 and the bfloat16 numbers."""
    index = json.loads((folder / "pi0_index.json").read_text(encoding="utf-8"))
    for tag, entry in index.items():
        names = {"float32": "outputs", "bfloat16": "bf16_outputs"}
        for dtype in dtypes:
            outputs = folder / f"{tag}.{names[dtype]}.safetensors"
            needed = (folder / f"{tag}.model.safetensors", outputs)
            missing = [path.name for path in needed if not path.exists()]
            case = f"{tag} {dtype}"
            if missing:
                report.skip(case, "*", "absent", f"{missing[0]} is not in the folder")
                continue
            _Case(folder, tag, entry, dtype, device, report).run(load_file(outputs), engine)
    _keys(folder, report)
    _resize(folder, report, device)


def tolerance(name: str, dtype: str) -> Tolerance:
    """Of one tensor, by its name."""
    if name.endswith(("masks", "position_ids", "times")) or name == "inv_freq_used":
        return EXACT
    if name == "inv_freq_fp32":
        return FREQUENCY
    if name == "suffix.time_emb_f64":
        return FLOAT64
    kinds: dict[str, Kind] = {
        "train.grad.": "gradient",
        "train.loss": "loss",
        "denoise.v_t": "action",
        "sample": "action",
    }
    return TOLERANCES[dtype][next((kind for start, kind in kinds.items() if name.startswith(start)), "hidden")]


class _Case:
    """One model, one dtype."""

    def __init__(self, folder: Path, tag: str, entry: dict, dtype: str, device: str, report: Report) -> None:
        self.name, self.entry, self.dtype, self.report = f"{tag} {dtype}", entry, dtype, report
        self.config = Pi0Config.from_dict({**entry["config"], "dtype": dtype})
        self.model = load_weights(folder / f"{tag}.model.safetensors", self.config, device)
        self.given = {k: v.to(device) for k, v in load_file(folder / f"{tag.split('_')[0]}.inputs.safetensors").items()}
        pictures = load_file(folder / "images.safetensors")
        images = torch.stack([pictures[f"image{i}_u8"] for i in range(len(self.config.views))], 1).to(device)
        g = self.given
        self.inputs = ModelInputs(
            images.float() / 255.0 * 2.0 - 1.0, g["img_masks"], g["lang_tokens"], g["lang_masks"], g["state"]
        )
        self.dtypes = folder / f"{tag}.bf16_dtypes.json"

    def run(self, golden: dict[str, Tensor], engine: Callable[[Pi0], Engine]) -> None:
        with torch.no_grad():
            ours = self._forward()
            made = engine(self.model)
            made.prepare(self.inputs, self.given["noise"])
            samples = {"packed": self._samples(made), "padded": self._samples(None)}
        ours |= self._training()
        order = {name: i for i, name in enumerate(self.entry["outputs"])}
        for name in sorted(golden, key=lambda name: order.get(name, len(order))):
            if name in ours:
                self._compare(name, ours[name], golden[name])
            elif name in samples["packed"]:
                for variant, sample in samples.items():
                    self._compare(name, sample[name], golden[name], group=f"{name} ({variant})")
            else:
                self.report.skip(self.name, name, "not compared", "this version does not produce it")
        if self.dtype == "float32":
            self._gradient_norms(self.entry["grad_norms"])
            for name in sorted(set(self.entry["outputs"]) - set(golden)):
                self.report.skip(self.name, name, "absent", "listed in the index, not in the file")
        elif self.dtypes.exists():
            _compare_dtypes(self.report, self.name, self.config, json.loads(self.dtypes.read_text(encoding="utf-8")))

    def _compare(self, name: str, ours: Tensor, golden: Tensor, group: str | None = None) -> None:
        valid = self._valid_rows(name)
        if valid is not None and golden.ndim == 4:  # [B, heads, S, ...]: bring the masked axis beside the batch.
            ours, golden = ours.transpose(1, 2), golden.transpose(1, 2)
        self.report.compare(self.name, name, ours, golden, tolerance(name, self.dtype), valid=valid, group=group)

    def _valid_rows(self, name: str) -> Tensor | None:
        """bool [B, S]: the prefix rows that are real; None: every row of this tensor counts."""
        kinds = ("embs", "input", "last_hidden_state", "k_cache", "v_cache", "attn", "attn_rows", "prefix_out")
        if not name.startswith(("prefix.", "train.prefix_out")) or name.split(".")[-1] not in kinds:
            return None
        views = self.given["img_masks"].repeat_interleave(math.prod(self.config.vision.grid), 1)
        mask = torch.cat((views, self.given["lang_masks"]), 1).cpu()
        return mask[:, self.entry["attn_rows"]] if name.endswith("attn_rows") else mask

    def _forward(self) -> record.Recorded:
        out, prefix = record.record_vision(self.model, self.inputs)
        more, cache = record.record_prefix(self.model, prefix, self.entry["attn_rows"])
        g = self.given
        steps = record.record_denoise(self.model, cache, g["state"], g["x_t"], g["timestep"])
        frequencies = {
            "inv_freq_fp32": rope_frequencies(self.config.llm.head_dim, torch.float32),
            "inv_freq_used": rope_frequencies(self.config.llm.head_dim, self.model.llm.dtype),
        }
        return out | more | steps | frequencies

    def _samples(self, engine: Engine | None) -> record.Recorded:
        """`sample*` by the engine (exactly packed); None: by the model on the padded prefix, as in the reference."""
        noise = self.given["noise"]
        out: record.Recorded = {}
        for n in STEPS:
            with record.record_steps(self.model) as steps:
                if engine is not None:
                    actions = engine.run(self.inputs, noise, steps=n).actions
                else:
                    actions = self.model.sample_actions(self.inputs, noise, num_steps=n, packed=False)
            out |= {f"sample{n}.{name}": torch.stack(values) for name, values in steps.items()}
            out[f"sample{n}.actions"] = actions
            out[f"sample{n}.times"] = torch.tensor(self.model.times(n), dtype=torch.float32)
        return out

    def _training(self) -> record.Recorded:
        g = self.given
        self.model.requires_grad_(self.dtype == "float32")
        if self.dtype != "float32":
            self.model.action_out_proj.requires_grad_(True)  # Something must carry the gradient that nobody reads.
        out = record.record_training(self.model, self.inputs, g["actions"], g["train_noise"], g["train_time"])
        self.gradients: dict[str, Tensor | None] = {}
        for name, parameter in self.model.named_parameters():
            parts = split_parameter(name, parameter, self.config)
            if parameter.grad is None:
                self.gradients |= dict.fromkeys(parts)
            else:
                self.gradients |= split_parameter(name, parameter.grad, self.config)
        tied = self.gradients.pop(TIED_EMBEDDING[0])
        self.gradients[TIED_EMBEDDING[1]] = tied
        return out | {f"train.grad.{name}": g for name, g in self.gradients.items() if g is not None}

    def _gradient_norms(self, norms: dict[str, float | None]) -> None:
        """L2 norms of all gradients. None (no gradient) and 0.0 (the query of the last prefix layer) are one."""
        for name, norm in norms.items():
            if name in UNUSED:
                continue
            gradient = self.gradients.get(name)
            ours = torch.zeros(1) if gradient is None else gradient.double().norm()[None]
            golden = torch.tensor([norm or 0.0], dtype=torch.float64)
            self.report.compare(
                self.name, name, ours, golden, TOLERANCES["float32"]["gradient norm"], group="grad_norms"
            )


def _compare_dtypes(report: Report, case: str, config: Pi0Config, golden: dict[str, str]) -> None:
    with torch.device("meta"):
        model = Pi0(config)
    ours: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        ours |= {
            key: str(part.dtype).removeprefix("torch.")
            for key, part in split_parameter(name, parameter, config).items()
        }
    ours[TIED_EMBEDDING[1]] = ours[TIED_EMBEDDING[0]]
    different = [key for key in golden if key not in UNUSED and ours.get(key) != golden[key]]
    report.exact(case, "dtypes of parameters", not different, f"{len(different)} differ, first {different[:1]}")


def _keys(folder: Path, report: Report) -> None:
    """Names, shapes and dtypes of the published sizes, on the meta device."""
    for name in ("pi0", "pi05"):
        path = folder / f"real_{name}_keys.json"
        case = f"real {name}"
        if not path.exists():
            report.skip(case, "keys and shapes", "absent", f"{path.name} is not in the folder")
            continue
        config = Pi0Config(pi05=name == "pi05")
        golden = {key: tuple(shape) for key, shape in json.loads(path.read_text(encoding="utf-8")).items()}
        ours = expected_shapes(config)
        ours[TIED_EMBEDDING[1]] = ours[TIED_EMBEDDING[0]]
        different = sorted(
            {key for key in ours.keys() | golden.keys() if ours.get(key) != golden.get(key)} - set(UNUSED)
        )
        report.exact(case, "keys and shapes", not different, f"{len(different)} differ, first {different[:1]}")
        dtypes = folder / f"real_{name}_bf16_dtypes.json"
        if dtypes.exists():
            golden_dtypes = json.loads(dtypes.read_text(encoding="utf-8"))
            _compare_dtypes(report, case, dataclasses.replace(config, dtype="bfloat16"), golden_dtypes)


def _resize(folder: Path, report: Report, device: str) -> None:
    path = folder / "resize.safetensors"
    if not path.exists():
        report.skip("resize", "*", "absent", f"{path.name} is not in the folder")
        return
    data = load_file(path)
    for name in sorted({key.split(".")[0] for key in data}):
        picture = data[f"{name}.in_u8"].to(device).permute(0, 3, 1, 2).float() / 255.0 * 2.0 - 1.0
        ours = resize_with_pad(picture, 224, 224).permute(0, 2, 3, 1)
        golden = data[f"{name}.out_f32_bhwc"]
        report.compare(
            "resize", f"{name}.out_f32_bhwc", ours, golden, TOLERANCES["float32"]["image"], group="resize_with_pad"
        )
