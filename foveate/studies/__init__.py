"""Whole experiments as functions that return results."""
