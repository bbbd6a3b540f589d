"""`foveate serve`: a policy for robots, over openpi's protocol, with the command line of openpi's `serve_policy.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from foveate.errors import FoveateError

ALIASES = {
    "policy.dir": "policy",
    "policy.config": "config_name",
    "pretrained_checkpoint": "policy",
    "denoising_steps": "num_steps",
}
ROBOTS = {"aloha": "aloha", "aloha_sim": "aloha_sim", "droid": "droid", "libero": "libero"}
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
    if robot is not None and detect(find_policy(config.policy), config)[1].robot is None:
        config = replace(config, robot=robot)
    serve_policy(config, Reporter(plain_console()))
    return 0


def carry_over(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """The command line of openpi's `serve_policy.py` in foveate's words, and the robot of its environment.

    `policy:checkpoint` says nothing that --policy.dir does not, and `--record` traces into openpi's folder,
    policy_records. `--env LIBERO` counts where neither checkpoint nor `--policy.config` say which robot it is.

    Raises:
        FoveateError: an environment that openpi does not have, or `policy:default`, which downloads.
    """
    left: list[str] = []
    env = None
    words = [word for word in argv if word != "policy:checkpoint"]
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word == "policy:default":
            raise FoveateError("policy:default downloads openpi's own checkpoint; name a folder: --policy.dir FOLDER")
        if word == "--record":
            left += ["--trace_out_dir", "policy_records"]
        elif name == "--env":
            if not equals and not words:
                raise FoveateError("--env needs a value")
            env = value if equals else words.pop(0)
        else:
            left.append(word)
    return left, None if env is None else _robot_of_env(env)


def _robot_of_env(env: str) -> str:
    if env.lower() not in ROBOTS:
        raise FoveateError(f"--env {env}: openpi's environments are {', '.join(ROBOTS)}; --robot names any other robot")
    return ROBOTS[env.lower()]
