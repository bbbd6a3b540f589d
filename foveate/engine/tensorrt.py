"""TensorRT for the vision tower, through torch_tensorrt (an extra): one engine for each number of pictures.

    run = TensorRTParts()
    with run.preparing():
        model.embed_prefix(inputs, run=run)        # builds what it meets

Networks are strongly typed: TensorRT computes in the policy's types (bfloat16, the patch embedding in float32) and
chooses none itself. `half` builds the tower in float16 and gives its tokens back in the policy's type, as
`VisionWrapper(tower).half()` does with a cast to bfloat16 behind it.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.parts import PartModule, Prepared, PreparedParts, plain_cache
from foveate.engine.stand_in import stand_in
from foveate.errors import FoveateError
from foveate.models.base import PrefixCache
from foveate.util.words import plural

PACKAGE = "torch_tensorrt"
IN_PYTORCH = "_run_on_gpu"
"""What torch_tensorrt calls a submodule of operations that TensorRT does not run."""
SHOWN = 8
"""Operations that fell back that are named in a warning; reports name all."""


class TensorRTParts(PreparedParts):
    """A `Run` that calls a part's TensorRT engine."""

    def __init__(self, half: bool = False) -> None:
        """
        Args:
            half: float16 throughout, whatever the policy's type is.
        """
        super().__init__()
        self._half = half
        self.fallen_back: Counter[str] = Counter()
        """Operations that PyTorch runs, with their layer -> how many of them."""

    def cache(self, cache: PrefixCache, longest: int) -> PrefixCache:
        return plain_cache(cache)

    def facts(self) -> dict[str, Any]:
        return {"tensorrt": {"half": self._half, "fallen_back": dict(self.fallen_back)}}

    def notes(self) -> list[str]:
        if not self.fallen_back:
            return []
        names = [f"{name} ({count})" for name, count in self.fallen_back.most_common(SHOWN)]
        more = len(self.fallen_back) - len(names)
        told = ", ".join([*names, *([f"{more} more"] if more else [])])
        return [f"TensorRT: {plural(self.fallen_back.total(), 'operation')} of the tower fell back to PyTorch: {told}"]

    def _make(self, part: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Prepared, Any]:
        import torch_tensorrt

        # An exported program cannot hold tensors of inference mode.
        with torch.inference_mode(False), torch.no_grad():
            own = tuple(argument.clone() for argument in arguments)
            module = _Half(part, own) if self._half else PartModule(part)
            try:
                made = torch_tensorrt.compile(
                    module, ir="dynamo", inputs=list(own), use_explicit_typing=True, min_block_size=1
                )
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # TensorRT and torch.export raise many kinds
                reason = next(filter(None, str(error).splitlines()), type(error).__name__)
                raise FoveateError(
                    f"engine.vision tensorrt: the tower cannot be built here ({reason[:200]}); choose cuda_graph"
                ) from error
        self.fallen_back.update(left_to_pytorch(made))
        return made, made(*arguments)


class _Half(PartModule):
    """The same in float16, over float16 copies of the weights that it reads; its result has the part's own type."""

    def __init__(self, part: Callable[..., Any], arguments: tuple[Tensor, ...]) -> None:
        super().__init__(part)
        self.dtype = part(*arguments).dtype
        self.model = stand_in(self.model)
        for module in _called(self.model, self.name, arguments):
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(weight.half(), requires_grad=False))

    def forward(self, *arguments: Tensor) -> Tensor:
        out: Tensor = super().forward(*(argument.half() for argument in arguments))
        return out.to(self.dtype)


def _called(model: nn.Module, name: str, arguments: tuple[Tensor, ...]) -> list[nn.Module]:
    """The modules that a method of the model calls."""
    called: dict[nn.Module, None] = {}
    handles = [m.register_forward_pre_hook(lambda module, _: called.setdefault(module)) for m in model.modules()]
    try:
        getattr(model, name)(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return list(called)


def left_to_pytorch(made: nn.Module) -> Counter[str]:
    """The operations of what torch_tensorrt made that TensorRT does not run, by name."""
    outside = [child for name, child in made.named_children() if name.startswith(IN_PYTORCH)]
    graphs = [module.graph for module in (made, *outside) if isinstance(module, torch.fx.GraphModule)]
    operations = ("call_function", "call_method")
    nodes = [node for graph in graphs for node in graph.nodes if node.op in operations]
    return Counter(_named(node) for node in nodes if node.target is not operator.getitem)


def _named(node: torch.fx.Node) -> str:
    """An operation, and the layer that it belongs to where the graph tells."""
    name = getattr(node.target, "__name__", str(node.target))
    stack = node.meta.get("nn_module_stack")
    return f"{name} in {list(stack.values())[-1][0]}" if stack else name
