#!/usr/bin/env bash
# Reproduces the shipped tiny Qwen3-VL from nothing: five short runs per seed -> the best on validation -> its model card.
#
#   scripts/train_tiny_vlm.sh [OUT]          default OUT: runs/tiny_vlm
#
# About half an hour per seed on two CPU cores. Every stage goes on where it was interrupted: run the same command
# again. Needs `pip install .[vlm]`. PYTHON and SEEDS may be set in the environment; INSTALL=1 puts the result in place.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${1:-runs/tiny_vlm}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
SEEDS=${SEEDS:-0 1 2}
PRESETS=foveate/training/presets
export OMP_WAIT_POLICY=passive PYTHONPATH=.

# Two processes of one thread train faster on two cores than one process of two threads; a GPU wants one process.
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  TRAIN=("$PYTHON" -m foveate train vlm)
else
  TRAIN=("$PYTHON" -m torch.distributed.run --standalone --nproc_per_node 2 -m foveate train vlm --loop.threads 1)
  export OMP_NUM_THREADS=1
fi

# train NAME ARGUMENTS...: skipped when its model is there.
train() {
  local name=$1; shift
  [ -f "$OUT/$name/model/model.safetensors" ] || "${TRAIN[@]}" --out "$OUT/$name" "$@"
}
for seed in $SEEDS; do
  echo "== training: seed $seed"
  train "seed${seed}_base" --config $PRESETS/tiny_qwen3vl.yaml --seed "$seed"
  full=(--config $PRESETS/tiny_qwen3vl_full.yaml --seed "$seed")
  train "seed${seed}_full" "${full[@]}" --init_from "$OUT/seed${seed}_base/model"
  train "seed${seed}_corners" --config $PRESETS/tiny_qwen3vl_corners.yaml --seed "$seed" \
    --init_from "$OUT/seed${seed}_full/model"
  train "seed${seed}_easy" --config $PRESETS/tiny_qwen3vl_easy.yaml --seed "$seed" \
    --init_from "$OUT/seed${seed}_corners/model"
  train "seed$seed" --config $PRESETS/tiny_qwen3vl_reading.yaml --seed "$seed" --init_from "$OUT/seed${seed}_easy/model"
done

echo "== validation, and the card of the best"
# shellcheck disable=SC2046,SC2086  # one argument per seed
BEST=$("$PYTHON" scripts/tiny_vlm_card.py $(printf "$OUT/seed%s/model " $SEEDS))
echo "best: $BEST"

if [ "${INSTALL:-}" = 1 ]; then
  mkdir -p foveate/vlms/tiny_qwen3vl
  cp "$BEST"/* foveate/vlms/tiny_qwen3vl/
  echo "== the policy of NO, COARSE and FULL, on the new model's passes"
  "$PYTHON" -m foveate train value --config configs/base.yaml --config configs/tiny.yaml \
    --output_dir "$OUT/policy"
  rm -rf foveate/vlms/tiny_qwen3vl/policy && mkdir foveate/vlms/tiny_qwen3vl/policy
  cp "$(ls "$OUT"/policy/checkpoint-*.pt | tail -1)" foveate/vlms/tiny_qwen3vl/policy/
fi
