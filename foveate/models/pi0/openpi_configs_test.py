"""What a configuration's name says, against openpi's own words."""

import pytest

from foveate.errors import FoveateError
from foveate.models.pi0.config import GEMMA_2B, GEMMA_300M
from foveate.models.pi0.openpi_configs import DUMMY, OPENPI_CONFIGS, openpi_config


@pytest.mark.parametrize(
    ("name", "pi05", "horizon", "length", "deltas"),
    [
        ("pi05_aloha", True, 50, 200, 12),
        ("pi05_droid", True, 15, 200, 0),
        ("pi05_libero", True, 10, 200, 0),
        ("pi0_aloha_sim", False, 50, 48, 0),
        ("pi0_droid", False, 10, 48, 0),
        ("pi0_libero", False, 50, 48, 6),
        ("pi05_full_droid_finetune", True, 16, 200, 7),
        ("pi05_libero_pytorch_lightvla", True, 10, 200, 0),
        ("pi05_pick_place_pytorch_pruning", True, 50, 200, 12),
    ],
)
def test_published_configurations(name, pi05, horizon, length, deltas):
    config = openpi_config(name)
    model = config.model
    assert (model.pi05, model.action_horizon, model.max_token_len, model.action_dim) == (pi05, horizon, length, 32)
    assert (model.llm, model.expert, model.vocab_size) == (GEMMA_2B, GEMMA_300M, 257_152)
    assert not config.toy
    assert sum(config.robot().delta_mask) == deltas


def test_every_robot_loads_and_has_the_norm_stats_that_the_configuration_names():
    for name, config in OPENPI_CONFIGS.items():
        robot = config.robot()
        if config.toy:
            assert robot is None, name
        else:
            assert config.asset_id in robot.asset_ids, name
            assert config.model.action_dim >= robot.action_dim, name


def test_what_a_configuration_changes_of_its_robot():
    assert openpi_config("pi0_aloha_sim").robot().default_prompt == "Transfer cube"
    assert openpi_config("pi05_libero").robot().state_in_prompt is False
    positions = openpi_config("pi05_droid_jointpos_polaris").robot()
    assert positions.conventions["action_space"] == "joint_position+gripper"
    assert openpi_config("pi05_droid").robot().conventions["action_space"] == "joint_velocity+gripper"


def test_dummy_sizes():
    config = openpi_config("debug_pi05")
    assert config.toy and config.model.llm == config.model.expert == DUMMY and config.model.pi05


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(FoveateError, match="unknown openpi config 'pi05_libreo'; did you mean 'pi05_libero'"):
        openpi_config("pi05_libreo")
    with pytest.raises(FoveateError, match="π0-FAST"):
        openpi_config("pi0_fast_droid")
