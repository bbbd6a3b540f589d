#!/usr/bin/env bash
# Success and milliseconds over denoising steps, on the shipped policies in Meta-World: full and LightVLA, every engine,
# the same scenes and noise, while the simulator waits for the policy and while it goes on ("at its latency"). Resumable.
#
#   benchmarks/steps_in_closed_loop/run.sh
#   EPISODES=10 ENGINES=eager OUT=/tmp/steps RESULTS=/tmp/steps benchmarks/steps_in_closed_loop/run.sh
#
# Two passes, eager and then all engines; the second keeps what the first has played, and each rewrites the results and
# README.md's table. Interrupted at any point, a later call goes on. Success at other latencies: at_latency.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
EPISODES=${EPISODES:-8}                       # of each of the seven tasks: 56 per row
ENGINES=${ENGINES:-eager,compiled}
STEPS=${STEPS:-1,2,3,5,10}
TASKS=${TASKS:-foveate}
OUT=${OUT:-runs/steps_in_closed_loop}
RESULTS=${RESULTS:-$here}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the policies have 2.6 M parameters
POLICIES=(metaworld_tiny metaworld_tiny_lightvla)

play() {  # engines
    for policy in "${POLICIES[@]}"; do
        python -m foveate bench components --policy "$policy" --task_suite_name "$TASKS" \
            --num_trials_per_task "$EPISODES" --denoising_steps "$STEPS" --engines "$1" \
            --env.timeout_s 600 --inject_latency measured --out "$OUT/$policy" --output_file "$RESULTS/$policy.json"
    done
    python "$here/table.py" "$RESULTS"
}

mkdir -p "$RESULTS"
play "${ENGINES%%,*}"
for engine in ${ENGINES//,/ }; do
    [ "$engine" = eager ] || for policy in "${POLICIES[@]}"; do
        python -m foveate engine check --policy "$policy" --engine "$engine"
    done
done
[ "$ENGINES" = "${ENGINES%%,*}" ] || play "$ENGINES"
