#!/usr/bin/env bash
# Make or refresh the virtual environment of a clone. Called by the Makefile, which sets the variables:
# PYTHON, VENV, VENV_ARGS, TORCH_INDEX, EXTRAS.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv} EXTRAS=${EXTRAS:-sim,train,vlm,dev,browser}

if [ -z "${PYTHON:-}" ]; then
  echo "setup: no Python found; install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3 python3-venv)" >&2
  exit 1
fi
"$PYTHON" - <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"setup: expected Python 3.11 or newer, got {sys.version.split()[0]}; make PYTHON=/path/to/python3.11")
PY

if [ ! -x "$VENV/bin/python" ]; then
  if ! "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
    # Debian packs it apart from Python itself.
    package="python$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    bash scripts/apt_install.sh "$package"
  fi
  echo "setup: making $VENV with $PYTHON ${VENV_ARGS:-}"
  # shellcheck disable=SC2086  # several arguments are meant to be several
  "$PYTHON" -m venv ${VENV_ARGS:-} "$VENV"
fi

# A torch>=2.6 that is there already (a GPU machine's own build) keeps its version, whatever constraints.txt pins.
python="$VENV/bin/python"
constraints="$VENV/constraints.txt"
present=$("$python" - <<'PY'
import re
try:
    import torch
except Exception:
    raise SystemExit
if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) >= (2, 6):
    import importlib.metadata
    print(importlib.metadata.version("torch"))
PY
)
if [ -n "$present" ]; then
  echo "setup: keeping torch $present, which is there already"
  sed "s/^torch==.*/torch==$present/" constraints.txt > "$constraints"
else
  cp constraints.txt "$constraints"
  if [ -n "${TORCH_INDEX:-}" ]; then
    "$python" -m pip install --disable-pip-version-check --index-url "$TORCH_INDEX" -c "$constraints" torch
  fi
fi

echo "setup: installing foveate[$EXTRAS] (a few minutes the first time)"
"$python" -m pip install --disable-pip-version-check -c "$constraints" -e ".[$EXTRAS]" |
  sed -u -e '/^Requirement already satisfied/d' -e '/^Looking in /d'
