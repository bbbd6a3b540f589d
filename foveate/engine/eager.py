"""The reference backend: PyTorch as written, packed to the longest row; any shape, any device, any pruner."""

from __future__ import annotations

from foveate.engine.base import Backend
from foveate.models.base import pack

EAGER = Backend(
    vision=lambda model: model.embed_prefix,
    pack=pack,
    prefill=lambda model: model.prefill,
    denoise=lambda model: model.decode,
)
