"""How a model is run: the stages of one inference, each timed."""
