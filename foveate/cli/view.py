"""`foveate view`: look at run folders in a browser on this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Look at run folders in a browser: pictures, kept patches, attention, numbers over time, two runs side by side."""

    runs: tuple[str, ...]
    """Run folders."""
    port: int = 8421
    """Port of the page on this machine; 0: a free one."""
    open_browser: bool = False
    """Open the page in the browser of this machine."""


def run(argv: list[str]) -> int:
    """The verb: serve until Ctrl-C."""
    import webbrowser
    from pathlib import Path

    from foveate.cli.config import parse
    from foveate.util.progress import Reporter, plain_console
    from foveate.viz.viewer.server import serve

    config = parse(ViewConfig, argv, "foveate view", positional=("runs",), whole=("runs",))
    screen = Reporter(plain_console())

    def ready(url: str) -> None:
        screen.line(f"{url} shows {', '.join(config.runs)}; Ctrl-C ends it")
        if config.open_browser:
            webbrowser.open(url)

    serve([Path(folder) for folder in config.runs], config.port, on_ready=ready)
    return 0
