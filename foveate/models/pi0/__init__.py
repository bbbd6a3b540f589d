"""π0 and π0.5 on plain PyTorch layers; openpi and LeRobot checkpoints."""
