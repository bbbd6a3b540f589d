"""Training of policies on demonstrations: one run for all families, and each family's recipe in a folder of its own."""
