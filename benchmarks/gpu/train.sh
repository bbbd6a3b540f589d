#!/usr/bin/env bash
# Three real steps of π0.5 at its published size with random weights on one GPU: all weights, LoRA, and both with less kept for
# the backward pass; memory as measured and as `foveate train plan` predicts it, steps per second. The first needs about 80 GB.
# Nothing is downloaded. A case that does not fit is named and the others go on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
for options in "--batch 8 --gradient_checkpointing" "--batch 8 --lora 16" "--batch 8 --lora 16 --gradient_checkpointing"; do
  # shellcheck disable=SC2086
  timeout 150 python "$here/train.py" --size pi05 $options || echo "failed: $options"
done
