"""Before episode 1: does what the policy was trained with agree with how it is about to be evaluated?

What the simulator is and how it is set up is printed, and written to `environment.json` in the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.envs.base import check_conventions
from foveate.envs.libero.protocol import PROTOCOLS
from foveate.envs.libero.suites import base_of
from foveate.errors import FoveateError
from foveate.util.files import write_text

if TYPE_CHECKING:
    from foveate.envs.worker import WorkerEnv
    from foveate.evaluation.sim.simulate import SimConfig
    from foveate.policy import PolicySpec

FILE = "environment.json"
NOT_DECLARED = "not declared"


def agree(config: SimConfig, env: WorkerEnv, policy: PolicySpec) -> dict[str, Any]:
    """How the policy is evaluated: `environment, python, versions, protocol, settings, conventions, warnings`.

    `settings` is what the run does, `conventions` is name -> {wanted, policy}; a warning names each setting and each
    version that is not the protocol's.

    Raises:
        FoveateError: the policy was trained with other conventions than the environment or the protocol has.
    """
    check_conventions(env.conventions, policy.conventions)
    about = env.about
    settings: dict[str, Any] = {
        **about.get("settings", {}),
        "max_steps": env.max_steps,
        "replan_steps": config.replan_steps,
        "trials": config.num_trials_per_task,
        "first_scene": config.seed,
    }
    warnings = list(env.warnings)
    if config.inject_latency is not None:
        settings |= {"inject_latency": config.inject_latency, "control_hz": env.conventions.control_hz}
        if config.chunking != "queue":
            settings["chunking"] = config.chunking
        if config.inject_latency == "measured" and config.num_workers > 1:
            warnings.append(
                f"inject_latency measured, beside {config.num_workers} simulators: what they take of it counts "
                "as the policy's time; --num_workers 1 measures the policy"
            )
    told: dict[str, Any] = {
        "environment": config.env.name,
        "python": env.python,
        "versions": about.get("versions", {}),
        "protocol": config.protocol,
        "settings": settings,
        "conventions": {},
        "warnings": warnings,
    }
    if config.protocol is not None:
        protocol = PROTOCOLS[config.protocol]
        told["conventions"] = _conventions(config.protocol, protocol.conventions, policy.conventions)
        wanted = {
            "seed": protocol.seed,
            "replan_steps": protocol.replan_steps,
            "trials": protocol.trials,
            "first_scene": 0,
        }
        wanted |= {"image_size": protocol.image_size} if "image_size" in settings else {}
        warnings += [
            f"{name} is {settings[name]}, the protocol {config.protocol} has {value}"
            for name, value in wanted.items()
            if settings.get(name) != value and not (name == "trials" and config.quick)
        ]
        warnings += [
            f"step limit of {suite} is {steps}, the protocol {config.protocol} has {protocol.limits[base_of(suite)]}"
            for suite, steps in settings.get("limits", {}).items()
            if steps != protocol.limits[base_of(suite)]
        ]
        here = told["versions"].get("mujoco")
        if protocol.mujoco is not None and here != protocol.mujoco:
            warnings.append(
                f"MuJoCo is {here}, the protocol {config.protocol} pins {protocol.mujoco}: pictures or scenes may "
                f"differ, and so may scores; make libero MUJOCO={protocol.mujoco}"
            )
    return told


def _conventions(name: str, wanted: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Convention -> what the protocol wants and what the policy declares; other than what is wanted is refused."""
    found = {key: {"wanted": value, "policy": declared.get(key, NOT_DECLARED)} for key, value in wanted.items()}
    wrong = [
        f"{key}: protocol {told['wanted']!r}, policy {told['policy']!r}"
        for key, told in found.items()
        if told["policy"] not in (NOT_DECLARED, told["wanted"])
    ]
    if wrong:
        raise FoveateError(
            f"the policy was trained with other conventions than protocol {name!r} evaluates with: {'; '.join(wrong)}. "
            "Choose the protocol that the policy was made for, or correct the policy's robot.yaml."
        )
    return found


def lines(told: Mapping[str, Any]) -> list[str]:
    """The same for the screen: one line each for simulator, settings and conventions; none where it says nothing."""
    if not (told["versions"] or "inject_latency" in told["settings"]):
        return []
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items()) or told["environment"]
    settings = ", ".join(f"{name} {_short(value)}" for name, value in told["settings"].items())
    found = [f"simulator: {versions}", f"protocol {told['protocol'] or 'none'}: {settings}"]
    if told["conventions"]:
        parts = []
        for key, pair in told["conventions"].items():
            silent = f" ({NOT_DECLARED} by the policy)" if pair["policy"] == NOT_DECLARED else ""
            parts.append(f"{key} {pair['wanted']}{silent}")
        found.append(f"conventions: {', '.join(parts)}")
    return found


def write(folder: Path, told: Mapping[str, Any]) -> None:
    """Write `environment.json`, where there is something to say."""
    if lines(told):
        write_text(folder / FILE, json.dumps(told, indent=1) + "\n", "what the run was played in")


def read(folder: Path) -> dict[str, Any]:
    """What `write` wrote, under `environment`; empty where there is nothing."""
    path = folder / FILE
    return {"environment": json.loads(path.read_text())} if path.exists() else {}


def _short(value: Any) -> str:
    return (
        "/".join(f"{k.removeprefix('libero_')}:{v}" for k, v in value.items())
        if isinstance(value, Mapping)
        else str(value)
    )
