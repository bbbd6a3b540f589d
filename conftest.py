"""For every test: few threads, and no test that waits for a network."""

import os

# Before torch or a simulator is imported: threads that spin while they wait would slow the processes beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which share the cores among them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
