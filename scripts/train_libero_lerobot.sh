#!/usr/bin/env bash
# A small π0.5 in LIBERO by the way that a data set of one's own takes (docs/train-your-own.md), and what LightVLA costs it:
#
#   demonstrations -> LeRobot v3.0 set -> norm stats -> preset -> checkpoint -> LightVLA from it -> held-out scenes
#
#   scripts/train_libero_lerobot.sh [DEMOS] [OUT]      default: runs/libero_tiny/demos, runs/libero_lerobot
#
# DEMOS: folder of `foveate data libero-demos` folders, as scripts/train_libero_tiny.sh records them; it is made where it is
# missing. Every stage goes on where it was interrupted. Needs `pip install .[train]` and `make libero`.
# PYTHON, TASKS (numbers within libero_object), EPISODES (per task), STEPS and TUNE_STEPS (those of each round of
# fine-tuning) may be set in the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

DEMOS=${1:-runs/libero_tiny/demos}
OUT=${2:-runs/libero_lerobot}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
TASKS=${TASKS:-2 3 9}
EPISODES=${EPISODES:-17}
STEPS=${STEPS:-1600}
TUNE_STEPS=${TUNE_STEPS:-500 500 800}
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} LP_NUM_THREADS=1
foveate() { "$PYTHON" -m foveate "$@"; }
# Two processes of one thread are faster on two cores than one of two threads.
train() { "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node 2 -m foveate train policy "$@" \
  --repo_id "$SET" --checkpoint_base_dir "$RUNS" --batch_size 32 --save_interval 400 --loop.threads 1; }
SET=$OUT/sets/object
RUNS=$OUT/checkpoints

[ -d "$DEMOS" ] || for task in $TASKS; do
  foveate data libero-demos --tasks "libero_object/$task:40" --out "$DEMOS/object_$task" \
    --noise.scale 0.25 --noise.kick_rate 0.01 --noise.kick_steps 3,6
done
foveate data convert "$DEMOS" "$SET" --to v3.0
[ -f "$SET/norm_stats.json" ] || foveate norm-stats "$SET" --robot libero_state --action_horizon 10
train libero_tiny --exp_name base --num_train_steps "$STEPS"
BASE=$RUNS/libero_tiny/base/$STEPS
# LightVLA explores in the first round and settles in the others, under little noise.
TUNED=$BASE NOISE=1 round=0
for steps in $TUNE_STEPS; do
  round=$((round + 1))
  name=libero_lightvla_$round
  train metaworld_tiny_finetune --exp_name "$name" --num_train_steps "$steps" --pruner lightvla \
    --pruner.train_form deduplicated --optim.warmup_steps 20 --init_from "$TUNED" --pruner_noise.start "$NOISE"
  TUNED=$RUNS/metaworld_tiny_finetune/$name/$steps NOISE=0.3
done

SUITE=$(printf 'libero_object/%s,' $TASKS)
score() { # NAME POLICY: initial states 0 and up, from which no demonstration began
  foveate eval sim --policy "$2" --task_suite_name "${SUITE%,}" --variant "$1" --num_trials_per_task "$EPISODES" \
    --replan_steps 10 --num_workers 2 --out "$OUT/evaluation/$1"
}
score full "$BASE"
score lightvla "$TUNED"
