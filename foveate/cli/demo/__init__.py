"""`foveate demo`: the main jobs on what ships."""
