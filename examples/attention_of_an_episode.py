"""Where does a policy look in the course of an episode, and do its actions hang on it?

python examples/attention_of_an_episode.py            # on a CPU, under a minute; needs the extra `sim`

Plays and records an episode, computes the attention of every 16th frame (maps, pictures, videos), and covers what the
maps mark to see which layer's map is true.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from foveate.evaluation.sim.evaluate import evaluate
from foveate.evaluation.sim.simulate import SimConfig
from foveate.studies.attention.episodes import EpisodesConfig, attend_episodes
from foveate.studies.attention.fidelity import FidelityConfig, study_fidelity
from foveate.studies.attention.redraw import rank_over

POLICY = "metaworld_tiny"


def main() -> None:
    """Record, attend, cover."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="drawer-close")
    parser.add_argument("--out", type=Path, default=Path("runs/attention_of_an_episode"))
    options = parser.parse_args()
    out = options.out
    evaluate(
        SimConfig(policy=POLICY, task_suite_name=options.task, num_trials_per_task=1, record="droid", out=f"{out}/run")
    )
    shared = {"policy": POLICY, "data_root": str(out / "run/droid"), "keyframe_interval": 16}
    maps, videos = out / "maps", out / "videos"
    outcomes = attend_episodes(
        EpisodesConfig(**shared, layers=(0, 1, 2), detail=False, out=str(maps), video_out=str(videos))
    )
    print(f"{'layer':>5} {'head':>4}  most active heads, variance of the map")
    for head in rank_over(maps, [outcome.episode for outcome in outcomes])["all"]["prefix"][:5]:
        print(f"{head['layer']:5} {head['head']:4}  {head['activity']:.2e}")
    fidelity = study_fidelity(
        FidelityConfig(**shared, views=("both",), draws=3, frames_per_episode=2, curve_points=0, out=f"{out}/fidelity")
    )
    print(f"{'layer':>5}  actions change this much more by covering what the map marks than elsewhere (SI-MSE)")
    for layer in fidelity.result["rankings"]["both"]:
        print(f"{layer['layer']:5}  {layer['mean']:+.4f}")
    print(f"pictures: {maps}\nvideos:   {videos}\nreport:   {fidelity.folder / 'index.html'}")


if __name__ == "__main__":
    main()
