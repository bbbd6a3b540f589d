"""The version of the package; a file of its own, so that low rooms can tell it."""

__version__ = "0.1.0"
