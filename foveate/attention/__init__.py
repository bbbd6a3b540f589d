"""Attention maps as arrays: measures, causal tests and overlap with objects. NumPy alone, no files."""
