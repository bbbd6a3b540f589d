"""`foveate attn frame|prompts`: where one inference looked, and whether other words move its eyes.

foveate attn frame --policy metaworld_tiny --image corner=a.png gripperPOV=b.png --prompt "push the puck" --out look
foveate attn frame --policy pi05_droid --episode success/2025-12-10/2025-12-10_10-11-12 --frame 8 --out look
foveate attn prompts --policy pi05_droid --episode DIR --prompt "take the red cube" "take the blue cube" --out two
"""

from __future__ import annotations

from foveate.cli.attn.output import POLICY, print_table
from foveate.util.progress import Reporter, plain_console
from foveate.util.words import percent


def frame(argv: list[str]) -> int:
    """The verb: maps and pictures of one inference."""
    from foveate.cli.config import parse
    from foveate.studies.attention.frame import FrameConfig, attend_frame

    screen = Reporter(plain_console())
    done = attend_frame(parse(FrameConfig, argv, "foveate attn frame", aliases=POLICY, whole=("image",)), screen)
    views = list(done.rows[0]["mass"])
    print_table(
        screen,
        f"where it looked: {done.prompt}",
        ["phase", "layer", "most active head", *(f"on {view}" for view in views)],
        [
            [r["phase"], r["layer"], r["most_active_head"], *(percent(r["mass"][v], 1) for v in views)]
            for r in done.rows
        ],
    )
    screen.line("shares: of the attention of text or actions, mean over heads; the rest lies on text and actions")
    screen.line(f"pictures and maps.npz: {done.folder}")
    return 0


def prompts(argv: list[str]) -> int:
    """The verb: one scene under several prompts."""
    from foveate.cli.config import parse
    from foveate.studies.attention.prompts import PromptsConfig, compare_prompts

    screen = Reporter(plain_console())
    whole = ("image", "prompt")
    done = compare_prompts(parse(PromptsConfig, argv, "foveate attn prompts", aliases=POLICY, whole=whole), screen)
    distances = ("l2", "relative_l2", "correlation")
    print_table(
        screen,
        "do the words steer the eyes",
        ["phase", "layer", "prompts", "L2", "relative L2", "correlation", "farthest head"],
        [
            [r["phase"], r["layer"], "-".join(map(str, r["prompts"])), *map(_text, (r[name] for name in distances)),
             r["farthest_head"]]
            for r in done.rows
        ],
    )  # fmt: skip
    for i, prompt in enumerate(done.prompts):
        screen.line(f"{i}: {prompt}")
    screen.line("means over heads; relative L2: 0 the same map, 1.41 no overlap")
    for pair, value in done.action_rms.items():
        screen.line(f"actions {pair}: RMS difference {value:.4g} under the same noise")
    screen.line(f"pictures, prompts.json and maps.npz: {done.folder}")
    return 0


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
