"""GridS: the network's tokens and coordinates, samples at the borders of a view, and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.golden.pruning.cases import Case
from foveate.golden.report import Report, Tolerance
from foveate.pruning import GridS
from foveate.pruning.grids import Sampler, Sampling, sample

NAMES = {"scout": "scout_mlp", "coord": "coord_encoder"}
SAMPLING: dict[str, Sampling] = {"openpi-torch": "torch_port", "lerobot": "lerobot", "openpi-jax": "openpi"}
"""Variant -> whose sampling it is."""
BORDERS: dict[str, Sampling] = {
    "torch": "torch_port", "jax": "openpi", "jax_new": "torch_port", "lerobot": "lerobot"
}  # fmt: skip
"""Implementation -> the same, of samples on the border."""
TOKENS = Tolerance(1e-4, 1e-4)
"""Of samples between patches up to 4 apart, at coordinates that are right to 1e-5."""


def grids(case: Case, report: Report) -> None:
    if case.variant == "sampler":
        _borders(case, report)
    elif case.variant == "openpi-jax":
        _jax(case, report)
    elif case.variant != "weights":  # which other cases name
        _torch(case, report)


def _borders(case: Case, report: Report) -> None:
    for name, sampling in BORDERS.items():
        if f"{name}.samples" in case.tensors:
            ours = sample(case.tensors["features"], case.tensors["coords"], sampling)
            case.numbers(report, f"{name}.samples", ours)


def _torch(case: Case, report: Report) -> None:
    given, params = case.tensors, case.params
    sampling = SAMPLING[case.variant]
    network = _network(case, GridS(keep_tokens=params["K"], sampling=sampling, embed_coords=params["embed_coords"]))
    features = given["features"].clone().requires_grad_()
    tokens, xy = network(features)
    case.numbers(report, "coords", xy.detach())
    case.numbers(report, "tokens", tokens.detach(), TOKENS)
    with torch.no_grad():
        if "global_feat" in given:
            case.numbers(report, "global_feat", features.mean((1, 2)))
        embedded = 0.0 if network.coord_encoder is None else network.coord_encoder(xy)
        case.numbers(report, "raw", tokens - embedded, TOKENS)
        if isinstance(embedded, Tensor):
            case.numbers(report, "coord_emb", embedded)
    if "proj_w" not in given:
        return
    (tokens * given["proj_w"]).sum().backward()
    found = {name: parameter.grad for name, parameter in network.named_parameters()} | {"features": features.grad}
    for name in given:
        part, _, rest = name.removeprefix("grad.").partition(".")
        if name.startswith("grad."):
            ours, scale = found[f"{NAMES[part]}.{rest}" if rest else part], given[name].abs().max()
            assert ours is not None
            case.numbers(report, name, ours / scale, TOKENS, against=given[name] / scale)


def _jax(case: Case, report: Report) -> None:
    """Its runs: `plain`, `ln` with the layer norm, `ln_margin0.1` with a margin too, `noise` on the pooled feature."""
    given = case.tensors
    for name in [key.removesuffix(".tokens") for key in given if key.endswith(".tokens")]:
        kind, _, margin = name.partition("_margin")
        config = GridS(keep_tokens=case.params["K"], layer_norm=kind == "ln", margin=float(margin or 0))
        norm = {"norm.weight": given["ln.scale"], "norm.bias": given["ln.bias"]} if kind == "ln" else None
        # What is added to the pooled feature moves the coordinates, and a sample of moved patches by as much.
        noise = given["noise.perturb"][:, None] if kind == "noise" else given["features"].new_zeros(1, 1, 1)
        with torch.no_grad():
            ours, xy = _network(case, config, norm)(given["features"] + noise[:, None])
        case.numbers(report, f"{name}.coords", xy)
        case.numbers(report, f"{name}.tokens", ours - noise, TOKENS)


def _network(case: Case, config: GridS, norm: dict[str, Tensor] | None = None) -> Sampler:
    """The network with the weights that the case names."""
    state = dict(norm or {})
    for name, value in case.tensors.items():
        part, _, rest = name.removeprefix("weights.").partition(".")
        if name.startswith("weights.") and (config.embed_coords or part == "scout"):
            state[f"{NAMES[part]}.{rest}"] = value
    network = Sampler(config, case.params["D"])
    network.load_state_dict(state)
    return network.to(case.tensors["features"].device)
