import pickle
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from foveate.envs.libero import install
from foveate.errors import FoveateError

STATES = np.arange(12.0).reshape(3, 4)
TASK = SimpleNamespace(problem_folder="libero_goal", init_states_file="a.pruned_init")


def write(path, value, protocol=2):
    """As torch.save writes what holds no tensor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", [2, 4])
def test_initial_states_of_upstream_are_read_without_pickle(tmp_path, protocol):
    write(tmp_path / "libero_goal/a.pruned_init", STATES, protocol)
    np.testing.assert_array_equal(install.initial_states(tmp_path, TASK), STATES)


def test_initial_states_that_are_converted_come_first(tmp_path):
    write(tmp_path / "libero_goal/a.pruned_init", STATES)
    np.savez(tmp_path / "libero_goal/a.pruned_init.npz", states=STATES + 1)
    np.testing.assert_array_equal(install.initial_states(tmp_path, TASK), STATES + 1)


@pytest.mark.parametrize(("value", "message"), [(print, "print"), ({"a": 1}, "array of floats")])
def test_what_is_no_array_is_refused(tmp_path, value, message):
    write(tmp_path / "libero_goal/a.pruned_init", value)
    with pytest.raises(FoveateError, match=message):
        install.initial_states(tmp_path, TASK)


def test_missing_states_are_named(tmp_path):
    with pytest.raises(FoveateError, match=r"a\.pruned_init"):
        install.initial_states(tmp_path, TASK)


def test_the_interpreter_is_found_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    python = tmp_path / ".venv-libero/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert install.interpreter() == str(python)
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: object())
    assert install.interpreter() is None  # LIBERO is installed here


@pytest.mark.parametrize("asks", [True, False])
def test_the_question_of_upstream_is_answered_in_a_folder_of_ours(tmp_path, monkeypatch, asks):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("answer = input('Do you want ...')" if asks else "")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    monkeypatch.setattr(install.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    install._answer_its_question(package)
    written = tmp_path / "config.yaml"
    assert written.exists() == asks
    assert not asks or f"init_states: {package}/init_files" in written.read_text().splitlines()
