"""A model on questions: cached passes, and the matrix of rules looked up in them."""
