#!/usr/bin/env bash
# Checks and benchmark of the engines on one GPU, in at most eight minutes: captured, float8, TensorRT and compiled engines
# against eager, then milliseconds of π0.5 at its published size with random weights, beside the machine's floor and targets.
#
#   benchmarks/gpu/run.sh                      # writes its results beside it
#   OUT=/tmp/gpu benchmarks/gpu/run.sh
#   DRY_RUN=1 benchmarks/gpu/run.sh            # on any machine: smaller sizes, stand-ins; does the script run?
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-$here}
export PYTHONPATH="$here/../..:$here/deps${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$OUT"
failed=0

if [ -n "${DRY_RUN:-}" ]; then
  limit=3600 slow=8 dry=--dry_run
  where=(--random_weights pi05_mid --device cpu --quick) exact=eager engine=eager fp8=fp8_reference steps=1
else
  limit=460 slow=1 dry=
  where=(--random_weights pi05 --device cuda --dtype bfloat16 --max_rounds 30) exact=eager,fast engine=fast fp8=fp8 steps=1,10
fi

step() { # step SECONDS COMMAND...: at most so long, and never beyond the limit
  local most=$(($1 * slow)) left=$((limit - SECONDS))
  shift
  [ "$left" -gt 5 ] || { echo "no time left for: $*"; failed=1; return; }
  echo "== after $SECONDS s: $*"
  timeout $((most < left ? most : left)) "$@" || { echo "status $? of: $*"; failed=1; }
}

step 60 "$here/needs.sh"
step 180 python "$here/check.py" $dry
step 130 python -m foveate bench latency "${where[@]}" --engines "$exact" --pruning none,random_0.25 \
  --denoising_steps "$steps" --output_file "$OUT/exact.json"
step 110 python -m foveate bench latency "${where[@]}" --engine "$engine" --engine.prefill_precision "$fp8" \
  --pruning none,random_0.25 --denoising_steps "$steps" --output_file "$OUT/fp8.json"
step 20 python "$here/targets.py" "$OUT/exact.json" "$OUT/fp8.json"
echo "== $SECONDS s"
exit $failed
