#!/usr/bin/env bash
# Success and milliseconds over denoising steps, on the shipped policies in Meta-World: full and LightVLA, every engine,
# the same scenes and noise; each row once while the simulator waits, and once while it goes on. Resumable.
#
#   benchmarks/steps_in_closed_loop/run.sh
#   EPISODES=50 ENGINES=eager LATENCY=null OUT=/tmp/steps benchmarks/steps_in_closed_loop/run.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
EPISODES=${EPISODES:-10}                      # of each of the seven tasks: 70 per row
ENGINES=${ENGINES:-eager,compiled}
STEPS=${STEPS:-1,2,3,5,10}
TASKS=${TASKS:-foveate}
LATENCY=${LATENCY:-measured}                  # null: the simulator waits, and each row is played once
OUT=${OUT:-runs/steps_in_closed_loop}
RESULTS=${RESULTS:-$here}
mkdir -p "$RESULTS"
for policy in metaworld_tiny metaworld_tiny_lightvla; do
    python -m foveate bench components --policy "$policy" --task_suite_name "$TASKS" \
        --num_trials_per_task "$EPISODES" --denoising_steps "$STEPS" --engines "$ENGINES" \
        --inject_latency "$LATENCY" --env.timeout_s 600 --out "$OUT/$policy" --output_file "$RESULTS/$policy.json"
done
