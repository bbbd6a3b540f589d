import dataclasses

import numpy as np
import pytest

from foveate.envs.base import EnvConventions, EnvCrash, check_action, check_conventions, make_env
from foveate.errors import FoveateError

HERE = EnvConventions("eef_xyz+gripper", 4, True, "positive_closes", control_hz=80)


def test_equal_conventions_pass_as_dataclass_or_dict():
    check_conventions(HERE, dataclasses.replace(HERE, control_hz=80.0))
    check_conventions(HERE, {**HERE.to_dict(), "more": 1})


def test_every_difference_is_listed():
    policy = dataclasses.replace(HERE, delta=False, gripper_sign="positive_opens", image_orientation="rotated_180")
    with pytest.raises(FoveateError) as raised:
        check_conventions(HERE, policy)
    for part in ("delta: environment True, policy False", "gripper_sign", "'positive_opens'", "image_orientation"):
        assert part in str(raised.value)
    assert "control_hz" not in str(raised.value)


def test_what_a_policy_does_not_declare_is_a_difference():
    declared = HERE.to_dict()
    del declared["gripper_sign"]
    with pytest.raises(FoveateError, match=r"gripper_sign: .*\(not declared\)"):
        check_conventions(HERE, declared)


def test_actions():
    assert check_action([0, 1], 2).dtype == np.float32
    with pytest.raises(EnvCrash, match="finite"):
        check_action([0, np.nan], 2)
    with pytest.raises(EnvCrash, match=r"expected 2 numbers, got shape \(3,\)"):
        check_action([0, 1, 2], 2)


@pytest.mark.parametrize(
    ("name", "message"), [("libro", "libero"), ("foveate.envs.base:Nope", "Nope"), ("no.module:X", "no")]
)
def test_unknown_environments(name, message):
    with pytest.raises(FoveateError, match=message):
        make_env(name)
