"""Pruning methods side by side in closed loop, at equal budgets and on the same scenes."""
