"""`foveate eval`: simulators and questions about images."""
