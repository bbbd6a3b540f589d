"""`foveate bench`: what costs time, measured in one run."""
