#!/usr/bin/env bash
# The packages beside torch that these scripts import; those that are missing are installed into deps/ beside this file.
#
#   benchmarks/gpu/needs.sh            # for this machine
#   benchmarks/gpu/needs.sh --all      # all but torch and NumPy into deps/, for a machine of the same Python without network
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/deps${PYTHONPATH:+:$PYTHONPATH}"
needs=(PIL:pillow safetensors:safetensors sentencepiece:sentencepiece yaml:PyYAML jsonargparse:jsonargparse
  docstring_parser:docstring-parser rich:rich)
missing=()
for need in "${needs[@]}"; do
  if [ "${1:-}" = --all ] || ! python -c "import ${need%%:*}" 2>/dev/null; then missing+=("${need##*:}"); fi
done
python -c "import torch, numpy" || { echo "these scripts need torch and NumPy"; exit 1; }
[ ${#missing[@]} = 0 ] && exit 0
echo "installing into $here/deps: ${missing[*]}"
python -m pip install --quiet --target "$here/deps" --constraint "$here/../../constraints.txt" "${missing[@]}"
