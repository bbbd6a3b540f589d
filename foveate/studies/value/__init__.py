"""Whole value-of-vision experiments: NO, COARSE or FULL, as functions that return results."""
