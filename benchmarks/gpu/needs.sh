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
there() { python -c "import sys, importlib.util as i; sys.exit(any(i.find_spec(n) is None for n in sys.argv[1:]))" "$@"; }
there torch numpy || { echo "these scripts need torch and NumPy"; exit 1; }
if [ "${1:-}" != --all ] && there "${needs[@]%%:*}"; then exit 0; fi
missing=()
for need in "${needs[@]}"; do
  if [ "${1:-}" = --all ] || ! there "${need%%:*}"; then missing+=("${need##*:}"); fi
done
echo "installing into $here/deps: ${missing[*]}"
python -m pip install --quiet --target "$here/deps" --constraint "$here/../../constraints.txt" "${missing[@]}"
