#!/usr/bin/env bash
# A small π0.5 in LIBERO from nothing but the scripted expert, and what pruning costs it:
#
#   demonstrations -> base -> pruned variants, fine-tuned from it -> evaluation on held-out states
#
#   scripts/train_libero_tiny.sh [OUT]          default OUT: runs/libero_tiny
#
# About two and a half hours on two idle CPU cores. Every stage goes on where it was interrupted: run the same command again.
# Needs `pip install .[train]` and `make libero`. PYTHON, TASKS (numbers within libero_object), EPISODES (evaluation
# episodes per task), CONTROLS (those of the two controls), STEPS and TUNE_STEPS (those of the two rounds of fine-tuning) may
# be set in the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${1:-runs/libero_tiny}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
TASKS=${TASKS:-2 3 9}
EPISODES=${EPISODES:-17}
CONTROLS=${CONTROLS:-10}
STEPS=${STEPS:-1600}
TUNE_STEPS=${TUNE_STEPS:-600 800}
PRESETS=foveate/training/presets
# Two simulators, or two processes of one thread, are faster on two cores than one of two threads.
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 LP_NUM_THREADS=1

# record FOLDER EPISODES OPTIONS...: one folder per task.
record() {
  local folder=$1 episodes=$2 task; shift 2
  for task in $TASKS; do
    "$PYTHON" -m foveate data libero-demos --tasks "libero_object/$task:$episodes" --out "$OUT/$folder/object_$task" "$@"
  done
}
folders() { printf '%s\n' "$@" | paste -sd, | sed 's/.*/[&]/'; }

# train NAME ARGUMENTS...: skipped when its policy is there.
train() {
  local name=$1; shift
  echo "== training: $name"
  [ -f "$OUT/train/$name/policy/model.safetensors" ] || "$PYTHON" -m torch.distributed.run --standalone \
    --nproc_per_node 2 -m foveate train policy --loop.threads 1 --out "$OUT/train/$name" "$@"
}

echo "== demonstrations"
record demos 40 --noise.scale 0.25 --noise.kick_rate 0.01 --noise.kick_steps 3,6
DATA=$(folders "$OUT"/demos/*)
train base --config $PRESETS/libero_tiny.yaml --loop.steps "$STEPS" --data.path "$DATA"
# Two rounds: LightVLA explores in the first, and settles in the second under little noise. The controls get both as well.
variant() { # NAME PRUNER-OPTIONS...
  local name=$1 rounds; shift
  read -ra rounds <<<"$TUNE_STEPS"
  local common=(--config $PRESETS/metaworld_tiny_finetune.yaml --optim.warmup_steps 20 --data.path "$DATA" "$@")
  train "$name.1" "${common[@]}" --loop.steps "${rounds[0]}" --init_from "$OUT/train/base/policy"
  train "$name" "${common[@]}" --loop.steps "${rounds[1]}" --init_from "$OUT/train/$name.1/policy" --pruner_noise.start 0.3
}
variant lightvla --pruner lightvla --pruner.train_form deduplicated
# Random choice and stride get the share of patches that LightVLA settled on.
LEARNED=$("$PYTHON" - "$OUT/train/lightvla" <<'PY'
import json, sys
from pathlib import Path
run = Path(sys.argv[1])
kept = [json.loads(line)["kept"] for line in (run / "metrics.jsonl").read_text().splitlines()][-3:]
model = json.loads((run / "policy" / "config.json").read_text())["model"]
patches = len(model["views"]) * (model["vision"]["image_size"] // model["vision"]["patch_size"]) ** 2
print(round(sum(kept) / len(kept) / patches, 3))
PY
)
variant random --pruner random --pruner.keep_ratio "$LEARNED"
variant stride --pruner stride --pruner.keep_ratio "$LEARNED"

# score NAME POLICY EPISODES OPTIONS...: initial states 0 and up, from which no demonstration began.
score() {
  local name=$1 policy=$2 episodes=$3 suite; shift 3
  suite=$(printf 'libero_object/%s,' $TASKS)
  echo "== evaluation: $name"
  "$PYTHON" -m foveate eval sim --policy "$OUT/train/$policy/policy" --task_suite_name "${suite%,}" --variant "$name" \
    --num_trials_per_task "$episodes" --replan_steps 10 --num_workers 2 --out "$OUT/evaluation/$name" "$@"
}
score full base "$EPISODES"
for name in lightvla random stride; do score "$name" "$name" "$EPISODES"; done
score blind base "$CONTROLS" --vision blind
score shuffled_instruction base "$CONTROLS" --instruction shuffled
