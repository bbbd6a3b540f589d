"""`foveate view`: a local page over run folders, served read-only from this machine to itself."""
