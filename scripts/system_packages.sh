#!/usr/bin/env bash
# What a set-up needs of the system beside Python: found before anything is downloaded, and asked for all at once.
#     scripts/system_packages.sh PYTHON VENV EXTRAS
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2 extras=$3
needed=() gl=()

loads() {
  "$python" -c 'import ctypes, sys; [ctypes.CDLL(name) for name in sys.argv[1:]]' "$@" 2>/dev/null
}

if [ ! -x "$venv/bin/python" ] && ! "$python" -c 'import ensurepip' 2>/dev/null; then
  # Debian packs it apart from Python itself.
  needed+=("python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv")
fi
if [[ "$(uname)" = Linux && ",$extras," = *,sim,* ]] && ! loads libEGL.so.1 libOpenGL.so.0 && ! loads libOSMesa.so.8; then
  gl=(libegl1 libgl1-mesa-dri libopengl0 libosmesa6) # PyOpenGL takes its functions from libOpenGL
  needed+=("${gl[@]}")
fi
[ ${#needed[@]} -gt 0 ] || exit 0
bash scripts/apt_install.sh "${needed[@]}" && exit 0
if [ ${#gl[@]} -gt 0 ]; then
  echo "setup: lib... are for drawing what simulated cameras see; to do without: make setup EXTRAS=train,vlm,dev" >&2
fi
exit 1
