#!/usr/bin/env bash
# Every pruning method in closed loop on the shipped Meta-World policy, untuned and after the same short fine-tune.
#
#   benchmarks/pruning_sweep/run.sh                      # goes on where it was interrupted; more than one may run at a time
#   TRIALS=3 BUDGETS=0.25 OUT=/tmp/sweep benchmarks/pruning_sweep/run.sh
#   benchmarks/pruning_sweep/table.py               # then; documents of OUT that are to stand in tables lie beside it
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
FINALISTS=${FINALISTS:-vla_pruner,sparsevlm,vla_adp,fastv}
TUNED=${TUNED:-none random stride topk_norm downsample depth_drop lightvla dart fastv sparsevlm}  # those without a history
STEPS=${STEPS:-300}                           # of the fine-tune, 32 samples each
ENGINES=${ENGINES:-}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the policy has 2.6 M parameters

sweep() {
  python -m foveate sweep pruning --env metaworld --task_suite_name "$TASKS" --env.max_steps 150 --env.timeout_s 600 \
    --num_steps 1 --num_workers 1 "$@"
}

tune() { # METHOD
  local label=$1_0.125 pruner=(--pruner "$1" --pruner.keep_ratio 0.125)
  [ "$1" = none ] && label=none pruner=(--pruner none)
  local folder=$OUT/tune/$label
  [ -f "$folder/policy/model.safetensors" ] ||
    python -m foveate train policy --config foveate/training/presets/metaworld_tiny_finetune.yaml \
      --init_from metaworld_tiny --data.path "$(printf '%s\n' "$OUT"/demos/* | paste -sd, | sed 's/.*/[&]/')" \
      --data.frame_stride 2 --loop.steps "$STEPS" --loop.threads 1 "${pruner[@]}" --out "$folder"
  mkdir -p "$OUT/tuned"
  ln -sfn "../tune/$label/policy" "$OUT/tuned/$label"
}

sweep --budgets "$BUDGETS" --num_trials_per_task "$TRIALS" --out "$OUT/runs" ${ENGINES:+--engines "$ENGINES"}
for task in ${TASKS//,/ }; do
  python -m foveate data metaworld-demos --tasks "$task" --episodes 30 --seed 60000 --out "$OUT/demos/$task"
done
for method in $TUNED; do tune "$method"; done

# Depth drop leaves out the one layer that can go at every budget, so that it is played at one.
second() { sweep --seed 100 --num_trials_per_task "$FINAL" --out "$OUT/second" "$@"; }
controls=stride,topk_norm,downsample
second --budgets 0.5,0.25 --methods "$controls,$FINALISTS"
cp "$OUT/second/pruning.json" "$OUT/second_more.json"
second --budgets 0.125 --methods "$controls,depth_drop,lightvla,dart,$FINALISTS" --tuned "$OUT/tuned"
cp "$OUT/second/pruning.json" "$OUT/second_eighth.json"

# LIBERO (make libero): every method untuned, few scenes; initial states 0 to 3, which no demonstration began from.
python -m foveate sweep pruning --env libero --task_suite_name libero_object/2,libero_object/3,libero_object/9 \
  --env.timeout_s 600 --replan_steps 10 --num_workers 1 --budgets 0.5,0.25 --num_trials_per_task 4 --out "$OUT/libero" \
  --methods stride,topk_norm,downsample,depth_drop,divprune,cdpruner,dart,visionzip,fastv,sparsevlm,vla_adp,vla_pruner
cp "$OUT/libero/pruning.json" "$OUT/libero_all.json"
