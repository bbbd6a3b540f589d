"""`foveate data`: demonstrations and training questions."""
