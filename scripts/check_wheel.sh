#!/usr/bin/env bash
# Build the wheel, install it with its dependencies in an environment of its own, and use it there, away from the
# sources: the version, one inference of the shipped policy, one traced inference and its report.
#     scripts/check_wheel.sh [PYTHON] [CONSTRAINTS]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
constraints=$(realpath "${2:-constraints.txt}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH

"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work" .
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --constraint "$constraints" "$work"/foveate-*.whl
cd "$work"
export PATH="$work/venv/bin:$PATH" HF_HUB_OFFLINE=1 MPLBACKEND=agg

python - <<'PY'
import importlib.util
import sys
from pathlib import Path

import foveate

home = Path(foveate.__file__).resolve().parent
assert home.is_relative_to(Path(sys.prefix).resolve()), f"foveate comes from {home}, not from {sys.prefix}"
tests = sorted(str(path.relative_to(home)) for pattern in ("*_test.py", "conftest.py") for path in home.rglob(pattern))
assert not tests and importlib.util.find_spec("foveate.testing") is None, f"the wheel holds tests: {tests}"

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
images = {view: rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for view in ("corner", "gripperPOV")}
policy = foveate.load_policy("metaworld_tiny")
state = np.array([0.0, 0.6, 0.2, 1.0], np.float32)
chunk = policy.infer(foveate.Observation(images=images, state=state, prompt="push the puck to the goal"))
assert np.isfinite(chunk.actions).all(), chunk.actions
print(f"foveate of {home}: one inference, actions {chunk.actions.shape}, {chunk.timings_ms['total']:.0f} ms")
in_libero = foveate.load_policy("libero_tiny")
views = dict(zip(("agentview", "eye_in_hand"), images.values(), strict=True))
seen = foveate.Observation(images=views, state=np.zeros(8, np.float32), prompt="pick up the orange juice")
assert np.isfinite(in_libero.infer(seen).actions).all()
for view, image in images.items():
    Image.fromarray(image).save(f"{view}.png")
PY
foveate --version
foveate trace predict --policy metaworld_tiny_lightvla --image corner=corner.png --image gripperPOV=gripperPOV.png \
  --prompt "push the puck to the goal" --state 0,0.6,0.2,1 --exp_name wheel
foveate trace report --exp_name wheel
test -s runs/wheel/report/index.html
