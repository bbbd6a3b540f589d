"""`foveate view`: look at run folders in a browser on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.policy import LoadOptions


@dataclass(frozen=True, kw_only=True)
class ViewConfig(LoadOptions):
    """Look at run folders in a browser: pictures, kept patches, attention, numbers over time, two runs side by side."""

    runs: tuple[str, ...]
    """Run folders."""
    port: int = 8421
    """Port of the page on this machine; 0: a free one."""
    open_browser: bool = False
    """Open the page in the browser of this machine."""
    policy: str | None = None  # type: ignore[assignment]
    """Checkpoint folder or shipped policy that is asked again in causal checks; null: none is offered."""


def run(argv: list[str]) -> int:
    """The verb: serve until Ctrl-C."""
    import webbrowser
    from functools import partial
    from pathlib import Path

    from foveate.cli.config import parse
    from foveate.studies.attention.traced_frame import check_traced
    from foveate.util.progress import Reporter, plain_console
    from foveate.viz.viewer.server import serve

    config = parse(ViewConfig, argv, "foveate view", positional=("runs",), whole=("runs",))
    screen = Reporter(plain_console())
    check = None if config.policy is None else partial(check_traced, config.load(screen))

    def ready(url: str) -> None:
        screen.line(f"{url} shows {', '.join(config.runs)}; Ctrl-C ends it")
        if config.open_browser:
            webbrowser.open(url)

    serve([Path(folder) for folder in config.runs], config.port, check, ready)
    return 0
