"""Training questions from published sets: `train.jsonl` and, of a set that is evaluated on too, `eval.jsonl`.

MMBench publishes answers of its dev split alone, so that split must serve both: its pictures are shared out by hash,
with all their questions and rotations. Questions whose picture occurs in a set that training must not know stay out,
and so do those whose picture is not there or cannot be decoded: training would stop at them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveate.data.vqa.jsonl import SUFFIXES
from foveate.data.vqa.jsonl import load as load_jsonl
from foveate.data.vqa.leakage import Leakage, Seen, compare, seen
from foveate.data.vqa.load import load_vqa
from foveate.errors import FoveateError
from foveate.types import VQASample
from foveate.util.files import write_bytes, write_text
from foveate.util.pictures import fault, is_file


@dataclass(frozen=True)
class VqaTrainConfig:
    """Build the training questions of `configs/train_mmbench_llava_textvqa.yaml`, without leaks."""

    out: str = "data/vqa_train"
    """Folder to write: train.jsonl, eval.jsonl, images/, data.json."""
    root: str | None = None
    """Folder with the files of the published sets; null: the hub."""
    sets: tuple[str, ...] = ("mmbench:dev", "textvqa:train")
    """Sets to train on, as NAME:SPLIT, or JSONL files."""
    eval_sets: tuple[str, ...] = ("mmbench",)
    """Sets among `sets` whose pictures are divided between train.jsonl and eval.jsonl."""
    eval_share: float = 0.5
    """Share of the pictures of `eval_sets` that goes to eval.jsonl."""
    llava: str | None = None
    """A JSON file of LLaVA's form (a list with `image` and `conversations`) to train on too."""
    llava_images: str | None = None
    """Folder of the pictures of `llava`; null: the folder of that file."""
    against: tuple[str, ...] = ("mmmu:validation", "textvqa:validation")
    """Sets that training must not know, as NAME:SPLIT: questions with a picture of theirs are left out."""
    max_per_set: int | None = None
    """Largest number of questions of each set, evenly over it; null: all."""
    seed: int = 0
    """Random seed that decides which pictures go to eval.jsonl."""

    def __post_init__(self) -> None:
        if not 0 <= self.eval_share < 1:
            raise FoveateError(f"eval_share: expected a share in [0, 1), got {self.eval_share}")
        names = [name.partition(":")[0] for name in self.sets]
        if strange := [name for name in self.eval_sets if name not in names]:
            raise FoveateError(f"eval_sets: {strange[0]!r} is not among the sets ({', '.join(names)})")
        if not self.sets and not self.llava:
            raise FoveateError("sets: expected one at least, as NAME:SPLIT, or a file with --llava")


def build(
    config: VqaTrainConfig, progress: Callable[[Sequence[VQASample], str], Iterable[VQASample]]
) -> dict[str, Any]:
    """Write the files and return what `data.json` holds: counts per set, what was left out, the leaks that remain.

    Args:
        progress: wraps the questions of a set while they are written; gets them and the set's name.
    Raises:
        FoveateError: a set cannot be read, none of its pictures is there, or no question is left to train on.
    """
    out = Path(config.out)
    missing: dict[str, list[str]] = {}

    def load(name: str) -> list[VQASample]:
        samples = _load(name, config)
        missing[name] = _missing_pictures(name, samples)
        return samples

    names = (*config.sets, *(["llava"] if config.llava else []))
    # Lists of pictures' paths are short and are read first: a wrong folder is told before anything is written.
    listed = {name: load(name) for name in names if name == "llava" or name.endswith(SUFFIXES)}
    # Of published sets one at a time is in memory; of those that are done the hashes stay.
    forbidden = {name: [seen(sample) for sample in load(name)] for name in config.against}
    known = {image for asked in forbidden.values() for _, image, _ in asked if image}
    lines: dict[str, list[str]] = {"train": [], "eval": []}
    kept: dict[str, list[Seen]] = {"train": [], "eval": []}
    counts: dict[str, Counter[str]] = {}
    readable: dict[str, bool] = {}
    for name in names:
        counts[name] = Counter()
        samples = listed.get(name) or load(name)
        gone = set(missing[name])
        for sample in progress(samples, name):
            _, image, wording = seen(sample)
            part = "eval" if name.partition(":")[0] in config.eval_sets and _is_held_out(image, config) else "train"
            if not sample.answers:
                part = "no answer"
            elif sample.image in gone:
                part = "missing picture"
            elif sample.image is not None and not _is_readable(sample.image, image, readable):
                part = "broken picture"
            elif part == "train" and image in known:
                part = "known picture"
            counts[name][part] += 1
            if part in lines:
                lines[part].append(json.dumps(_line(sample, image, out), ensure_ascii=False))
                kept[part].append((sample.id, image, wording))
    if not kept["train"]:
        reasons = "; ".join(f"{name}: {_in_words(counter)}" for name, counter in counts.items())
        raise FoveateError(f"no question is left to train on ({reasons}); name other --sets")
    leaks = {name: compare(kept["train"], asked) for name, asked in forbidden.items()}
    if kept["eval"]:
        leaks["eval.jsonl"] = compare(kept["train"], kept["eval"])
    about: dict[str, Any] = {
        "config": asdict(config),
        "counts": _plain(counts),
        "missing": {k: {"pictures": len(v), "first": v[0]} for k, v in missing.items() if v},
        "leakage": {k: _counts(v) for k, v in leaks.items()},
    }
    for part in ("train", "eval"):
        if not lines[part]:
            (out / f"{part}.jsonl").unlink(missing_ok=True)
            continue
        write_text(out / f"{part}.jsonl", "".join(f"{line}\n" for line in lines[part]))
        about[f"{part}_sha256"] = hashlib.sha256("".join(lines[part]).encode()).hexdigest()[:16]
    write_text(out / "data.json", json.dumps(about, indent=1) + "\n")
    return about


def _load(name: str, config: VqaTrainConfig) -> list[VQASample]:
    if name == "llava" and config.llava:
        return _load_llava(config)
    if name.endswith(SUFFIXES):
        return load_vqa(name, max_samples=config.max_per_set)
    preset, _, split = name.partition(":")
    return load_vqa(preset, split or None, config.root, config.max_per_set)


def _load_llava(config: VqaTrainConfig) -> list[VQASample]:
    images = Path(config.llava_images) if config.llava_images else None
    samples = list(load_jsonl(None, Path(str(config.llava)), images))
    step = max(1, len(samples) // (config.max_per_set or len(samples) or 1))
    return samples[::step][: config.max_per_set]


def _missing_pictures(name: str, samples: Sequence[VQASample]) -> list[str]:
    """Paths of pictures that are not there, one per question.

    Raises:
        FoveateError: the set has pictures, and none is there.
    """
    pictures = [sample.image for sample in samples if sample.image is not None]
    missing = [path for path in pictures if isinstance(path, str) and not is_file(path)]
    if missing and len(missing) == len(pictures):
        if name == "llava":
            todo = "name the folder of its pictures with --llava_images"
        else:
            todo = (
                "paths count from the folder of the file" if name.endswith(SUFFIXES) else "see that --root holds them"
            )
        raise FoveateError(f"{name}: no picture of {len(missing)} is there, the first: {missing[0]}; {todo}")
    return missing


def _is_held_out(image: str, config: VqaTrainConfig) -> bool:
    digest = hashlib.sha256(f"{config.seed} {image}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < config.eval_share * 2**32


def _is_readable(picture: bytes | str, image: str, known: dict[str, bool]) -> bool:
    """Whether a picture can be decoded to its end; `known` is by its hash, and takes up what is found."""
    if image not in known:
        known[image] = not fault(picture)
    return known[image]


def _line(sample: VQASample, image: str, out: Path) -> dict[str, Any]:
    """One line of JSONL; a picture in memory becomes a file named by its hash."""
    lists = {"answers": list(sample.answers), "choices": list(sample.choices)}
    line = {**asdict(sample), **lists, "image_hash": image}
    if isinstance(sample.image, bytes):
        line["image"] = f"images/{image}{_suffix(sample.image)}"
        if not (out / line["image"]).exists():
            write_bytes(out / line["image"], sample.image)
    elif sample.image:
        line["image"] = str(Path(sample.image).resolve())
    return {key: value for key, value in line.items() if value not in (None, "", [])}


def _suffix(encoded: bytes) -> str:
    kinds = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif"}
    return next((suffix for magic, suffix in kinds.items() if encoded.startswith(magic)), ".img")


def _in_words(counter: Counter[str]) -> str:
    words = {
        "eval": "for evaluation",
        "no answer": "without an answer",
        "known picture": "with a picture that training must not know",
        "missing picture": "with a picture that is not there",
        "broken picture": "with a picture that cannot be decoded",
    }
    return ", ".join(f"{counter[part]} {said}" for part, said in words.items() if counter[part]) or "no question"


def _plain(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: dict(counter) for name, counter in counts.items()}


def _counts(leakage: Leakage) -> dict[str, int]:
    return {name: value if isinstance(value, int) else len(value) for name, value in asdict(leakage).items()}
