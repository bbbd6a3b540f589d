"""The flags of OpenVLA-OFT's and LightVLA's `run_libero_eval`, and of openpi's LIBERO client, for `foveate eval sim`.

Those with a counterpart are other names of it (`ALIASES`). Of the rest, what foveate does anyway may be said and
changes nothing; all else is refused, with what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from foveate.errors import FoveateError

ALIASES = {
    "pretrained_checkpoint": "policy",
    "num_open_loop_steps": "replan_steps",
    "unnorm_key": "asset_id",
    "env_img_res": "env.image_size",
    "args.task_suite_name": "task_suite_name",
    "args.num_trials_per_task": "num_trials_per_task",
    "args.replan_steps": "replan_steps",
    "args.seed": "env.seed",
}
"""Their flag -> the option of `foveate eval sim`."""


class Fixed(NamedTuple):
    """A flag without a counterpart."""

    is_so: str | None
    """The value that is so anyway; None: there is none."""
    instead: str


NOWHERE = "foveate sends results nowhere; they are in the run folder (results.csv, summary.json, report/index.html)"
FOLDER = "everything goes into the run folder: --out DIR, or --trace_out_dir DIR for a traced run"
FIXED = {
    "model_family": Fixed("openvla", "the checkpoint folder says which family it is"),
    "use_l1_regression": Fixed("true", "of OpenVLA-OFT's heads foveate builds the L1 regression alone"),
    "use_diffusion": Fixed("false", "of OpenVLA-OFT's heads foveate builds the L1 regression alone"),
    "num_diffusion_steps_train": Fixed(None, "there is no diffusion head to set; leave it out"),
    "num_diffusion_steps_inference": Fixed(None, "there is no diffusion head to set; leave it out"),
    "use_film": Fixed("false", "FiLM is not built; use a checkpoint that was trained without it"),
    "num_images_in_input": Fixed("2", "the policy takes the agent's view and the wrist's, as published for LIBERO"),
    "use_proprio": Fixed("true", "the policy has its proprio projector; one without is not built"),
    "center_crop": Fixed("true", "pictures are cropped to nine tenths of their area, as the policies were trained"),
    "lora_rank": Fixed("32", "the rank stands in the adapter; published folders are merged, --lora_adapter DIR merges"),
    "load_in_8bit": Fixed("false", "weights are not quantised; --dtype bfloat16 halves them"),
    "load_in_4bit": Fixed("false", "weights are not quantised; --dtype bfloat16 halves them"),
    "num_steps_wait": Fixed(
        "10", "every protocol settles 10 steps; --protocol openpi|oft|lightvla|lerobot has the rest"
    ),
    "initial_states_path": Fixed("default", "the shipped initial states are played; --seed K begins with state K"),
    "run_id_note": Fixed(None, "name the run with --variant NAME, and its folder with --out DIR"),
    "local_log_dir": Fixed(None, FOLDER),
    "save_rollout_video": Fixed("false", "--record video films every episode into the run folder"),
    "args.resize_size": Fixed("224", "the policy's side makes pictures as large as the model needs them"),
    "args.num_steps_wait": Fixed("10", "every protocol settles 10 steps"),
    "args.video_out_path": Fixed(None, "--record video films every episode into the run folder, --out DIR"),
    "use_wandb": Fixed("false", NOWHERE),
    "wandb_entity": Fixed(None, NOWHERE),
    "wandb_project": Fixed(None, NOWHERE),
}
"""Their flag -> what stands in its place."""


SERVER = {"args.host": "127.0.0.1", "args.port": "8000"}
"""Where openpi's LIBERO client finds its server -> the value of the one where the other is given alone."""


def carry_over(argv: Sequence[str]) -> list[str]:
    """The command line without the flags that say what is so anyway, and a server's address as the policy.

    Raises:
        FoveateError: a flag asks for what foveate does not do.
    """
    left, words = [], list(argv)
    server: dict[str, str] = {}
    while words:
        word = words.pop(0)
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if word.startswith("--") and name in SERVER:
            if not equals and not words:
                raise FoveateError(f"--{name} needs a value")
            server[name] = value if equals else words.pop(0)
            continue
        if not word.startswith("--") or name not in FIXED:
            left.append(word)
            continue
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        is_so, instead = FIXED[name]
        if is_so is None or value.strip("'\"").lower() != is_so:
            whose = "openpi's" if name.startswith("args.") else "run_libero_eval's"
            raise FoveateError(f"--{name} {value}: {whose} flag has no counterpart here; {instead}")
    if server:
        host, port = ({**SERVER, **server}[name] for name in SERVER)
        left += ["--policy", f"ws://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"]
    return left
