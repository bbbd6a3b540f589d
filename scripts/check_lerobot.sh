#!/usr/bin/env bash
# lerobot's plug-in against the real lerobot, in an environment of its own, .venv-lerobot (about 1.5 GB with torch).
#     scripts/check_lerobot.sh [PYTHON]
# lerobot 0.4.4 is the last for Python 3.11. It asks for an older torch than constraints.txt has, and torchvision's wheels
# are built for CUDA, so that both come without their requirements; the plug-in's tests do with that.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3.11} venv=.venv-lerobot

if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  echo "check_lerobot: needs Python 3.11; scripts/check_lerobot.sh /path/to/python3.11" >&2
  exit 1
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check --quiet "$@"; }

# lerobot 0.4 needs transformers 4 and what belongs to it; foveate takes either.
grep -vE '^(transformers|tokenizers|huggingface_hub|numpy)==' constraints.txt >"$venv/constraints.txt"
pip_install -c "$venv/constraints.txt" -e . pytest hatchling 'transformers<5' 'numpy>=2' \
  'datasets>=4,<5' 'diffusers<0.36' accelerate einops 'deepdiff<9' termcolor jsonlines gymnasium 'imageio<3' \
  opencv-python-headless pyserial 'mergedeep>=1.3' 'typing-inspect>=0.9' 'pyyaml-include<2' toml
pip_install --no-deps torchvision==0.28.0 lerobot==0.4.4 draccus==0.10.0
pip_install --no-deps --no-build-isolation ./integrations/lerobot_policy_foveate
"$venv/bin/python" -m pytest -m peer tests/test_lerobot_policy.py
