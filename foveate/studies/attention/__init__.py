"""Attention of episodes: maps, videos, fidelity and objects, resumable."""
