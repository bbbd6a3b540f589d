#!/usr/bin/env bash
# `lmms-eval --model foveate` against the real lmms-eval, in an environment of its own, .venv-lmms (about 1.5 GB with torch).
#     scripts/check_lmms_eval.sh [PYTHON]
# lmms-eval asks for much that no task of the test touches (wandb of one version, torchvision, sentence transformers ...),
# so that it comes without its requirements.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3.11} venv=.venv-lmms

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check --quiet "$@"; }

pip_install -c constraints.txt -e '.[vlm]' pytest hatchling accelerate 'datasets>=3' evaluate loguru tenacity sacrebleu \
  pydantic pytz jsonlines tqdm python-dotenv pytablewriter
pip_install --no-deps lmms-eval==0.7.3 decord 'filelock<4'
"$venv/bin/python" -m pytest -m peer tests/test_lmms_eval.py
