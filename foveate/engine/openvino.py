"""OpenVINO on a CPU (an extra), part by part: exported by torch.export, converted, compiled for its shapes.

    run = OpenVinoParts()
    with run.preparing():
        model.prefill(prefix, run=run)     # converts what it meets

Computes in float32. Each converted part holds the weights that it reads once more, packed for the processor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from foveate.engine.parts import PartModule, Prepared, PreparedParts, free_axes, plain_cache, tensors_of
from foveate.errors import FoveateError
from foveate.models.base import PrefixCache

PACKAGE = "openvino"
aten = torch.ops.aten


class OpenVinoParts(PreparedParts):
    """A `Run` that calls a part's OpenVINO model, with as many threads as PyTorch has when it is made."""

    def cache(self, cache: PrefixCache, longest: int) -> PrefixCache:
        """Of any length: plain, and with a mask in any case."""
        return plain_cache(cache)

    def _make(self, part: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Prepared, Any]:
        result = part(*arguments)
        form = pytree.tree_structure(result)
        # An exported program cannot hold tensors of inference mode.
        with torch.inference_mode(False), torch.no_grad():
            try:
                program = torch.export.export(
                    _Flat(part, arguments),
                    tuple(tensor.clone() for tensor in tensors_of(arguments)),
                    dynamic_shapes=(_free(part, arguments),),
                    strict=False,
                )
                compiled = converted(program)
            except Exception as error:  # torch.export and OpenVINO raise many kinds
                name = getattr(part, "__qualname__", type(part).__name__)
                reason = next(filter(None, str(error).splitlines()), type(error).__name__)
                raise FoveateError(
                    f"{name} cannot be converted to OpenVINO ({reason[:200]}); choose --engine compiled or eager"
                ) from error
        request = compiled.create_infer_request()

        def prepared(*arguments: Any) -> Any:
            given = [tensor.numpy() for tensor in tensors_of(arguments)]
            found = request.infer(given, share_inputs=True)
            leaves = [torch.from_numpy(found[output]) for output in compiled.outputs]
            return pytree.tree_unflatten(leaves, form)

        return prepared, result


def converted(program: torch.export.ExportedProgram) -> Any:
    """An exported program as OpenVINO's compiled model: float32 on the CPU, as many threads as PyTorch has."""
    openvino = _package()
    _sum_integers(program.graph)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return openvino.Core().compile_model(openvino.convert_model(program), "CPU", options)


def _package() -> Any:
    """OpenVINO without its telemetry, which forks this process at each conversion and waits seconds for an answer."""
    hidden = sys.modules.setdefault("openvino_telemetry", cast(Any, None))  # its own stand-in is imported instead
    try:
        import openvino
    finally:
        if hidden is None:
            del sys.modules["openvino_telemetry"]
    return openvino


class _Flat(PartModule):
    """A part that takes the tensors among its arguments, one by one, and gives a tuple of tensors."""

    def __init__(self, part: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        super().__init__(part)
        self._others, self._form = pytree.tree_flatten(arguments)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        leaves = [next(left) if isinstance(other, Tensor) else other for other in self._others]
        return tuple(pytree.tree_leaves(super().forward(*pytree.tree_unflatten(leaves, self._form))))


def _free(part: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[dict[int, Any] | None, ...]:
    """Of each tensor the axis that may have any size."""
    axes = free_axes(part)
    return tuple(
        {axes[i]: torch.export.Dim.AUTO} if i in axes else None
        for i, argument in enumerate(arguments)
        for _ in tensors_of(argument)
    )


def _sum_integers(graph: torch.fx.Graph) -> None:
    """Booleans become integers before they are summed: OpenVINO's sum over booleans (2026.4) is wrong."""
    for node in list(graph.nodes):
        if node.target is aten.cumsum.default and node.args[0].meta["val"].dtype == torch.bool:
            with graph.inserting_before(node):
                whole = graph.call_function(aten.to.dtype, (node.args[0], torch.int64))
            node.replace_input_with(node.args[0], whole)
