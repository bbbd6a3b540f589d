"""The real openpi-client from PyPI, in an environment of its own (it wants NumPy 1), against `foveate serve`'s server.

It knows nothing of foveate: what it sends is what openpi's examples send of DROID, LIBERO and ALOHA.
"""

from __future__ import annotations

import json
import subprocess
import venv
from dataclasses import replace
from pathlib import Path

import pytest

from foveate.serving.access import Access
from foveate.testing.serving import served
from foveate.training.policy.untrained import THREE_CAMERAS, TINY, random_policy

pytestmark = [pytest.mark.slow, pytest.mark.peer]
CONFIG = replace(TINY, views=THREE_CAMERAS.views, action_dim=16)

SCRIPT = """
import json, sys
import numpy as np
from openpi_client import image_tools
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, robot = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
seen = rng.integers(0, 256, (48, 64, 3), np.uint8)
picture = image_tools.convert_to_uint8(image_tools.resize_with_pad(seen, 224, 224))
observations = {
    "droid": {
        "observation/exterior_image_1_left": picture,
        "observation/wrist_image_left": picture,
        "observation/joint_position": rng.random(7),
        "observation/gripper_position": rng.random(1),
        "prompt": "do something",
    },
    "libero": {
        "observation/image": picture,
        "observation/wrist_image": picture,
        "observation/state": rng.random(8),
        "prompt": "do something",
    },
    "aloha": {"state": rng.random(14), "images": {"cam_high": np.transpose(picture, (2, 0, 1))}, "prompt": "transfer"},
}
client = WebsocketClientPolicy("127.0.0.1", port, api_key="secret")
answers = [client.infer(observations[robot]) for _ in range(2)]
told = []
for wrong in ({**observations[robot], "prompt": 5}, observations["libero" if robot != "libero" else "droid"]):
    try:
        client.infer(wrong)
    except RuntimeError as error:
        told.append(str(error))
client.reset()
broker = ActionChunkBroker(client, action_horizon=4)
steps = [broker.infer(observations[robot])["actions"].shape for _ in range(5)]
print(json.dumps({
    "metadata": client.get_server_metadata()["robot"],
    "shapes": [answer["actions"].shape for answer in answers],
    "dtypes": [str(answer["actions"].dtype) for answer in answers],
    "finite": bool(all(np.isfinite(answer["actions"]).all() for answer in answers)),
    "server_timing": [sorted(answer["server_timing"]) for answer in answers],
    "policy_timing": "infer_ms" in answers[0]["policy_timing"],
    "steps": steps,
    "told": told,
    "numpy": np.__version__,
}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """An interpreter with openpi-client."""
    folder = tmp_path_factory.mktemp("openpi_client")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        # It imports typing_extensions, and does not ask for it.
        [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "openpi-client",
            "typing_extensions",
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"openpi-client cannot be installed here: {done.stderr[-300:]}")
    return str(python)


@pytest.mark.parametrize(("robot", "width"), [("droid", 8), ("libero", 7), ("aloha", 14)])
def test_openpi_client_is_served(python: str, tmp_path: Path, robot: str, width: int) -> None:
    script = tmp_path / "client.py"
    script.write_text(SCRIPT)
    with random_policy(CONFIG, "lightvla", robot) as policy, served(policy, access=Access(["secret"])) as server:
        done = subprocess.run([python, script, str(server.port), robot], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["metadata"] == robot
    assert found["shapes"] == [[CONFIG.action_horizon, width]] * 2
    assert found["dtypes"] == ["float32"] * 2
    assert found["finite"] and found["policy_timing"]
    assert found["server_timing"] == [["infer_ms"], ["infer_ms", "prev_total_ms"]]
    assert found["steps"] == [[width]] * 5
    assert "prompt: expected text" in found["told"][0]
    assert f"robot {robot!r} sends" in found["told"][1]
    assert not any("Traceback" in told for told in found["told"])
    assert found["numpy"].startswith("1.")
