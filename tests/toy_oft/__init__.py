"""A model family of the tests, shaped like OpenVLA-OFT: nothing in foveate knows it but through `registry.register`.

Full attention over one sequence of pictures, text and action placeholders; the actions are read off the placeholders
by a head, in one pass and without noise.
"""
