"""What tracing costs the control loop: the same inferences with and without evidence, interleaved in one run.

Timed from the observation to the moment the loop may go on; files are written by the store's own thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.policy import Policy, TraceOptions
from foveate.tracing.store import TraceStore
from foveate.types import AttentionRequest, Observation


@dataclass(frozen=True)
class Mode:
    """One way to gather evidence."""

    name: str
    options: TraceOptions | None
    limit: float
    """The median may take this many times the untraced one."""
    request: AttentionRequest | None = None
    """Attention maps asked for beside the actions (`Policy.attend`)."""


def modes(attn_layers: tuple[int, ...], depth: int) -> list[Mode]:
    """Args:
    attn_layers: traced.
    depth: of the backbone; maps are asked of five middle layers, all heads.
    """
    routing = TraceOptions(routing=True)
    five = tuple(range(depth))[1:6]
    return [
        Mode("off", None, 1.0),
        Mode("routing", routing, 1.05),
        Mode("routing+attention", TraceOptions(routing=True, attn_layers=attn_layers), 1.15),
        Mode("maps of prefix", None, 1.15, AttentionRequest(five)),
        Mode("maps of prefix+suffix", None, 1.15, AttentionRequest(five, ("prefix", "suffix"))),
    ]


def observations(policy: Policy, count: int, size: int = 224) -> list[Observation]:
    """Random pictures: the worst case for writing them."""
    rng = np.random.default_rng(0)
    return [
        Observation(
            {view: rng.integers(0, 256, (size, size, 3), np.uint8) for view in policy.spec.views},
            np.zeros(policy.spec.state_dim, np.float32),
            "push the puck along the table to the green marker",
        )
        for _ in range(count)
    ]


def measure(
    policy: Policy, rounds: int, attn_layers: tuple[int, ...], on_round: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Per mode: median and quartiles in ms, and the ratio to `off`, paired round by round.

    The order of the modes is drawn anew in every round, so that none always follows another's writing.
    """
    frames = observations(policy, 8)
    shuffle = np.random.default_rng(0)
    chosen = modes(attn_layers, policy.spec.depth)
    times: dict[str, list[float]] = {mode.name: [] for mode in chosen}
    with tempfile.TemporaryDirectory() as folder:
        store = TraceStore(
            folder, views=policy.spec.cameras, model_image_size=policy.spec.image_size, model_crop=policy.spec.crop
        )
        for i in range(-3, rounds):  # three rounds warm up
            for k in shuffle.permutation(len(chosen)).tolist():
                mode = chosen[k]
                frame = frames[i % len(frames)]
                meta = {"task": mode.name, "task_id": k, "episode": 0, "step": i + 3, "query": i + 3}
                meta |= {"instruction": frame.prompt, "checkpoint": policy.spec.name, "variant": mode.name, "seed": 0}
                start = time.perf_counter()
                chunk = (
                    policy.attend([frame], mode.request)[0][0]
                    if mode.request
                    else policy.infer(frame, evidence=mode.options, session="bench")
                )
                if chunk.trace is not None:
                    store.submit(chunk.trace, frame, meta, chunk.actions)
                if i >= 0:
                    times[mode.name].append((time.perf_counter() - start) * 1e3)
            on_round()
        store.close()
    base = np.array(times["off"])
    rows = []
    for mode in chosen:
        ms = np.array(times[mode.name])
        low, middle, high = np.percentile(ms, (25, 50, 75))
        ratio = float(middle / np.median(base))
        spread = np.percentile(ms / base, (25, 75))
        rows.append(
            {
                "mode": mode.name,
                "ms_p25": float(low),
                "ms_p50": float(middle),
                "ms_p75": float(high),
                "ratio": ratio,
                "ratio_p25": float(spread[0]),
                "ratio_p75": float(spread[1]),
                "limit": mode.limit,
            }
        )
    return rows
