#!/usr/bin/env bash
# Fine-tunes the shipped Meta-World policy for what it was not trained for, each variant alike and on the same demonstrations:
#
#   rtc        real-time chunking: up to MAX_DELAY actions of a chunk are given
#   grids      GridS at KEEP tokens a view
#   lightvla   LightVLA, which finds its own number of patches
#   stride     every n-th patch, KEEP of each view
#
#   scripts/tune_tiny_policy.sh [OUT] [VARIANT...]      default: runs/tuned, all of them
#
# Every stage goes on where it was interrupted. Needs `pip install .[sim,train]`. PYTHON, STEPS, MAX_DELAY and KEEP may be set
# in the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${1:-runs/tuned}
VARIANTS=("${@:2}")
[ ${#VARIANTS[@]} -gt 0 ] || VARIANTS=(rtc grids lightvla stride)
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
STEPS=${STEPS:-600}
MAX_DELAY=${MAX_DELAY:-8}                # steps of the robot: 100 ms at 80 Hz
KEEP=${KEEP:-8}                          # of 64 patches, as many as the shipped LightVLA keeps
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} LP_NUM_THREADS=1

for spec in reach:20 push:20 pick-place:20 button-press-topdown:14 window-open:16 drawer-open:8 drawer-close:6; do
  "$PYTHON" -m foveate data metaworld-demos --tasks "${spec%:*}" --episodes "${spec#*:}" --seed 60000 --workers 1 \
    --out "$OUT/demos/${spec%:*}"
done
DATA=$(printf '%s\n' "$OUT"/demos/* | paste -sd, | sed 's/.*/[&]/')

tune() { # NAME OPTIONS...
  echo "== training: $1"
  "$PYTHON" -m foveate train policy metaworld_tiny_finetune --exp_name "$1" --checkpoint_base_dir "$OUT" --data.path "$DATA" \
    --init_from metaworld_tiny --num_train_steps "$STEPS" --save_interval 200 --loop.threads 1 "${@:2}"
}
for variant in "${VARIANTS[@]}"; do
  case $variant in
    rtc) tune rtc --rtc.max_delay "$MAX_DELAY" ;;
    grids) tune grids --pruner grids --pruner.keep_tokens "$KEEP" ;;
    lightvla) tune lightvla --pruner lightvla --pruner.train_form deduplicated ;;
    stride) tune stride --pruner stride --pruner.keep_tokens "$KEEP" ;;
    *) echo "no variant $variant: rtc, grids, lightvla, stride" >&2; exit 2 ;;
  esac
done
