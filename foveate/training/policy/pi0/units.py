"""What is gathered together when π0 or π0.5 is trained in parts (FSDP2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from foveate.models.common.layers import AdaRMSNorm
from foveate.models.pi0.model import Pi0


def units(model: Pi0) -> list[Sequence[nn.Module]]:
    """Each layer of tower, backbone and expert, the embedding, and all layers that read modulations off the time.

    A layer of the backbone and the expert's of the same depth are two units: each runs by its own `forward`, the
    expert's when the backbone is through. As one unit (right where both run in one joint pass, as in openpi) all of the
    backbone would stay gathered until the expert has run. Modulations are read beside the layers, all at once.
    """
    layers = [[layer] for stack in (model.vision, model.llm, model.expert) for layer in stack.layers]
    modulations = [norm.dense for norm in model.expert.modules() if isinstance(norm, AdaRMSNorm)]
    return [*([modulations] if modulations else []), *layers, [model.embed_tokens]]
