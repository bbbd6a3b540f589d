#!/usr/bin/env bash
# Reproduces the shipped tiny policies from nothing:
#
#   demonstrations -> base -> two learners -> demonstrations with the learners at the wheel -> variants -> evaluation
#
#   scripts/train_tiny_policy.sh [OUT]          default OUT: runs/tiny
#
# About five hours on two CPU cores, most of them training; with a GPU the training takes minutes. Every stage goes on
# where it was interrupted: run the same command again. Needs `pip install .[sim,train]`.
# PYTHON, EPISODES (evaluation episodes per task), STEPS and TUNE_STEPS may be set in the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${1:-runs/tiny}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
EPISODES=${EPISODES:-50}
STEPS=${STEPS:-4500}
LEARN_STEPS=${LEARN_STEPS:-1000}
TUNE_STEPS=${TUNE_STEPS:-1200}
PRESETS=foveate/training/presets
export OMP_WAIT_POLICY=passive

# Two processes of one thread train faster on two cores than one process of two threads; a GPU wants one process.
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  TRAIN=("$PYTHON" -m foveate train policy)
else
  TRAIN=("$PYTHON" -m torch.distributed.run --standalone --nproc_per_node 2 -m foveate train policy --loop.threads 1)
  export OMP_NUM_THREADS=1
fi

# record SEED FOLDER "OPTIONS" TASK:EPISODES...: one folder per task, since loading a task's scene takes seconds.
record() {
  local seed=$1 folder=$2 options=$3 spec; shift 3
  for spec in "$@"; do
    # shellcheck disable=SC2086  # several options
    "$PYTHON" -m foveate data metaworld-demos --tasks "${spec%:*}" --episodes "${spec#*:}" --seed "$seed" $options \
      --out "$OUT/$folder/${spec%:*}"
  done
}
folders() { printf '%s\n' "$@" | paste -sd, | sed 's/.*/[&]/'; }

# train NAME ARGUMENTS...: skipped when its policy is there.
train() {
  local name=$1; shift
  echo "== training: $name"
  [ -f "$OUT/train/$name/policy/model.safetensors" ] || "${TRAIN[@]}" --out "$OUT/train/$name" "$@"
}
tune() { train "$@" --config $PRESETS/metaworld_tiny_finetune.yaml; }

echo "== demonstrations"
# The tasks that share a scene are harder and get more.
record 10000 demos "" reach:90 push:120 pick-place:140 button-press-topdown:40 drawer-open:40 drawer-close:40 window-open:40
record 20000 more_demos "" reach:120 push:110 pick-place:110
record 20000 even_demos "" button-press-topdown:80 drawer-open:40 drawer-close:20 window-open:80
BASE_DATA=$(folders "$OUT"/demos/*)
MORE_DATA=$(folders "$OUT"/demos/* "$OUT"/more_demos/*)
EVEN_DATA=$(folders "$OUT"/demos/* "$OUT"/more_demos/* "$OUT"/even_demos/*)

train base --config $PRESETS/metaworld_tiny.yaml --loop.steps "$STEPS" --data.path "$BASE_DATA"

echo "== learners: an unpruned and a pruned policy, which then show where they get stuck"
learner() { # NAME PRUNER-OPTIONS...
  local name=$1; shift
  tune "learner_${name}_1" --loop.steps "$LEARN_STEPS" --init_from "$OUT/train/base/policy" --data.path "$MORE_DATA" "$@"
  tune "learner_$name" --loop.steps "$LEARN_STEPS" --init_from "$OUT/train/learner_${name}_1/policy" \
    --data.path "$EVEN_DATA" --pruner_noise.start 0.3 "$@"
}
learner full
learner lightvla --pruner lightvla --pruner.train_form deduplicated
DAGGER="--noise.scale 0.1 --noise.kick_rate 0.005 --learner_share 0.85 --max_steps 200 --learner $OUT/train/learner"
record 30000 dagger_full "${DAGGER}_full/policy" \
  window-open:60 button-press-topdown:50 reach:50 push:20 pick-place:30 drawer-open:15 drawer-close:10
record 31000 dagger_lightvla "${DAGGER}_lightvla/policy" \
  window-open:60 button-press-topdown:60 reach:20 push:40 pick-place:40 drawer-open:15
ALL_DATA=$(folders "$OUT"/{demos,more_demos,even_demos,dagger_full,dagger_lightvla}/*)

# Every variant starts from the unpruned learner and is fine-tuned alike, the unpruned one too.
mkdir -p "$OUT/policies"
variant() { # NAME PRUNER-OPTIONS...
  local name=$1; shift
  tune "$name" --loop.steps "$TUNE_STEPS" --init_from "$OUT/train/learner_full/policy" --data.path "$ALL_DATA" \
    --data.frame_stride 2 "$@"
  ln -sfn "../train/$name/policy" "$OUT/policies/$name"
}
variant full
variant lightvla --pruner lightvla --pruner.train_form deduplicated
variant lightvla_paper --pruner lightvla --pruner.train_form paper

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
  variant "random_$ratio" --pruner random --pruner.keep_ratio "$ratio"
  variant "stride_$ratio" --pruner stride --pruner.keep_ratio "$ratio"
done

echo "== evaluation"
"$PYTHON" benchmarks/tiny_policy/run.py --policies "$OUT/policies" --out "$OUT/benchmark" --episodes "$EPISODES"
