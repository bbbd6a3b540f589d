#!/usr/bin/env bash
# Make sure that MuJoCo can draw without a display: try to make a GL context, install Mesa where that fails.
#     scripts/ensure_gl.sh .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
wanted=${MUJOCO_GL:-egl}

draws() {
  MUJOCO_GL=$1 "$python" -c 'import mujoco; mujoco.GLContext(16, 16).make_current()' >/dev/null 2>&1
}

[ "$(uname)" = Linux ] || exit 0
"$python" -c 'import mujoco' 2>/dev/null || exit 0 # no simulator, nothing to draw
draws "$wanted" && exit 0
bash scripts/apt_install.sh libegl1 libgl1-mesa-dri libosmesa6 && draws "$wanted" && exit 0
if draws osmesa; then
  echo "setup: no $wanted context can be made here; set MUJOCO_GL=osmesa, which draws more slowly" >&2
else
  echo "setup: no GL context can be made, so the simulators cannot draw; everything else works" >&2
fi
exit 1
