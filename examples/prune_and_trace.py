"""What does a pruner drop? One moment of a simulated task, seen with all visual tokens and with few.

python examples/prune_and_trace.py                    # on a CPU, seconds; needs the extra `sim`

Prints tokens, work and how far the actions move for three variants, and draws what the trained pruner kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from foveate import load_policy
from foveate.envs.metaworld.env import MetaWorldEnv
from foveate.geometry import patch_axes
from foveate.policy import TraceOptions
from foveate.util.noise import action_noise

VARIANTS = {
    "all tokens": ("metaworld_tiny", "none"),
    "every 4th token": ("metaworld_tiny", {"name": "stride", "keep_ratio": 0.25}),
    "lightvla": ("metaworld_tiny_lightvla", "checkpoint"),
}
"""Policy, and the pruner that it is loaded with."""


def main() -> None:
    """Observe once; infer with every variant from the same noise; print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/prune_and_trace"))
    options = parser.parse_args()
    env = MetaWorldEnv(["drawer-open"])
    observation = env.reset("drawer-open", 0)
    env.close()
    print(f"{observation.prompt}\n{'':16} tokens  MFLOP  actions move by (RMS)")
    reference = None
    for name, (path, pruner) in VARIANTS.items():
        policy = load_policy(path, pruner=pruner)
        chunk = policy.infer(observation, action_noise(policy.spec.noise_shape, 0), evidence=TraceOptions(routing=True))
        keep = chunk.trace.keep["keep_mask"]
        mflop = 1e3 * policy.flops(len(policy.spec.views), chunk.trace.seq_lens["post_seq_len"])["total"]
        reference = chunk.actions if reference is None else reference
        moved = np.sqrt(((chunk.actions - reference) ** 2).mean())
        print(f"{name:16} {keep.sum():3d}/{keep.size}  {mflop:5.0f}  {moved:.3f}")
    options.out.mkdir(parents=True, exist_ok=True)
    size, grids = policy.spec.image_size, dict(zip(policy.spec.cameras, policy.spec.grids, strict=True))
    for view, part in chunk.trace.layout.view_slices.items():
        image = observation.images[view]
        row, column = patch_axes(grids[view], image.shape[:2], (size, size), crop=policy.spec.crop)
        kept = keep[part].reshape(grids[view])[row[:, None], column]
        Image.fromarray(np.where(kept[..., None], image, image // 5)).save(options.out / f"{view}.png")
    print(f"what lightvla kept: {options.out}")


if __name__ == "__main__":
    main()
