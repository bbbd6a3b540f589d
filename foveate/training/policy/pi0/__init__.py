"""Flow-matching training of π0 and π0.5, with and without a pruner."""
