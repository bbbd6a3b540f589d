"""Success in simulators, accuracy and cost on questions about images."""
