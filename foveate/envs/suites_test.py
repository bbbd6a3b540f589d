import importlib.util

import pytest

from foveate.envs.suites import FOVEATE, MT10, env_of_suite, resolve_tasks
from foveate.errors import FoveateError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs metaworld")


def test_suites():
    assert resolve_tasks("foveate") == FOVEATE
    assert len(MT10) == 10
    assert len(resolve_tasks("mt50")) == 50
    assert set(FOVEATE) | set(MT10) <= set(resolve_tasks("mt50"))
    assert resolve_tasks("libero_goal")[3] == "libero_goal/3"


def test_lists_with_and_without_version():
    assert resolve_tasks("push, reach-v3") == ("push-v3", "reach-v3")
    assert resolve_tasks("libero_goal/3,libero_10/0") == ("libero_goal/3", "libero_10/0")
    assert resolve_tasks("a,b", env="my.module:Env") == ("a", "b")
    assert env_of_suite("libero_10/0") == "libero"
    assert env_of_suite("push") == "metaworld"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("drawer-opn", "did you mean 'drawer-open'"),
        ("fovate", "did you mean 'foveate'"),
        ("push,push-v3", "each once"),
        ("", "expected a suite"),
        ("libero_goal/10", "libero_goal/0 to libero_goal/9"),
        ("libero_goal,libero_gaol", "did you mean 'libero_goal'"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(FoveateError, match=message):
        resolve_tasks(name)
