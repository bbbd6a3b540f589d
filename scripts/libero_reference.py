"""Make foveate/envs/libero/reference.{json,npz} anew: how LIBERO's scenes look with the MuJoCo that is installed.

make libero
PYTHONPATH=. .venv-libero/bin/python scripts/libero_reference.py
"""

from __future__ import annotations

import json

import numpy as np

from foveate.envs.libero import LiberoEnv
from foveate.envs.libero.reference import FOLDER, thumb

env = LiberoEnv()
objects, pictures, state = {}, {}, []
for task in env.tasks:
    observation = env.load_reference(task)
    objects[task] = {name: [round(float(x), 4) for x in where] for name, where in sorted(env.objects().items())}
    pictures[task.replace("/", "_")] = np.round(thumb(observation.images["agentview"])).astype(np.uint8)
    if task == "libero_object/0":
        state = [round(float(x), 7) for x in observation.state]
    print(task, flush=True)
made_with = {"versions": env.about["versions"], "seed": 7, "draw": 1, "initial_state": 0, "settle_steps": 10}
env.close()
lines = ",\n".join(f" {json.dumps(task)}: {json.dumps(where)}" for task, where in objects.items())
(FOLDER / "reference.json").write_text(
    f'{{"made_with": {json.dumps(made_with)},\n"state": {state},\n"objects": {{\n{lines}\n}}}}\n'
)
np.savez_compressed(FOLDER / "reference.npz", **pictures)
