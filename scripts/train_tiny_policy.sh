#!/usr/bin/env bash
# Reproduces the shipped tiny policies from nothing: demonstrations -> base policy -> fine-tuned variants -> evaluation.
#
#   scripts/train_tiny_policy.sh [OUT]          default OUT: runs/tiny
#
# A few hours on two CPU cores, most of it simulation; with a GPU the training takes minutes. Every stage goes on
# where it was interrupted: run the same command again. Needs `pip install .[sim,train]`.
# PYTHON, EPISODES (evaluation episodes per task), STEPS and TUNE_STEPS may be set in the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${1:-runs/tiny}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
EPISODES=${EPISODES:-50}
STEPS=${STEPS:-4500}
TUNE_STEPS=${TUNE_STEPS:-1000}
PRESETS=foveate/training/presets
export MUJOCO_GL=${MUJOCO_GL:-egl} OMP_WAIT_POLICY=passive

# Two processes of one thread train faster on two cores than one process of two threads; a GPU wants one process.
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  TRAIN=("$PYTHON" -m foveate train policy)
else
  TRAIN=("$PYTHON" -m torch.distributed.run --standalone --nproc_per_node 2 -m foveate train policy --loop.threads 1)
  export OMP_NUM_THREADS=1
fi

echo "== demonstrations"
# One folder per task: loading a task's scene takes seconds. The tasks that share a scene are harder and get more;
# further scenes, which the base policy never saw, are for the fine-tuning.
record() { # SEED FOLDER TASK:EPISODES...
  local seed=$1 folder=$2 spec; shift 2
  for spec in "$@"; do
    "$PYTHON" -m foveate data metaworld-demos --tasks "${spec%:*}" --episodes "${spec#*:}" --seed "$seed" \
      --out "$OUT/$folder/${spec%:*}"
  done
}
folders() { printf '%s\n' "$@" | paste -sd, | sed 's/.*/[&]/'; }
record 10000 demos reach:90 push:120 pick-place:140 button-press-topdown:40 drawer-open:40 drawer-close:40 window-open:40
record 20000 more_demos reach:120 push:110 pick-place:110
record 20000 even_demos button-press-topdown:80 drawer-open:40 drawer-close:20 window-open:80
BASE_DATA=$(folders "$OUT"/demos/*)
TUNE_DATA=$(folders "$OUT"/demos/* "$OUT"/more_demos/*)
EVEN_DATA=$(folders "$OUT"/demos/* "$OUT"/more_demos/* "$OUT"/even_demos/*)

# train NAME ARGUMENTS...: skipped when its policy is there.
train() {
  local name=$1; shift
  echo "== training: $name"
  [ -f "$OUT/train/$name/policy/model.safetensors" ] || "${TRAIN[@]}" --out "$OUT/train/$name" "$@"
}

train base --config $PRESETS/metaworld_tiny.yaml --loop.steps "$STEPS" --data.path "$BASE_DATA"

# Every variant is fine-tuned alike, the unpruned one too: once, and again with the tasks in better balance.
mkdir -p "$OUT/policies"
tune() { # NAME PRUNER-OPTIONS...
  local name=$1; shift
  local common=(--config $PRESETS/metaworld_tiny_finetune.yaml --loop.steps "$TUNE_STEPS" "$@")
  train "${name}_1" "${common[@]}" --init_from "$OUT/train/base/policy" --data.path "$TUNE_DATA"
  train "$name" "${common[@]}" --init_from "$OUT/train/${name}_1/policy" --data.path "$EVEN_DATA" --pruner_noise.start 0.3
  ln -sfn "../train/$name/policy" "$OUT/policies/$name"
}
tune full
tune lightvla --pruner lightvla --pruner.train_form deduplicated

# The controls get the share of patches that LightVLA settled on, and a quarter.
LEARNED=$("$PYTHON" - "$OUT/train/lightvla" <<'PY'
import json, sys
from pathlib import Path
run = Path(sys.argv[1])
kept = [json.loads(line)["kept"] for line in (run / "metrics.jsonl").read_text().splitlines()][-3:]  # when the noise has gone
model = json.loads((run / "policy" / "config.json").read_text())["model"]
patches = len(model["views"]) * (model["vision"]["image_size"] // model["vision"]["patch_size"]) ** 2
print(round(sum(kept) / len(kept) / patches, 3))
PY
)
for ratio in "$LEARNED" 0.25; do
  tune "random_$ratio" --pruner random --pruner.keep_ratio "$ratio"
  tune "stride_$ratio" --pruner stride --pruner.keep_ratio "$ratio"
done

echo "== evaluation"
"$PYTHON" benchmarks/tiny_policy/run.py --policies "$OUT/policies" --out "$OUT/benchmark" --episodes "$EPISODES"
