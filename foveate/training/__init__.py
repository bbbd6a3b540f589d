"""The training loop, checkpoints and schedules; for policies, image-text models and the head."""
