"""How long the compiled engine takes to be ready: with an empty cache, and in a new process with what the first kept.

    python benchmarks/pi0_cpu/compile_time.py --out benchmarks/pi0_cpu/compile_time.json

The model of run.py, two cameras: vision, two prefix lengths, one denoising step. Processor time is split into this
process (Python) and its children (g++). The actions of both must be equal bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import MID, make_inputs, ready_engine

from foveate.models.pi0.model import Pi0
from foveate.util.files import write_json
from foveate.util.provenance import provenance


def once(threads: int) -> dict[str, Any]:
    """Compile here."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Pi0(MID).eval()
    noise, inputs = model.draw_noise(1, "cpu"), make_inputs(2, "processor")
    load = os.getloadavg()[0]
    engine, facts = ready_engine("compiled", model, noise, [2])
    used = {"python": resource.RUSAGE_SELF, "children": resource.RUSAGE_CHILDREN}
    spent = {name: resource.getrusage(who) for name, who in used.items()}
    cpu = {f"{name}_cpu_s": round(use.ru_utime + use.ru_stime, 1) for name, use in spent.items()}
    actions = engine.run(inputs, noise).actions.flatten().tolist()
    return {"wall_s": facts["wall_s"], **cpu, "callables": facts["compiled"], "load": load, "actions": actions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch (default: all cores)")
    parser.add_argument("--out", type=Path, help="write the JSON document there too")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(once(args.threads)))
        return
    runs = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            words = [sys.executable, __file__, "--once", "--threads", str(args.threads)]
            done = subprocess.run(
                words, stdout=subprocess.PIPE, check=True, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
            )
            runs[name] = json.loads(done.stdout)
    cold, warm = (np.array(run.pop("actions")) for run in runs.values())
    document = {**runs, "largest_difference": float(np.abs(cold - warm).max()), "threads": args.threads}
    document |= provenance()
    print(json.dumps(document, indent=1))
    if args.out:
        write_json(args.out, document)


if __name__ == "__main__":
    main()
