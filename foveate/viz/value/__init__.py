"""Plots of accuracy against cost."""
