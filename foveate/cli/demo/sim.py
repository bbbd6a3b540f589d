"""`foveate demo`: the main job on the policies that ship with foveate, once with all visual tokens and once pruned."""

from __future__ import annotations

import time


def run(argv: list[str]) -> int:
    """The verb: play, trace, draw, report; prints the table and the path of the report."""
    from foveate.cli.config import parse
    from foveate.cli.eval.sim import print_results
    from foveate.studies.demo import DemoConfig, demo
    from foveate.util.progress import Reporter, plain_console

    config = parse(DemoConfig, argv, "foveate demo")
    console, begun = plain_console(), time.monotonic()
    done = demo(config, Reporter(console))
    print_results(console, done.runs)
    seconds = time.monotonic() - begun
    console.print(f"{seconds:.0f} s; report: {done.report}", soft_wrap=True, highlight=False)
    return 0
