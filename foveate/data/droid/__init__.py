"""DROID-format episodes: reader and writer."""
