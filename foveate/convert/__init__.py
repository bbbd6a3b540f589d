"""Checkpoints from one layout into another: JAX/orbax, openpi's PyTorch, LeRobot."""
