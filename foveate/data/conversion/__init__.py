"""Recordings of robots from one format to another: DROID trees, LeRobot, foveate's demos, LIBERO's HDF5."""
