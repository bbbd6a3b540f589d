"""`foveate trace`: one traced inference, and what is drawn from traced runs."""
