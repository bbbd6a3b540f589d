"""LeRobot data sets v2.0, v2.1 and v3.0: reader, loader, statistics and writer, without the lerobot package."""
