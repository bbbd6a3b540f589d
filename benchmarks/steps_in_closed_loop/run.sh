#!/usr/bin/env bash
# Success and milliseconds over denoising steps, on the shipped policies in Meta-World: full and LightVLA, every engine,
# the same scenes and noise; each row while the simulator waits and, at last, once more while it goes on. Resumable.
#
#   benchmarks/steps_in_closed_loop/run.sh
#   EPISODES=10 ENGINES=eager LATENCY=null OUT=/tmp/steps RESULTS=/tmp/steps benchmarks/steps_in_closed_loop/run.sh
#
# Three passes, each of which keeps what the one before has played and then rewrites the results and README.md's table:
# eager, all engines, all engines at their latency. Interrupted at any point, a later call goes on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
EPISODES=${EPISODES:-8}                       # of each of the seven tasks: 56 per row
ENGINES=${ENGINES:-eager,compiled}
STEPS=${STEPS:-1,2,3,5,10}
TASKS=${TASKS:-foveate}
LATENCY=${LATENCY:-measured}                  # null: the simulator always waits
OUT=${OUT:-runs/steps_in_closed_loop}
RESULTS=${RESULTS:-$here}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the policies have 2.6 M parameters
POLICIES=(metaworld_tiny metaworld_tiny_lightvla)

play() {  # engines, latency
    for policy in "${POLICIES[@]}"; do
        python -m foveate bench components --policy "$policy" --task_suite_name "$TASKS" \
            --num_trials_per_task "$EPISODES" --denoising_steps "$STEPS" --engines "$1" --inject_latency "$2" \
            --env.timeout_s 600 --out "$OUT/$policy" --output_file "$RESULTS/$policy.json"
    done
    python "$here/table.py" "$RESULTS"
}

mkdir -p "$RESULTS"
play "${ENGINES%%,*}" null
for engine in ${ENGINES//,/ }; do
    [ "$engine" = eager ] || for policy in "${POLICIES[@]}"; do
        python -m foveate engine check --policy "$policy" --engine "$engine"
    done
done
[ "$ENGINES" = "${ENGINES%%,*}" ] || play "$ENGINES" null
[ "$LATENCY" = null ] || play "$ENGINES" "$LATENCY"
