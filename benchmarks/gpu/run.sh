#!/usr/bin/env bash
# Checks and benchmark of the engines on one GPU, on a machine that has torch and foveate's dependencies: the captured and
# the compiled engine against eager in float32, then milliseconds of π0.5 at its published size with random weights.
#
#   benchmarks/gpu/run.sh                      # writes results.json beside it
#   OUT=/tmp/gpu benchmarks/gpu/run.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-$here}
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT"
timeout 120 python "$here/check.py"
timeout 330 python -m foveate bench latency --random_weights pi05 --device cuda --dtype bfloat16 --engines eager,fast \
    --pruning none,random_0.25 --denoising_steps 1,10 --max_rounds 30 --output_file "$OUT/results.json"
