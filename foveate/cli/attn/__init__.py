"""`foveate attn`: where a policy looks, and whether it is true."""
