"""What a look at a view is worth to a robot: gains on recorded episodes, and a head that predicts them."""
