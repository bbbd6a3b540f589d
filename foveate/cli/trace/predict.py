"""`foveate trace predict`: one inference without a simulator; a policy, its pictures and a prompt give a run folder."""

from __future__ import annotations


def predict(argv: list[str]) -> int:
    """The verb: infer once, and write dump, pictures, overlays, token log and report."""
    from foveate.cli.config import parse
    from foveate.cli.trace.view import exit_status
    from foveate.evaluation.predict import PredictConfig
    from foveate.evaluation.predict import predict as infer_once
    from foveate.util.progress import Reporter, plain_console

    aliases = {"checkpoint": "policy", "pretrained_checkpoint": "policy", "denoising_steps": "num_steps"}
    aliases |= {"instruction": "prompt", "unnorm_key": "asset_id"}
    config = parse(PredictConfig, argv, "foveate trace predict", aliases=aliases, whole=("image",))
    screen = Reporter(plain_console())
    done = infer_once(config, screen)
    screen.line(f"actions: {list(done.chunk.actions.shape)} in {done.folder / 'actions.json'}")
    screen.line(f"report: {done.report}")
    return exit_status(screen, done.damaged)
