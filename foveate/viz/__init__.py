"""Pictures, videos and reports from arrays and run folders. No model, no torch."""
