"""For every test: few threads, and no test that waits for a network."""

import os

# Before torch or a simulator is imported: threads that spin while they wait would slow the processes beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
