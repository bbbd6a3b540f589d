"""`foveate convert jax-to-torch`: openpi's JAX checkpoints as PyTorch folders."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    """The verb: convert, say what was found and what is unused."""
    from foveate.cli.config import parse
    from foveate.convert.jax_to_torch import JaxToTorchConfig, jax_to_torch, summary
    from foveate.util.progress import Reporter, plain_console

    config = parse(JaxToTorchConfig, argv, "foveate convert jax-to-torch", positional=("checkpoint_dir", "output_path"))
    report = Reporter(plain_console())
    result = jax_to_torch(config, report)
    if config.inspect_only:
        for name, (shape, dtype) in result.arrays.items():
            report.line(f"{name} {list(shape)} {dtype}")
    for line in summary(result):
        report.line(line)
    for note in result.notes:
        report.warn(note)
    if result.tensors:
        report.line(f"{result.tensors} tensors as {config.precision}: {config.output_path}")
    return 0
