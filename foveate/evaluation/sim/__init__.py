"""A policy in simulators: episodes, results, controls."""
