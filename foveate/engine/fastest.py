"""The backend that `fastest` stands for, by stage, number format and device.

resolved(Fast(), "float32", "cpu")     # {"vision": "openvino", "prefill": "openvino", "denoise": "openvino"}
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from foveate.engine.config import FASTEST, Eager
from foveate.engine.openvino import PACKAGE as OPENVINO
from foveate.engine.processor import cpu_features
from foveate.engine.tensorrt import PACKAGE as TENSORRT


def resolved(engine: Eager, dtype: str, device: str) -> dict[str, str]:
    """Stage -> the name of its backend for weights of this number format on this device.

    OpenVINO is taken where it was measured to be the fastest: processors with AVX-512 (`benchmarks/pi0_cpu`).
    """
    on_gpu = torch.device(device).type == "cuda"
    in_openvino = not on_gpu and dtype == "float32" and find_spec(OPENVINO) is not None and "avx512f" in cpu_features()

    def fastest(stage: str) -> str:
        if on_gpu:
            return "tensorrt" if stage == "vision" and find_spec(TENSORRT) is not None else "cuda_graph"
        rounds = stage == "prefill" and engine.prefill_precision is not None
        return "openvino" if in_openvino and not rounds else "compiled"

    return {stage: fastest(stage) if name == FASTEST else name for stage, name in engine.backends.items()}
