"""What one inference saw and kept: attention rows, dumps, token log, and their schema."""
