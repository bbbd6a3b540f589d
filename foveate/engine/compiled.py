"""torch.compile, part by part: one callable for every shape that was prepared, and none that compiles by itself.

    run = CompiledParts()
    with run.preparing():
        model.prefill(prefix, run=run)     # compiles what it meets
    with no_compilation():
        model.prefill(prefix, run=run)     # runs what is prepared

A part is a whole stack: the vision tower, the backbone, one denoising step. Shapes are static, but for the length of a
cache that a part reads: denoising is one callable for all buckets. Weights are frozen into the callables, so that they
are packed for the matrix product that reads them: who changes a model's weights makes a new engine.

Each callable has a code object of its own: Dynamo counts recompilations by code object, and after eight of them it
silently runs what was written. `fullgraph` makes that an error.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from foveate.engine.parts import NotPrepared, Prepared, PreparedParts, free_axes, plain_cache, tensors_of
from foveate.errors import FoveateError
from foveate.models.base import PrefixCache
from foveate.models.common.layers import as_written
from foveate.util.files import try_writing, user_cache

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable: the folder that compiled code is kept in between runs."""


def missing_compiler() -> str | None:
    """Why nothing can be compiled for a CPU here; None: it can."""
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return "there is no C++ compiler; install g++ (or name one by CXX)"
    return None


def keep_code() -> str | None:
    """Let compiled code be kept in the user's cache folder, or where `TORCHINDUCTOR_CACHE_DIR` says.

    Returns:
        What to tell the user, where the folder cannot be written: then code is kept for this run alone.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    asked = os.environ.get(CACHE)
    if asked and os.path.abspath(asked) == os.path.abspath(default_cache_dir()):
        asked = None  # torch itself writes it there, in a folder that a restart empties; nobody chose it
    folder = Path(asked or user_cache() / "inductor")
    try:
        try_writing(folder)
    except OSError as error:
        os.environ[CACHE] = tempfile.mkdtemp(prefix="foveate-inductor-")
        return (
            f"{folder}: compiled code cannot be kept there ({error.strerror or error}), so every run compiles anew; "
            f"set {CACHE} to a writable folder"
        )
    os.environ[CACHE] = str(folder)
    return None


def no_compilation() -> AbstractContextManager[Any]:
    """While it is open, nothing compiles: what is not prepared runs as written. Entered once per query."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("fail_on_recompile")
    return stance


class CompiledParts(PreparedParts):
    """A `Run` that calls a part's compiled form."""

    def __init__(self, backend: str = "inductor", freeze: bool = True) -> None:
        """
        Args:
            backend: of torch.compile; `eager` traces and guards, and generates no code.
            freeze: pack the weights into each callable: faster, and each holds the part's weights once more.
        """
        super().__init__()
        self._backend, self._freeze = backend, freeze
        self._names = (f"part_{number}" for number in itertools.count())

    @contextmanager
    def preparing(self) -> Iterator[None]:
        import torch._inductor.config

        limit = torch._dynamo.config.patch(recompile_limit=1)
        with super().preparing(), limit, torch._inductor.config.patch(freezing=self._freeze):
            yield

    def cache(self, cache: PrefixCache, longest: int) -> PrefixCache:
        """Of any length: plain, and with a mask in any case."""
        return plain_cache(cache)

    def _make(self, part: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Prepared, Any]:
        from torch._dynamo.exc import TorchDynamoException  # a second of imports

        axes = free_axes(part)
        for i, axis in axes.items():
            for tensor in tensors_of(arguments[i]):
                torch._dynamo.mark_dynamic(tensor, axis)
        made = torch.compile(
            _own_code(as_written, next(self._names)),
            dynamic=None if axes else False,
            fullgraph=True,
            backend=self._backend,
        )

        def prepared(*arguments: Any) -> Any:
            try:
                return made(part, *arguments)
            except Exception as error:  # torch has no class for it
                if "recompile" not in str(error):
                    raise
                raise NotPrepared from error

        try:
            return prepared, made(part, *arguments)
        except TorchDynamoException as error:
            name = getattr(part, "__qualname__", type(part).__name__)
            reason = next(filter(None, str(error).splitlines()), type(error).__name__)
            raise FoveateError(f"{name} cannot be compiled here ({reason[:200]}); choose --engine eager") from error


def _own_code(function: Any, name: str) -> Callable[..., Any]:
    """The function with a code object of its own."""
    code = function.__code__.replace(co_name=name)
    return types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
