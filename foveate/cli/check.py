"""`foveate check`: hold this installation against golden numbers, or an environment against a reference scene."""

from __future__ import annotations

import argparse
from pathlib import Path


def env(argv: list[str]) -> int:
    """Print a line per convention. 0: all agree; 1: one is off."""
    parser = argparse.ArgumentParser(
        prog="foveate check env",
        description="A reference scene of LIBERO through an environment and, with --policy, the policy's processor: "
        "names the convention that is off (rotation, colours, state, gripper, deltas, crop, MuJoCo). Status 1: one is.",
    )
    parser.add_argument("name", nargs="?", default="libero", help="libero, or one's own environment as module:Class")
    parser.add_argument("--env.python", "--python", dest="python", help="its interpreter (default: found by itself)")
    parser.add_argument("--policy", "--pretrained_checkpoint", help="checkpoint folder; its processor is tried too")
    parser.add_argument("--protocol", help="openpi, oft, lightvla or lerobot (default: openpi)")
    args = parser.parse_args(argv)

    from rich.text import Text

    from foveate.evaluation.sim.check_env import check_env
    from foveate.util.progress import plain_console

    console, findings = plain_console(), check_env(args.name, args.python, args.policy, args.protocol)
    for finding in findings:
        word = ("ok ", "green") if finding.ok else ("OFF", "red")
        console.print(Text.assemble(word, " ", (finding.what, "bold"), f": {finding.told}"), soft_wrap=True)
    return int(not all(finding.ok for finding in findings))


def golden(argv: list[str]) -> int:
    """Print a line per tensor group. 0: all agree; 1: a miss; 2: something that is there was not compared."""
    parser = argparse.ArgumentParser(
        prog="foveate check golden",
        description="Compare this installation with golden numbers: a line per tensor group with its largest error and "
        "its tolerance. Exit status 0: all agree, 1: a miss, 2: something that is there was not compared.",
    )
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="holds pi0/, lightvla/, ... (whatever is there is compared)"
    )
    parser.add_argument("--device", default="cpu", help="torch device of the model: cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="number format of the weights; compare this one alone (default: both)",
    )
    parser.add_argument("--engine", default="eager", help="engine that runs the model (default: eager)")
    parser.add_argument(
        "--groups", metavar="A,B", help="compare these groups of tensors alone (default: all that are there)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table to this file as JSON too")
    args = parser.parse_args(argv)

    from foveate.errors import FoveateError
    from foveate.golden import DTYPES, check
    from foveate.util.progress import plain_console

    if not args.folder.is_dir():
        raise FoveateError(f"{args.folder}: expected a folder with golden groups (pi0/, lightvla/, ...), there is none")
    report = check(
        args.folder,
        device=args.device,
        dtypes=(args.dtype,) if args.dtype else DTYPES,
        engine=args.engine,
        groups=args.groups.split(",") if args.groups else None,
    )
    # A table that is piped or logged keeps its columns.
    report.print(plain_console(200))
    if args.json:
        report.write_json(args.json, folder=str(args.folder), device=args.device, engine=args.engine)
    return report.exit_status()
