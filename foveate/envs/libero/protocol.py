"""How others evaluate in LIBERO: every choice that moves a score, by the name of who made it.

Read in their sources: openpi's examples/libero/main.py and requirements.txt; openvla-oft's and LightVLA's
experiments/robot/libero/{run_libero_eval,libero_utils}.py and LightVLA's pyproject.toml; LeRobot 0.6.1's
envs/{libero,configs}.py, processor/env_processor.py, scripts/lerobot_eval.py and docs/source/{libero,pi05}.mdx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from foveate.errors import unknown

ProtocolName = Literal["openpi", "oft", "lightvla", "lerobot"]
LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Suite -> steps: the longest demonstration and a reserve."""

STATES = 50
"""Initial states that LIBERO ships for a task."""
HELD_OUT = 20
"""Foveate's own demonstrations never begin from the first so many of them, where policies are scored."""


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate."""

    seed: int
    """Of the simulator, which draws from it where fixtures (cabinet, stove, rack, caddy) stand."""
    draw: Literal["per_task", "per_episode"] = "per_task"
    """`per_task`: seeded once, so that initial state k has the draw of reset k + 1; `per_episode`: seeded by seed + k
    before each reset."""
    settle_steps: int = 10
    """Steps without motion, gripper open, before the first observation: objects fall onto the table."""
    limits: Mapping[str, int] = field(default_factory=lambda: dict(LIMITS))
    """Suite -> steps after which an episode has failed, settling aside."""
    replan_steps: int = 5
    """Actions of a chunk that are executed before the policy looks again."""
    trials: int = 50
    """Episodes per task, each from another of the 50 initial states that are shipped."""
    image_size: int = 256
    """Side of the rendered pictures in pixels."""
    mujoco: str | None = None
    """MuJoCo's version that it pins; others show other pictures and, from 3.10 on, other scenes. None: it pins none."""
    conventions: Mapping[str, Any] = field(default_factory=dict)
    """What a policy of this protocol was trained with; a policy that declares otherwise is refused."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_LIBERO = {
    "action_space": "eef_pose+gripper",
    "delta": True,
    "gripper_sign": "positive_closes",
    "image_orientation": "upright",
    "quaternion": "sign_kept",
}
"""What all of them share. Pictures are turned by 180 degrees, which foveate calls upright. OFT's own gripper (1 opens)
is turned by its processor, so that the policy's actions close with a positive sign as everybody's do."""
_PAD = {"resize": "pad_bilinear", "crop": 1.0}
_OFT = {"resize": "jpeg_lanczos", "crop": 0.9}
"""A JPEG round trip, Lanczos to 224, then the middle 90 % of the area."""

PROTOCOLS: dict[str, Protocol] = {
    "openpi": Protocol(seed=7, mujoco="3.2.3", conventions={**_LIBERO, **_PAD}),
    "oft": Protocol(seed=0, replan_steps=8, conventions={**_LIBERO, **_OFT}),
    "lightvla": Protocol(seed=0, replan_steps=8, mujoco="3.3.3", conventions={**_LIBERO, **_OFT}),
    "lerobot": Protocol(
        seed=1000,
        draw="per_episode",
        limits={**LIMITS, "libero_spatial": 280},
        replan_steps=10,
        trials=10,
        image_size=360,
        conventions={**_LIBERO, **_PAD},
    ),
}
DEFAULT = "openpi"
"""Whose seed, limits and settling hold where no protocol is asked for."""


def get_protocol(name: str | None) -> Protocol:
    """The protocol of this name; None: the default one.

    Raises:
        FoveateError: there is none; lists those that are.
    """
    if name is not None and name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name or DEFAULT]
