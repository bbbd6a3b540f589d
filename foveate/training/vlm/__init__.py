"""Training of image-text models at one visual budget or several."""
