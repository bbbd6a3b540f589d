"""`foveate check`: hold this installation against golden numbers, or an environment against a reference scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class CheckEnvConfig:
    """A reference scene of LIBERO through an environment and, with --policy, the policy's processor.

    Names the convention that is off (rotation, colours, state, gripper, deltas, crop, MuJoCo). Exit status 1: one is.
    """

    name: str = "libero"
    """`libero`, or one's own environment as `module:Class`."""
    python: str | None = None
    """The environment's interpreter; null: it is found by itself."""
    policy: str | None = None
    """Checkpoint folder; its processor is tried too."""
    protocol: str | None = None
    """`openpi`, `oft`, `lightvla` or `lerobot`; null: openpi."""


@dataclass(frozen=True)
class CheckGoldenConfig:
    """Compare this installation with golden numbers: a line per tensor group, its largest error and its tolerance.

    Exit status 0: all agree; 1: a miss; 2: something that is there was not compared.
    """

    folder: Path
    """Holds pi0/, lightvla/, ...; whatever is there is compared."""
    device: str = "cpu"
    """Torch device of the model: cpu, cuda, cuda:1."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the weights; null: both."""
    engine: str = "eager"
    """Engine that runs the model."""
    groups: tuple[str, ...] | None = None
    """Groups of tensors that are compared; null: all that are there."""
    json: Path | None = None
    """File that the table is written to as JSON too."""


def env(argv: list[str]) -> int:
    """Print a line per convention. 0: all agree; 1: one is off."""
    from rich.text import Text

    from foveate.cli.config import parse

    aliases = {"env.python": "python", "pretrained_checkpoint": "policy"}
    config = parse(CheckEnvConfig, argv, "foveate check env", aliases=aliases, positional=("name",))

    from foveate.evaluation.sim.check_env import check_env
    from foveate.util.progress import plain_console

    console = plain_console()
    findings = check_env(config.name, config.python, config.policy, config.protocol)
    for finding in findings:
        word = ("ok ", "green") if finding.ok else ("OFF", "red")
        console.print(Text.assemble(word, " ", (finding.what, "bold"), f": {finding.told}"), soft_wrap=True)
    return int(not all(finding.ok for finding in findings))


def golden(argv: list[str]) -> int:
    """Print a line per tensor group. 0: all agree; 1: a miss; 2: something that is there was not compared."""
    from foveate.cli.config import parse

    config = parse(CheckGoldenConfig, argv, "foveate check golden", positional=("folder",))

    from foveate.errors import FoveateError
    from foveate.golden import DTYPES, check
    from foveate.util.progress import plain_console

    folder = config.folder
    if not folder.is_dir():
        raise FoveateError(f"{folder}: expected a folder with golden groups (pi0/, lightvla/, ...), there is none")
    report = check(
        folder,
        device=config.device,
        dtypes=(config.dtype,) if config.dtype else DTYPES,
        engine=config.engine,
        groups=config.groups,
    )
    # A table that is piped or logged keeps its columns.
    report.print(plain_console(200))
    if config.json:
        report.write_json(config.json, folder=str(folder), device=config.device, engine=config.engine)
    return report.exit_status()
