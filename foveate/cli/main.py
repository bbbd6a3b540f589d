"""The `foveate` command: a table of verbs, each imported only when it is called.

Nothing heavy is imported here, so `foveate --help` answers at once. A verb is a function that takes the
remaining arguments and returns the exit status. Exit statuses: 0 done, 1 a `FoveateError` (its text is on
stderr), 2 no such verb, 3 done but damaged files were passed over, 130 interrupted, 143 told to
end (SIGTERM); `check golden` has its own.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from foveate import __version__
from foveate.errors import FoveateError

# Words of the command line -> (module, function, one line of help).
VERBS: dict[tuple[str, ...], tuple[str, str, str]] = {
    ("demo",): (
        "foveate.cli.demo.sim",
        "run",
        "the main job on the shipped policy: full against pruned, with a report",
    ),
    ("demo", "vqa"): ("foveate.cli.value.verbs", "demo", "value of vision on the shipped tiny model, with its curve"),
    ("eval", "sim"): ("foveate.cli.eval.sim", "sim", "score a policy in a simulator, traced if asked"),
    ("eval", "vqa"): (
        "foveate.cli.value.verbs",
        "evaluate",
        "value of vision: every baseline and lambda from three passes",
    ),
    ("sweep", "pareto"): (
        "foveate.cli.value.verbs",
        "pareto",
        "accuracy against cost: the learned head over lambda",
    ),
    ("sweep", "threshold"): ("foveate.cli.value.verbs", "threshold", "accuracy against cost: uncertainty thresholds"),
    ("sweep", "pruning"): (
        "foveate.cli.sweep",
        "pruning",
        "tokens kept against accuracy; with --env every method in closed loop",
    ),
    ("sweep", "seeds"): ("foveate.cli.value.verbs", "seeds", "mean and deviation over runs of several seeds"),
    ("sweep", "oracle"): (
        "foveate.cli.value.verbs",
        "oracle",
        "the cheapest action that is right, question by question",
    ),
    ("fit",): ("foveate.cli.fit", "run", "which pruning does my checkpoint bear? recorded episodes, no simulator"),
    ("trace", "predict"): (
        "foveate.cli.trace.predict",
        "predict",
        "a policy, images, a prompt: a full run folder",
    ),
    ("trace", "plot"): ("foveate.cli.trace.view", "plot", "draw the overlays of a run folder"),
    ("trace", "tokens"): ("foveate.cli.trace.view", "tokens", "write the token log of a run folder"),
    ("trace", "report"): ("foveate.cli.trace.view", "report", "write the HTML report of a run folder"),
    ("trace", "rerun"): ("foveate.cli.trace.view", "rerun", "write a Rerun recording of a run folder"),
    ("view",): ("foveate.cli.view", "run", "look at run folders in a browser: pictures, attention, numbers over time"),
    ("attn", "frame"): ("foveate.cli.attn.scene", "frame", "where one inference looked: maps and pictures, by head"),
    ("attn", "prompts"): ("foveate.cli.attn.scene", "prompts", "one scene under several prompts: do words steer it"),
    ("attn", "episodes"): ("foveate.cli.attn.episodes", "episodes", "maps, pictures and videos of a DROID-format tree"),
    ("attn", "render"): ("foveate.cli.attn.episodes", "render", "draw stored maps again, without the model"),
    ("attn", "video"): ("foveate.cli.attn.episodes", "video", "one video per layer and head from drawn pictures"),
    ("attn", "fidelity"): ("foveate.cli.attn.fidelity", "fidelity", "is the map true? cover what it marks and compare"),
    ("attn", "objects"): ("foveate.cli.attn.objects", "objects", "how much attention lies on objects, against chance"),
    ("data", "metaworld-demos"): (
        "foveate.cli.data.demos",
        "metaworld_demos",
        "record demonstrations of Meta-World's scripted experts",
    ),
    ("data", "libero-demos"): (
        "foveate.cli.data.demos",
        "libero_demos",
        "record demonstrations of an own expert in LIBERO",
    ),
    ("data", "convert"): (
        "foveate.cli.data.convert",
        "run",
        "DROID, LeRobot, demos, LIBERO's HDF5: one as another",
    ),
    ("data", "vqa-train"): ("foveate.cli.data.vqa", "run", "training questions from published sets, without leaks"),
    ("convert", "jax-to-torch"): (
        "foveate.cli.convert.jax_to_torch",
        "run",
        "openpi's JAX checkpoint as a PyTorch folder, LoRA merged",
    ),
    ("convert", "lerobot-to-openpi"): (
        "foveate.cli.convert.lerobot",
        "to_openpi",
        "LeRobot's π0 or π0.5 policy in openpi's layout",
    ),
    ("convert", "openpi-to-lerobot"): (
        "foveate.cli.convert.lerobot",
        "to_lerobot",
        "π0 or π0.5 in openpi's layout as a LeRobot policy",
    ),
    ("norm-stats",): ("foveate.cli.norm_stats", "run", "openpi's norm_stats.json of a LeRobot data set, in one pass"),
    ("train", "policy"): ("foveate.cli.train", "policy", "train or fine-tune a policy, pruned or not"),
    ("train", "plan"): ("foveate.cli.train", "plan", "will a training fit into memory, and how is it started"),
    ("train", "looking"): (
        "foveate.cli.train",
        "looking",
        "train the head that chooses NO, COARSE or FULL per camera and step",
    ),
    ("train", "vlm"): ("foveate.cli.train", "vlm", "train an image-text model on questions, at several levels"),
    ("train", "value"): (
        "foveate.cli.value.verbs",
        "train",
        "train the head that chooses NO, COARSE or FULL on cached passes",
    ),
    ("value", "buckets"): (
        "foveate.cli.value.verbs",
        "buckets",
        "action ratios of a run, for the matched random rule",
    ),
    ("value", "tables"): ("foveate.cli.value.verbs", "tables", "main table, curve and action ratios of several runs"),
    ("value", "ablate"): ("foveate.cli.value.verbs", "ablate", "inputs, objectives, lambda and actions: one table"),
    ("value", "paper"): ("foveate.cli.value.verbs", "paper", "the eight steps of the full experiment, resumable"),
    ("check", "env"): ("foveate.cli.check", "env", "is it your environment? which convention of LIBERO is off"),
    ("check", "golden"): ("foveate.cli.check", "golden", "compare this installation with golden numbers"),
    ("engine", "plan"): ("foveate.cli.engine", "plan", "choose prefix lengths for static shapes, out of traced runs"),
    ("engine", "calibrate"): ("foveate.cli.engine", "calibrate", "scales for a prefill in float8, from recordings"),
    ("engine", "check"): ("foveate.cli.engine", "check", "hold an engine against eager float32 on this machine"),
    ("inspect",): ("foveate.cli.inspect", "run", "what a checkpoint is, and what is missing to run it"),
    ("bench", "trace"): ("foveate.cli.bench.trace", "trace", "what tracing costs, interleaved in one run"),
    ("bench", "latency"): (
        "foveate.cli.bench.latency",
        "latency",
        "where an inference spends its time, and what would help",
    ),
    ("bench", "loader"): ("foveate.cli.bench.loader", "loader", "samples per second of a LeRobot data set"),
    ("bench", "components"): (
        "foveate.cli.bench.components",
        "components",
        "success, Hz and milliseconds by component over denoising steps",
    ),
    ("serve",): ("foveate.cli.serve", "run", "a policy for robots over openpi's protocol"),
    ("doctor",): ("foveate.cli.doctor", "run", "what works on this machine, and what to install for the rest"),
}


def usage(group: str | None = None) -> str:
    """The help text of the whole command, or of one group of verbs (`trace`)."""
    rows = [(" ".join(words), line) for words, (_, _, line) in VERBS.items() if group in (None, words[0])]
    width = max(len(name) for name, _ in rows)
    body = "\n".join(f"  {name:<{width}}  {line}" for name, line in rows)
    if group is not None:
        return f"usage: foveate {group} VERB [options]\n\n{body}\n\n`foveate {group} VERB --help` lists the options."
    return (
        f"foveate {__version__}: see sharply only where it matters\n\nusage: foveate VERB [options]\n\n{body}\n\n"
        "`foveate VERB --help` lists the options; every verb takes `--config FILE.yaml` (repeatable) where it has a "
        "configuration."
    )


def split_verb(argv: Sequence[str]) -> tuple[tuple[str, ...], list[str]] | None:
    """The verb at the start of the command line and what follows it; None where there is no such verb."""
    for length in (2, 1):
        words = tuple(word.replace("_", "-") for word in argv[:length])
        if words in VERBS:
            return words, list(argv[length:])
    return None


def resolve(words: tuple[str, ...]) -> Callable[[list[str]], int]:
    """Import a verb's function."""
    module, function, _ = VERBS[words]
    return getattr(importlib.import_module(module), function)


def _wrong_verb(argv: Sequence[str]) -> int:
    groups = {words[0] for words in VERBS if len(words) == 2}
    if argv[0] in groups:
        rest = argv[1] if len(argv) > 1 else ""
        if rest in ("", "-h", "--help"):
            print(usage(argv[0]), file=sys.stdout if rest else sys.stderr)
            return 0 if rest else 2
        said, known = f"{argv[0]} {rest}", [" ".join(words) for words in VERBS if words[0] == argv[0]]
    else:
        said, known = argv[0], [" ".join(words) for words in VERBS] + sorted(groups)
    # `foveate trce plot` is nearest to "trace plot" when both words are looked at.
    near = difflib.get_close_matches(" ".join(argv[:2]), known, 1) or difflib.get_close_matches(said, known, 1)
    hint = f"did you mean `foveate {near[0]}`?" if near else "`foveate --help` lists the verbs"
    print(f"foveate: unknown verb {said!r}; {hint}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"foveate {__version__}")
        return 0
    found = split_verb(argv)
    if found is None:
        return _wrong_verb(argv)
    words, rest = found
    if not sys.stderr.isatty():
        # A bar that libraries redraw fills a log file with its copies.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with _ended_by_sigterm():
            return resolve(words)(rest)
    except FoveateError as error:
        print(f"foveate {' '.join(words)}: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        from foveate.util.files import full_disk

        if (full := full_disk(error)) is None:
            raise
        print(f"foveate {' '.join(words)}: {full}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"foveate: {'told to end (SIGTERM)' if isinstance(stop, Terminated) else 'interrupted'}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130


class Terminated(KeyboardInterrupt):
    """SIGTERM: what has begun is put in order as after Ctrl-C."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """`Terminated` at the first SIGTERM; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
