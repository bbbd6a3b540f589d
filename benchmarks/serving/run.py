"""What serving costs and what it stands: a bare engine against the same served, faults, and openpi's own server.

    python benchmarks/serving/run.py                       # about ten minutes on an idle machine; writes results.json
    python benchmarks/serving/run.py --seconds 5 --frames 500
    python benchmarks/serving/run.py --openpi PATH         # a checkout of openpi: its server class, a row more
    python benchmarks/serving/run.py --only faults wire    # these parts again; the others stay in results.json
    python benchmarks/serving/run.py --table               # results.json as the README's tables

Server and clients are processes of their own on one machine, joined by loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from hostile import GOOD, send_hostile
from load import SIDE
from websockets.sync.client import connect

from foveate.util import msgpack_numpy
from foveate.util.files import write_json
from foveate.util.ports import allow_open_files, check_port
from foveate.util.provenance import machine

HERE = Path(__file__).resolve().parent
CLIENTS = (1, 8, 32)
PARTS = ("throughput", "wire", "faults", "restart", "openpi")
STUB_MS = 20.0
"""What the stub policy of the comparison with openpi's server takes for a batch."""

OPENPI = """
import sys, time
import numpy as np
from openpi.serving.websocket_policy_server import WebsocketPolicyServer
class Stub:
    def infer(self, obs):
        time.sleep(float(sys.argv[2]) / 1e3)
        return {"actions": np.zeros((10, 4), np.float32)}
WebsocketPolicyServer(Stub(), host="127.0.0.1", port=int(sys.argv[1])).serve_forever()
"""
STUB = """
import asyncio, sys, time
from foveate.serving.inference import InferenceWorker
from foveate.serving.server import PolicyServer
from foveate.testing.serving import StubPolicy
ms = float(sys.argv[2])
worker = InferenceWorker(StubPolicy(before=lambda observations: time.sleep(ms / 1e3)))
asyncio.run(PolicyServer(worker, port=int(sys.argv[1])).run())
"""


@contextmanager
def process(words: list[str], port: int, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers on a port, until the block ends."""
    started = subprocess.Popen(words, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
    try:
        wait_for(port, started)
        yield started
    finally:
        started.terminate()
        started.wait(30)


def wait_for(port: int, started: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and started.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2)
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"no server on port {port}: {started.args}")


def serve(policy: str, port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "foveate", "serve", "--policy", policy, "--port", str(port), *more]


def load(port: int, clients: int, seconds: float, **more: Any) -> dict[str, float]:
    words = [
        f"--{name}={value}" for name, value in {"port": port, "clients": clients, "seconds": seconds, **more}.items()
    ]
    done = subprocess.run([sys.executable, HERE / "load.py", *words], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def bare(policy: str, batch: int, seconds: float) -> float:
    """Observations per second of the engine, called in a loop with pictures as the clients send them."""
    script = f"""
import time, foveate
import numpy as np
policy = foveate.load_policy({policy!r})
noise = np.random.default_rng(0).integers(0, 256, ({batch}, len(policy.spec.views), {SIDE}, {SIDE}, 3), np.uint8)
state = np.zeros(policy.spec.state_dim, np.float32)
rows = [foveate.Observation(dict(zip(policy.spec.views, views)), state, "push the block") for views in noise]
for _ in range(3): policy.infer_batch(rows)
begun, count = time.perf_counter(), 0
while time.perf_counter() - begun < {seconds}:
    policy.infer_batch(rows); count += {batch}
print(count / (time.perf_counter() - begun))
"""
    return float(subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True).stdout)


def memory_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def throughput(policy: str, seconds: float) -> dict[str, Any]:
    """The bare engine at batch 1 and 8, and served to 1, 8 and 32 clients."""
    found: dict[str, Any] = {"bare_per_s": {batch: bare(policy, batch, min(seconds, 15)) for batch in (1, 8)}}
    port = check_port("127.0.0.1", 0)
    with process(serve(policy, port), port):
        found["served"] = [load(port, clients, seconds) for clients in CLIENTS]
    best = max(found["bare_per_s"].values())
    return {**found, "of_bare": max(row["per_s"] for row in found["served"]) / best}


def wire(seconds: float) -> dict[str, float]:
    """A policy that takes no time: what two pictures of 224 pixels cost on their way."""
    port = check_port("127.0.0.1", 0)
    with process([sys.executable, "-c", STUB, str(port), "0"], port):
        return load(port, 1, min(seconds, 10))


def against_openpi(openpi: Path, seconds: float) -> dict[str, Any]:
    """The same load on openpi's server class and on ours, each with a stub policy of equal time."""
    paths = os.pathsep.join([str(openpi / "src"), str(openpi / "packages/openpi-client/src")])
    found = {}
    for name, script, env in (("openpi", OPENPI, {"PYTHONPATH": paths}), ("foveate", STUB, {})):
        port = check_port("127.0.0.1", 0)
        with process([sys.executable, "-c", script, str(port), str(STUB_MS)], port, **env):
            found[name] = [load(port, clients, min(seconds, 10)) for clients in CLIENTS]
    return found


def faults(policy: str, frames: int, seconds: float) -> dict[str, Any]:
    """Hostile frames and a thousand idle connections beside good clients."""
    port = check_port("127.0.0.1", 0)
    with process(serve(policy, port), port) as server:
        load(port, 4, 3, think_ms=50)
        quiet, before = load(port, 4, min(seconds, 20), think_ms=50), memory_mb(server)
        words = [sys.executable, HERE / "load.py", f"--port={port}", "--clients=4", "--think_ms=50"]
        # The good clients run as long as the hostile ones need: their time is measured first, on some hundreds.
        begun = time.perf_counter()
        counts = send_hostile(port, frames // 10, seed=1)
        expected, soon = (time.perf_counter() - begun) * 9, memory_mb(server)
        good = subprocess.Popen([*words, f"--seconds={max(expected, 5)}"], stdout=subprocess.PIPE)
        counts += send_hostile(port, frames - frames // 10, seed=2)
        beside = json.loads(good.communicate()[0])
        after = memory_mb(server)
        allow_open_files()
        with ExitStack() as stack:
            idle = [stack.enter_context(connect(f"ws://127.0.0.1:{port}", compression=None)) for _ in range(1000)]
            crowded = load(port, 4, min(seconds, 10), think_ms=50)
            for connection in idle:
                connection.close_socket()  # left without a word
        with connect(f"ws://127.0.0.1:{port}", compression=None) as last:
            last.recv()
            last.send(msgpack_numpy.pack(GOOD))
            alive = isinstance(last.recv(30), bytes)
    return {
        "frames": frames,
        "became": dict(counts),
        "good_clients": {"quiet": quiet, "beside hostile frames": beside, "beside 1,000 idle connections": crowded},
        "memory_mb": {"before": before, "after a tenth": soon, "after all": after},
        "alive": alive,
    }


def restart(policy: str) -> dict[str, Any]:
    """`eval sim` through a server that is killed and started again under it."""
    port, kills = check_port("127.0.0.1", 0), 0
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(serve(policy, port), stdout=subprocess.DEVNULL)
        try:
            wait_for(port, server)
            words = [sys.executable, "-m", "foveate", "eval", "sim", "--policy", f"ws://127.0.0.1:{port}", "--quick"]
            run = subprocess.Popen(
                [*words, "--out", f"{folder}/run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while run.poll() is None:
                time.sleep(12)
                if run.poll() is None and kills < 3:
                    os.kill(server.pid, signal.SIGKILL)
                    server.wait()
                    kills += 1
                    time.sleep(2)
                    server = subprocess.Popen(serve(policy, port), stdout=subprocess.DEVNULL)
                    wait_for(port, server)
            total = json.loads((Path(folder) / "run/summary.json").read_text())["total"]
        finally:
            server.kill()
            server.wait()
    return {"kills": kills, **{name: total[name] for name in ("episodes", "successes", "crashes")}}


def table(found: dict[str, Any]) -> str:
    """The results as the README shows them."""
    parts, fault, memory = found["throughput"], found["faults"], found["faults"]["memory_mb"]
    restarted = found["restart"]
    served = [("served", row) for row in parts["served"]]
    served += [
        (f"{name}'s server, a stub of {STUB_MS:g} ms", row)
        for name in ("openpi", "foveate")
        for row in found.get("openpi", {}).get(name, ())
    ]
    return "\n".join(
        [
            "| | clients | answers/s | p50 ms | p99 ms | slowest of mean |",
            "|---|---|---|---|---|---|",
            *(f"| bare engine, batch {batch} | – | {rate:.1f} | | | |" for batch, rate in parts["bare_per_s"].items()),
            *(f"| {name} | {row['clients']} | {_times(row)} | {row['slowest_of_mean']:.2f} |" for name, row in served),
            "",
            f"Served at saturation: {100 * parts['of_bare']:.0f} % of the best bare row. "
            f"Two views of {SIDE} pixels to the server and back: {found['wire']['p50_ms']:.2f} ms p50.",
            "",
            "| good clients | answers/s | p50 ms | p99 ms |",
            "|---|---|---|---|",
            *(f"| {name} | {_times(row)} |" for name, row in fault["good_clients"].items()),
            "",
            f"{fault['frames']:,} hostile frames became {fault['became']}; the server's memory was "
            f"{memory['before']:.0f} MB before, {memory['after a tenth']:.0f} MB after a tenth of them and "
            f"{memory['after all']:.0f} MB after all. "
            f"Killed {restarted['kills']} times and started again under `eval sim`: {restarted['successes']} of "
            f"{restarted['episodes']} episodes succeeded, {restarted['crashes']} crashed.",
        ]
    )


def _times(row: dict[str, float]) -> str:
    return f"{row['per_s']:.1f} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="metaworld_tiny")
    parser.add_argument("--seconds", type=float, default=60, help="Of each throughput row.")
    parser.add_argument("--frames", type=int, default=10_000, help="Hostile frames.")
    parser.add_argument("--openpi", type=Path, help="Folder of a checkout of openpi.")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="Measure these parts alone, the others stay.")
    parser.add_argument("--json", type=Path, default=HERE / "results.json")
    parser.add_argument("--table", action="store_true", help="Print what --json holds, and measure nothing.")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.json.read_text())))
        return
    parts: dict[str, Callable[[], Any]] = {
        "throughput": lambda: throughput(options.policy, options.seconds),
        "wire": lambda: wire(options.seconds),
        "faults": lambda: faults(options.policy, options.frames, options.seconds),
        "restart": lambda: restart(options.policy),
        "openpi": lambda: against_openpi(options.openpi, options.seconds),
    }
    chosen = options.only or [name for name in parts if name != "openpi" or options.openpi]
    found = json.loads(options.json.read_text()) if options.only and options.json.exists() else {}
    found["machine"] = machine()
    for name in chosen:
        found[name] = {"date": str(date.today()), "load": os.getloadavg()[0], **parts[name]()}
        write_json(options.json, json.loads(json.dumps(found)))  # each part at once: a later one may fail
        print(name, json.dumps(found[name]), flush=True)
    if not set(parts) - set(found) - {"openpi"}:
        print(table(json.loads(options.json.read_text())))


if __name__ == "__main__":
    main()
