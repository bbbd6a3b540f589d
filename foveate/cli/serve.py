"""`foveate serve`: a policy for robots, over openpi's protocol, with the command line of openpi's `serve_policy.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from foveate.errors import FoveateError

ALIASES = {"policy.dir": "policy", "pretrained_checkpoint": "policy", "denoising_steps": "num_steps"}
ROBOTS = {"aloha": "aloha", "aloha_sim": "aloha", "droid": "droid", "libero": "libero"}
"""openpi's environments -> the robot mapping."""


def run(argv: list[str]) -> int:
    """The verb: serve until told to end."""
    from foveate.cli.config import parse
    from foveate.models.registry import detect
    from foveate.serving.config import ServeConfig
    from foveate.serving.run import serve_policy
    from foveate.util.progress import Reporter, plain_console
    from foveate.util.shipped import find_policy

    words, robot = carry_over(argv)
    config = parse(ServeConfig, words, "foveate serve", aliases=ALIASES)
    if robot is not None and config.robot is None and detect(find_policy(config.policy), config)[1].robot is None:
        config = replace(config, robot=robot)
    serve_policy(config, Reporter(plain_console()))
    return 0


def carry_over(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """The command line of openpi's `serve_policy.py` in foveate's words, and the robot that it names.

    `policy:checkpoint` says nothing that --policy.dir does not. `--policy.config NAME` names a training config of
    openpi's, and `--env LIBERO` an environment: both name the robot, for a checkpoint that does not say which is its.
    `--record` traces into openpi's folder, policy_records.

    Raises:
        FoveateError: an environment that openpi does not have, or `policy:default`, which downloads.
    """
    left: list[str] = []
    named: dict[str, str] = {}
    words = [word for word in argv if word != "policy:checkpoint"]
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "policy:default":
            raise FoveateError("policy:default downloads openpi's own checkpoint; name a folder: --policy.dir FOLDER")
        if word == "--record":
            left += ["--trace_out_dir", "policy_records"]
        elif word.startswith("--") and name in ("env", "policy.config"):
            if not equals and not words:
                raise FoveateError(f"--{name} needs a value")
            named[name] = value if equals else words.pop(0)
        else:
            left.append(word)
    parts = named.get("policy.config", "").lower().split("_")
    robots = [robot for robot in ROBOTS.values() if robot in parts]
    robots += [_robot_of_env(named["env"])] if "env" in named else []
    return left, robots[0] if robots else None


def _robot_of_env(env: str) -> str:
    if env.lower() not in ROBOTS:
        raise FoveateError(f"--env {env}: openpi's environments are {', '.join(ROBOTS)}; --robot names any other robot")
    return ROBOTS[env.lower()]
