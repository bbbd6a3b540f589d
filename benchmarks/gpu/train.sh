#!/usr/bin/env bash
# Three real steps of π0.5 at its published size with random weights on one GPU: all weights, LoRA, and both with less kept for
# the backward pass; memory as measured and as `foveate train plan` predicts it, steps per second. The first needs about 80 GB.
# Nothing is downloaded. A case that does not fit is named and the others go on.
# DRY_RUN=1: one sample of 65 M parameters on the CPU, to see that the script runs; a case that fails ends it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
what="--size pi05 --batch 8" limit=150
[ -z "${DRY_RUN:-}" ] || what="--size pi05_mid --batch 1 --device cpu" limit=3600
for options in "--gradient_checkpointing" "--lora 16" "--lora 16 --gradient_checkpointing"; do
  # shellcheck disable=SC2086
  timeout $limit python "$here/train.py" $what $options || { echo "failed: $options"; [ -z "${DRY_RUN:-}" ]; }
done
