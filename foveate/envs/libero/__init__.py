"""LIBERO: a Franka arm in robosuite, five suites and their perturbed forms, two views.

    env = LiberoEnv(("libero_object/0",))
    observation = env.reset("libero_object/0", seed=3)    # initial state 3 of those that LIBERO ships

`env` is the simulator behind foveate's interface, `install` finds the package, `suites` knows names and prompts,
`protocol` how others evaluate, `cameras` renders only what is looked at, `reference` says whether this machine shows
the scenes that it should. None of them imports the simulator before it is needed.
"""

from foveate.envs.libero.env import LiberoEnv, axis_angle

__all__ = ["LiberoEnv", "axis_angle"]
