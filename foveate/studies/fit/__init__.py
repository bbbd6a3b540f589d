"""Which pruning does a checkpoint bear? All methods and budgets on recorded episodes, without a simulator."""
