#!/usr/bin/env bash
# Every pruning method in closed loop on the shipped Meta-World policy, untuned and after the same short fine-tune.
#
#   benchmarks/pruning_sweep/run.sh                      # goes on where it was interrupted; more than one may run at a time
#   TRIALS=3 BUDGETS=0.25 OUT=/tmp/sweep benchmarks/pruning_sweep/run.sh
#
# Demonstrations for the fine-tune come from Meta-World's scripted experts, in scenes that no row plays. Milliseconds
# (`--engines eager,compiled`) mean something on an idle machine alone and are left to a last call: ENGINES=eager,compiled.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-runs/pruning_sweep}
TASKS=${TASKS:-reach,push,pick-place,button-press-topdown}
BUDGETS=${BUDGETS:-0.5,0.25,0.125}
TRIALS=${TRIALS:-10}                          # of each task, first round
FINAL=${FINAL:-50}                            # second round, in other scenes: what was chosen on the first is not judged by it
FINALISTS=${FINALISTS:-vla_pruner,sparsevlm,vla_adp,fastv,dart}
TUNED=${TUNED:-none,random_0.125,stride_0.125,depth_drop_0.125,lightvla_0.125}
STEPS=${STEPS:-300}                           # of the fine-tune, 32 samples each
ENGINES=${ENGINES:-}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the policy has 2.6 M parameters

sweep() {
  python -m foveate sweep pruning --env metaworld --task_suite_name "$TASKS" --env.max_steps 150 --env.timeout_s 600 \
    --num_steps 1 --num_workers 1 --budgets "$BUDGETS" "$@"
}

tune() { # LABEL, as random_0.125
  local label=$1 folder=$OUT/tune/$1 pruner=()
  pruner=(--pruner "${label%_0*}")
  [ "$label" = none ] || pruner+=(--pruner.keep_ratio "${label##*_}")
  [ -f "$folder/policy/model.safetensors" ] ||
    python -m foveate train policy --config foveate/training/presets/metaworld_tiny_finetune.yaml \
      --init_from metaworld_tiny --data.path "$(printf '%s\n' "$OUT"/demos/* | paste -sd, | sed 's/.*/[&]/')" \
      --data.frame_stride 2 --loop.steps "$STEPS" --loop.threads 1 "${pruner[@]}" --out "$folder"
  mkdir -p "$OUT/tuned"
  ln -sfn "../tune/$label/policy" "$OUT/tuned/$label"
}

sweep --num_trials_per_task "$TRIALS" --out "$OUT/runs" ${ENGINES:+--engines "$ENGINES"}
for task in ${TASKS//,/ }; do
  python -m foveate data metaworld-demos --tasks "$task" --episodes 30 --seed 60000 --out "$OUT/demos/$task"
done
for label in ${TUNED//,/ }; do tune "$label"; done
sweep --seed 100 --methods "stride,topk_norm,downsample,depth_drop,lightvla,$FINALISTS" --num_trials_per_task "$FINAL" \
  --tuned "$OUT/tuned" --out "$OUT/second"
