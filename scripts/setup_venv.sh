#!/usr/bin/env bash
# Make or refresh the virtual environment of a clone. Called by the Makefile, which sets the variables:
# PYTHON, VENV, VENV_ARGS, TORCH_INDEX, EXTRAS.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${VENV:?}" "${EXTRAS:?}"

if [ -z "${PYTHON:-}" ]; then
  echo "setup: no Python found; install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3 python3-venv)" >&2
  exit 1
fi
"$PYTHON" - <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"setup: expected Python 3.11 or newer, got {sys.version.split()[0]}; make PYTHON=/path/to/python3.11")
PY

bash scripts/system_packages.sh "$PYTHON" "$VENV" "$EXTRAS"
if [ ! -x "$VENV/bin/python" ]; then
  echo "setup: making $VENV with $PYTHON ${VENV_ARGS:-}"
  # shellcheck disable=SC2086  # several arguments are meant to be several
  "$PYTHON" -m venv ${VENV_ARGS:-} "$VENV"
fi

# pip writes a page about every package. Here a step is one line, which on a terminal shows the package it is at; the
# rest is in the log, and its end on the screen where a step fails.
log="$VENV/setup.log"
: > "$log"
pip_install() {
  local step=$1 line start=$SECONDS
  shift
  echo "setup: installing $step"
  if ! "$python" -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1 | tee -a "$log" |
    while IFS= read -r line; do
      [ ! -t 1 ] || printf '\r\033[K%.100s' "$line"
    done; then
    tail -n 20 "$log" >&2
    echo "setup: pip could not install $step; all that it said is in $log" >&2
    exit 1
  fi
  [ ! -t 1 ] || printf '\r\033[K'
  echo "setup: that took $((SECONDS - start)) s"
}

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
    pip_install "torch" --index-url "$TORCH_INDEX" -c "$constraints" torch
  fi
fi

pip_install "foveate[$EXTRAS] and all that it needs (a few minutes the first time)" -c "$constraints" -e ".[$EXTRAS]"
