import os
import signal
import subprocess
import sys

import pytest

from foveate.errors import FoveateError
from foveate.testing.golden import REPO
from foveate.training.lock import sole_training
from foveate.util.world import World

HOLD = """
import sys, time
from pathlib import Path
from foveate.training.lock import sole_training
from foveate.util.world import World
with sole_training(Path(sys.argv[1]), World()):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_second_training_is_refused_until_the_first_is_gone(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(FoveateError, match=f"process {other.pid} is training there"),
            sole_training(tmp_path, World()),
        ):
            pass
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    for _ in range(2):  # killed, and ended in order
        with sole_training(tmp_path, World()):
            pass
