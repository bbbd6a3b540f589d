"""lerobot's own loader, timed: `python lerobot_peer.py SET WORKERS SAMPLES BATCH` in an interpreter that has lerobot.

Prints one line of JSON. Nothing of foveate is imported.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time


def main(root: str, workers: int, samples: int, batch: int) -> None:
    import torch

    # Beside a torch of another version, torchvision's compiled operators cannot be registered; none is used here.
    register = torch.library.register_fake

    def skip(name, *args, **kwargs):
        return (lambda f: f) if str(name).startswith("torchvision::") else register(name, *args, **kwargs)

    torch.library.register_fake = skip
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/set", root=root, video_backend="pyav")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[: samples // batch * batch]
    loader = torch.utils.data.DataLoader(
        dataset, batch, sampler=order.tolist(), num_workers=workers, persistent_workers=True
    )
    batches = iter(loader)
    next(batches)
    begun, count = time.perf_counter(), 0
    for found in batches:
        count += len(found["index"])
    seconds = time.perf_counter() - begun
    print(json.dumps({"version": importlib.metadata.version("lerobot"), "samples": count, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
