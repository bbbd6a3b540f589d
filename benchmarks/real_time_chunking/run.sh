#!/usr/bin/env bash
# Success over latency in Meta-World, by what the robot does while its policy thinks: it stands still, goes on with the old
# chunk (queue), or goes on and tells the policy so (real-time chunking: guided, or a hard prefix). The same scenes in
# every row. Resumable.
#
#   benchmarks/real_time_chunking/run.sh RTC_POLICY
#   EPISODES=2 LATENCIES=50 OUT=/tmp/rtc benchmarks/real_time_chunking/run.sh RTC_POLICY
#
# RTC_POLICY: folder of a policy that was trained with rtc.max_delay, see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
RTC=${1:?folder of a policy that was trained with rtc.max_delay}
BASE=${BASE:-metaworld_tiny}
EPISODES=${EPISODES:-13}                      # of each task: 52 per row
TASKS=${TASKS:-reach,push,pick-place,button-press-topdown}
LATENCIES=${LATENCIES:-50 100 25 200}         # ms; Meta-World takes 80 actions a second
OUT=${OUT:-runs/real_time_chunking}
PYTHON=${PYTHON:-python}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the policies have 2.6 M parameters

row() {  # way, policy, latency, chunking, actions between looks
    # shellcheck disable=SC2086  # PYTHON may be several words
    $PYTHON -m foveate eval sim --policy "$2" --task_suite_name "$TASKS" --num_trials_per_task "$EPISODES" --num_workers 1 \
        --inject_latency "$3" --chunking "$4" --replan_steps "$5" --env.timeout_s 600 --variant "$1" --out "$OUT/$3_$1"
}

row queue "$BASE" 0 queue 5
row rtc_queue "$RTC" 0 queue 5
for ms in $LATENCIES; do
    # A robot that goes on must have a chunk left for the next wait: 10 actions, less two waits, at most the usual 5.
    steps=$(( (ms * 80 + 999) / 1000 ))
    replan=$(( 10 - 2 * steps )); replan=$(( replan > 5 ? 5 : replan < 2 ? 2 : replan ))
    row synchronous "$BASE" "$ms" synchronous 5
    row queue "$BASE" "$ms" queue $replan
    row guided "$BASE" "$ms" real_time $replan
    row rtc_queue "$RTC" "$ms" queue $replan
    row hard_prefix "$RTC" "$ms" real_time $replan
done
$PYTHON "$here/table.py" "$OUT"
