"""Object masks: PNG, NPZ, COCO, detectors and detection services."""
