#!/usr/bin/env bash
# Make sure that MuJoCo can draw without a display: try it, install Mesa where that fails, and go on with OSMesa, which
# foveate then chooses by itself, where EGL cannot be had.
#     scripts/ensure_gl.sh .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
wanted=${MUJOCO_GL:-egl}

draws() {
  "$python" -c 'import sys; from foveate.envs.gl import why_not; sys.exit(why_not(sys.argv[1]) or 0)' "$1" 2>/dev/null
}

[ "$(uname)" = Linux ] || exit 0
"$python" -c 'import mujoco' 2>/dev/null || exit 0 # no simulator, nothing to draw
draws "$wanted" && exit 0
packages=$("$python" -c 'from foveate.envs.gl import PACKAGES; print(*PACKAGES.values())')
# shellcheck disable=SC2086  # several packages are meant to be several
bash scripts/apt_install.sh $packages && draws "$wanted" && exit 0
if [ -z "${MUJOCO_GL:-}" ] && draws osmesa; then
  echo "setup: EGL cannot draw here, so the simulators draw with OSMesa, in software, which is slower"
  exit 0
fi
echo "setup: MuJoCo cannot draw with $wanted, so the simulators cannot either; $(dirname "$python")/foveate doctor says why" >&2
exit 1
