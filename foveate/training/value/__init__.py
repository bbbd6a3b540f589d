"""The two stages in which the NO, COARSE, FULL head is trained."""
