"""Clients in closed loop against a policy server, in a process of their own; prints one JSON document.

    python benchmarks/serving/load.py --port 8000 --clients 8 --seconds 60

Speaks openpi's protocol alone, so that any server of it can be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field

import numpy as np
from websockets.asyncio.client import connect

from foveate.util import msgpack_numpy

SIDE = 224


@dataclass
class Client:
    """What one client saw."""

    ms: list[float] = field(default_factory=list)
    """Round trip of each answer."""
    infer_ms: list[float] = field(default_factory=list)
    """What the server says of its inference."""
    errors: int = 0


def observation(views: list[str], state: int, seed: int) -> bytes:
    """Two pictures of noise, a state and a prompt, as a robot sends them."""
    rng = np.random.default_rng(seed)
    message = {view: rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for view in views}
    return msgpack_numpy.pack({**message, "observation/state": np.zeros(state, np.float32), "prompt": "push the block"})


async def ask(uri: str, frame: bytes, until: float, seen: Client, think_s: float) -> None:
    async with connect(uri, compression=None, max_size=None) as connection:
        await connection.recv()
        while time.monotonic() < until:
            begun = time.perf_counter()
            await connection.send(frame)
            answer = await connection.recv()
            seen.ms.append((time.perf_counter() - begun) * 1e3)
            if isinstance(answer, str):
                seen.errors += 1
            else:
                seen.infer_ms.append(msgpack_numpy.unpack(answer)["server_timing"]["infer_ms"])
            if think_s:
                await asyncio.sleep(think_s)


async def load(options: argparse.Namespace) -> list[Client]:
    until = time.monotonic() + options.seconds
    seen = [Client() for _ in range(options.clients)]
    uri = f"ws://127.0.0.1:{options.port}"
    frames = [observation(options.views.split(","), options.state, i) for i in range(options.clients)]
    await asyncio.gather(*(ask(uri, f, until, s, options.think_ms / 1e3) for f, s in zip(frames, seen, strict=True)))
    return seen


def summary(seen: list[Client], seconds: float) -> dict[str, float]:
    """Throughput, round trips, what the way costs beside the inference, and how the slowest client fared."""
    ms = np.array([value for client in seen for value in client.ms])
    counts = np.array([len(client.ms) for client in seen])
    way = (
        ms[: len(ms)]
        if not seen[0].infer_ms
        else np.concatenate([np.array(c.ms[: len(c.infer_ms)]) - np.array(c.infer_ms) for c in seen])
    )
    return {
        "clients": len(seen),
        "per_s": len(ms) / seconds,
        "p50_ms": float(np.percentile(ms, 50)),
        "p99_ms": float(np.percentile(ms, 99)),
        "way_p50_ms": float(np.percentile(way, 50)),
        "slowest_of_mean": float(counts.min() / counts.mean()),
        "errors": sum(client.errors for client in seen),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--think_ms", type=float, default=0, help="Pause of each client between answer and question.")
    parser.add_argument("--views", default="observation/corner,observation/gripperPOV")
    parser.add_argument("--state", type=int, default=4)
    options = parser.parse_args()
    print(json.dumps(summary(asyncio.run(load(options)), options.seconds)))


if __name__ == "__main__":
    main()
