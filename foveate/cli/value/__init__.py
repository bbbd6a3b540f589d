"""`foveate value` and `foveate sweep`: the experiments about NO, COARSE and FULL."""
