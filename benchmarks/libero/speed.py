"""What rendering on demand and the soft reset save in LIBERO: the package as its runners use it against foveate's
adapter, interleaved in one process.

make libero
PYTHONPATH=. nice .venv-libero/bin/python benchmarks/libero/speed.py libero_spatial/0 libero_object/0
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import time
from collections import defaultdict

import numpy as np

from foveate.envs.libero import LiberoEnv

ROUNDS, CHUNK = 7, 5
"""Rounds per side; actions that are executed between two looks, as openpi does."""


def timed(times: list[float], call, *arguments):
    start = time.perf_counter()
    answer = call(*arguments)
    times.append(1e3 * (time.perf_counter() - start))
    return answer


def measure(task: str) -> dict[str, float]:
    """Medians in ms: `stock` is the package, `ours` the adapter; a chunk is five steps and a picture at its end."""
    env, times = LiberoEnv((task,)), defaultdict(list)
    timed(times["constructor"], env._load, task)
    suite, _, index = task.partition("/")
    with contextlib.redirect_stdout(io.StringIO()):
        description = env._libero.benchmark.get_benchmark_dict()[suite]().get_task(int(index))
    bddl = env._libero.bddl / description.problem_folder / description.bddl_file
    stock = env._make(str(bddl), 256)
    stock.seed(7)
    rng = np.random.default_rng(0)

    def stock_reset(state: int) -> None:
        stock.reset()
        stock.set_init_state(env._initial_states[state])
        for _ in range(10):
            stock.step([0.0] * 6 + [-1.0])

    def stock_chunk(actions: np.ndarray) -> None:
        for action in actions:
            stock.step(action.tolist())

    def our_chunk(actions: np.ndarray) -> None:
        for i, action in enumerate(actions):
            env.step(action, render=i == len(actions) - 1)

    for state in range(ROUNDS):
        timed(times["stock_reset"], stock_reset, state)
        timed(times["our_reset"], env.reset, task, state)
        for _ in range(2):
            actions = rng.uniform(-0.3, 0.3, (CHUNK, 7)).astype(np.float32)
            timed(times["stock_chunk"], stock_chunk, actions)
            timed(times["our_chunk"], our_chunk, actions)
            timed(times["blind_step"], env.step, actions[0], False)
            timed(times["seen_step"], env.step, actions[1], True)
    stock.close()
    env.close()
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


if __name__ == "__main__":
    for name in sys.argv[1:] or ["libero_spatial/0", "libero_object/0"]:
        result = measure(name)
        print(json.dumps({"task": name, "load": [round(x, 1) for x in os.getloadavg()], **result}), flush=True)
