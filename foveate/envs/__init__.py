"""Environments: simulators behind one interface, each in a process of its own. No torch here."""

from foveate.envs.base import Env, EnvConventions, EnvCrash, Snapshot, StepResult, check_conventions, make_env
from foveate.envs.worker import WorkerEnv

__all__ = ["Env", "EnvConventions", "EnvCrash", "Snapshot", "StepResult", "WorkerEnv", "check_conventions", "make_env"]
