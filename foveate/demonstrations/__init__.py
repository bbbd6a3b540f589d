"""Scripted experts in the simulator, and what they record."""
