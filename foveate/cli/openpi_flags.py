"""openpi's flags of `scripts/train_pytorch.py`, as those of `foveate train policy`."""

from __future__ import annotations

from collections.abc import Sequence

ALIASES = {
    "batch_size": "loop.batch_size",
    "num_train_steps": "loop.steps",
    "save_interval": "loop.save_every",
    "log_interval": "loop.log_every",
    "keep_period": "loop.keep_period",
    "pytorch_training_precision": "loop.precision",
    "num_workers": "data.decode_workers",
    "repo_id": "data.path",
    "data.repo_id": "data.path",
    "assets_dir": "data.assets_dir",
    "data.assets.assets_dir": "data.assets_dir",
    "asset_id": "data.asset_id",
    "data.assets.asset_id": "data.asset_id",
    "lr_schedule.peak_lr": "optim.lr",
    "lr_schedule.decay_lr": "optim.final_lr",
    "lr_schedule.warmup_steps": "optim.warmup_steps",
    "lr_schedule.decay_steps": "optim.decay_steps",
    "optimizer.clip_gradient_norm": "optim.clip_norm",
    "optimizer.weight_decay": "optim.weight_decay",
    "optimizer.eps": "optim.eps",
    "ema_decay": "optim.ema_decay",
    "wandb_enabled": "loop.wandb",
    "project_name": "loop.wandb_project",
    "model.token_prune_noise_scale": "pruner_noise.start",
    "model.token_prune_keep_tokens": "pruner.keep_tokens",
    "model.token_prune_keep_ratio": "pruner.keep_ratio",
}
"""Flag, with `_` -> field of `TrainPolicyConfig`."""
ENABLED = "model.token_pruning_enabled"
LIGHTVLA = ("--pruner", "lightvla", "--pruner.train_form", "paper", "--pruner.budget_in_training", "false")
"""As the fork has it: a slot per query in training, and limits of what is kept in evaluation alone."""
RESUME = "resume"
"""Has no effect: a run goes on from its newest checkpoint without being asked."""


def translate(argv: Sequence[str]) -> list[str]:
    """The words of a command line without those flags that are more than another name of a field.

    `--model.token_pruning_enabled True` chooses LightVLA, whose own options win; `False` takes a preset's pruner away.
    """
    words: list[str] = []
    chosen: tuple[str, ...] = ()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or (name := name.replace("-", "_")) not in (ENABLED, RESUME):
            words.append(word)
            continue
        if not equals and rest and rest[0].lower() in ("true", "false"):
            value = rest.pop(0)
        if name == ENABLED:
            chosen = ("--pruner", "null") if value.lower() == "false" else LIGHTVLA
    preset = 1 if words and not words[0].startswith("-") else 0
    return [*words[:preset], *chosen, *words[preset:]]
