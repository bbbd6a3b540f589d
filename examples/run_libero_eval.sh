#!/usr/bin/env bash
# What LightVLA's run_libero_eval.sh does: one trial of every task of libero_spatial, traced, overlays at the end.
#
#     bash examples/run_libero_eval.sh path/to/checkpoint --device cuda --dtype bfloat16
#
# Further words are options of `foveate eval sim` and win over those below.
set -euo pipefail

checkpoint=${1:?"usage: bash examples/run_libero_eval.sh CHECKPOINT [options of foveate eval sim]"}
shift
out=runs/libero_spatial_eval_$(date +%Y%m%d_%H%M%S)

foveate eval sim \
  --pretrained_checkpoint "$checkpoint" \
  --pruner lightvla \
  --protocol lightvla \
  --task_suite_name libero_spatial \
  --center_crop true \
  --num_trials_per_task 1 \
  --trace_out_dir "$out" \
  --trace_dump_attn true \
  --trace_attn_layers "1,31" \
  --trace_max_plots null \
  "$@"
