"""Questions about images: published sets, JSONL, and a set whose right level is known."""
