"""openpi's training configurations by name: sizes of the model, robot, norm stats.

    config = openpi_config("pi05_libero")
    config.model.action_horizon, config.robot(), config.asset_id

A JAX checkpoint tells no action horizon, no prompt length and no robot; the name that it was trained under does. The
facts are those of openpi's `training/config.py` (commit 15a9616) and of the names that its PyTorch users have added.
How these configurations are trained is the business of `foveate/training/presets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from foveate.errors import FoveateError, unknown
from foveate.models.common.robots import RobotMapping
from foveate.models.pi0.config import SIGLIP_SO400M, GemmaConfig, Pi0Config

DUMMY = GemmaConfig(width=64, depth=4, mlp_dim=128, num_heads=8, num_kv_heads=1, head_dim=16)
"""openpi's variant `dummy` of both Gemma stacks, for its tests."""

PI0 = Pi0Config(pi05=False, max_token_len=48)
PI05 = Pi0Config(pi05=True, max_token_len=200)


@dataclass(frozen=True)
class OpenpiConfig:
    """What a configuration's name says about a checkpoint."""

    model: Pi0Config
    """Sizes, action horizon and prompt length."""
    robot_name: str | None = None
    """Shipped robot mapping; None: made-up data."""
    asset_id: str | None = None
    """Name of the norm stats, a folder under `assets`; None: the user's own."""
    delta_mask: tuple[bool, ...] | None = None
    """Actions relative to the state; None: as the robot's mapping has it."""
    action_space: str | None = None
    """Of the robot's conventions; None: as its mapping has it."""
    default_prompt: str | None = None
    """Used where an observation brings no prompt."""
    pruner: str | None = None
    """Pruning method that the policy was trained with."""

    @property
    def toy(self) -> bool:
        """Whether its sizes are made up for tests; such checkpoints come in any size."""
        return self.model.llm == DUMMY

    def robot(self) -> RobotMapping | None:
        """The robot's mapping with what this configuration does otherwise."""
        if self.robot_name is None:
            return None
        robot = RobotMapping.load(self.robot_name, "pi05" if self.model.pi05 else "pi0")
        if self.delta_mask is not None:
            robot = replace(robot, delta_mask=self.delta_mask)
        if self.action_space is not None:
            robot = replace(robot, conventions={**robot.conventions, "action_space": self.action_space})
        if self.asset_id is not None and self.asset_id not in robot.asset_ids:
            robot = replace(robot, asset_ids=(self.asset_id, *robot.asset_ids))
        return replace(robot, default_prompt=self.default_prompt or robot.default_prompt)


def _toy(model: Pi0Config) -> OpenpiConfig:
    tower = replace(SIGLIP_SO400M, projection_dim=DUMMY.width)
    return OpenpiConfig(replace(model, llm=DUMMY, expert=DUMMY, vision=tower))


def _aloha(model: Pi0Config, prompt: str | None = None) -> OpenpiConfig:
    return OpenpiConfig(model, "aloha", "trossen", default_prompt=prompt)


def _droid(model: Pi0Config, horizon: int) -> OpenpiConfig:
    return OpenpiConfig(replace(model, action_horizon=horizon), "droid", "droid")


def _droid_positions(model: Pi0Config, horizon: int) -> OpenpiConfig:
    """Joint positions, relative to the state, in place of velocities."""
    mask = (True,) * 7 + (False,)
    return replace(_droid(model, horizon), delta_mask=mask, action_space="joint_position+gripper")


_LIBERO = "physical-intelligence/libero"
_PI05_LIBERO = OpenpiConfig(replace(PI05, action_horizon=10), "libero", _LIBERO)
_PICK_PLACE = OpenpiConfig(PI05, "aloha", "six_object_pick_conveyor")

OPENPI_CONFIGS: Mapping[str, OpenpiConfig] = {
    "pi0_aloha": _aloha(PI0),
    "pi05_aloha": _aloha(PI05),
    "pi0_aloha_towel": _aloha(PI0, "fold the towel"),
    "pi0_aloha_tupperware": _aloha(PI0, "open the tupperware and put the food on the plate"),
    "pi0_aloha_pen_uncap": _aloha(PI0, "uncap the pen"),
    "pi05_aloha_pen_uncap": _aloha(PI05, "uncap the pen"),
    "pi0_aloha_sim": OpenpiConfig(PI0, "aloha_sim", "lerobot/aloha_sim_transfer_cube_human"),
    "pi0_droid": _droid(PI0, 10),
    "pi05_droid": _droid(PI05, 15),
    "pi05_droid_finetune": _droid(PI05, 16),
    "pi05_full_droid_finetune": _droid_positions(PI05, 16),
    "paligemma_diffusion_droid": _droid(replace(PI0, action_dim=8), 10),
    "pi0_droid_jointpos_polaris": _droid_positions(PI0, 10),
    "pi0_droid_jointpos_100k_polaris": _droid_positions(PI0, 10),
    "pi05_droid_jointpos_polaris": _droid_positions(PI05, 15),
    "pi0_libero": OpenpiConfig(PI0, "libero", _LIBERO),
    "pi0_libero_low_mem_finetune": OpenpiConfig(PI0, "libero", _LIBERO),
    "pi05_libero": _PI05_LIBERO,
    "pi05_libero_pytorch": _PI05_LIBERO,
    "pi05_libero_pytorch_lightvla": replace(_PI05_LIBERO, pruner="lightvla"),
    "pi05_pick_place_pytorch": _PICK_PLACE,
    "pi05_pick_place_pytorch_pruning": replace(_PICK_PLACE, pruner="lightvla"),
    "debug": _toy(PI0),
    "debug_restore": _toy(PI0),
    "debug_pi05": _toy(PI05),
}


def openpi_config(name: str) -> OpenpiConfig:
    """The configuration of this name.

    Raises:
        FoveateError: there is none (the nearest ones are named), or it is a π0-FAST model's.
    """
    if name in OPENPI_CONFIGS:
        return OPENPI_CONFIGS[name]
    if "_fast_" in name or name.startswith("paligemma_"):
        raise FoveateError(f"openpi config {name!r}: π0-FAST and other models of text tokens are not loaded by foveate")
    raise unknown("openpi config", name, OPENPI_CONFIGS)
