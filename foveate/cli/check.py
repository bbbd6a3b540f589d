"""`foveate check golden DIR`: hold this installation against a folder of golden numbers."""

from __future__ import annotations

import argparse
from pathlib import Path


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
