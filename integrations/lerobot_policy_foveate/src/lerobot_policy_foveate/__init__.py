"""Imported by lerobot; registers the policy type `foveate`."""

from foveate.integrations.lerobot import FoveateConfig, FoveatePolicy, make_foveate_pre_post_processors

__all__ = ["FoveateConfig", "FoveatePolicy", "make_foveate_pre_post_processors"]
