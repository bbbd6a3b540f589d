"""Compare trained tiny models on validation, and write the card of the best with its accuracy on the test split.

    python scripts/tiny_vlm_card.py runs/tiny_vlm/seed0/model runs/tiny_vlm/seed1/model

Prints the folder of the best on the last line; tables go to stderr. A model's score is its accuracy on the validation
split where each question is seen at the cheapest level that answers it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

from foveate.data.vqa.load import load_vqa
from foveate.data.vqa.mixed import facts_of
from foveate.evaluation.sim.results import wilson
from foveate.models.vlm.budget import LEVELS
from foveate.models.vlm.decoding import Decoding
from foveate.models.vlm.load import load_vlm
from foveate.models.vlm.model import VLM
from foveate.types import VQASample
from foveate.util.words import percent, percents

CHUNK = 512
CARD = """# tiny_qwen3vl

A small Qwen3-VL (`Qwen3VLForConditionalGeneration` of transformers), trained from nothing by foveate. It shows that the
whole chain of NO / COARSE / FULL runs on real input in seconds on a CPU; it knows coloured shapes and letters.

- **Model**: {parameters:.2f} M parameters (float16, {megabytes:.1f} MB), text width 128 in 4 layers, vision width 96
  in 3 layers, patches of 8 px merged 2 x 2: a picture of 64 px (FULL) is 16 vision tokens, one of 16 px (COARSE) is 1.
  The prompt is context, question, picture, answer, so that what the text-first pass read serves the other passes.
- **Data**: the mixed set of `foveate/data/vqa/mixed.py` (a stream of its own: the set's splits were not seen) and the
  training pictures of `easy_vqa`.
- **Training**: `scripts/train_tiny_vlm.sh`, five runs on two CPU cores: all levels; mostly FULL; letters in corners
  alone; the names of the shapes and colours of `easy_vqa`; mostly text (`train_config.yaml` is the last one's: {steps}
  steps of {batch} rows). In the first three, auxiliary heads that name what is in the picture fade out.
- **Vocabulary**: every word of these sets is one token, all else is bytes; answers are one word.

Accuracy on the test split of the mixed set ({count} questions), at each level, and with its 95 % Wilson interval at
the level that the question needs:

| question | needs | NO | COARSE | FULL | 95 % |
|---|---|---|---|---|---|
{rows}

On {easy_count} test questions of `easy_vqa`: NO {easy[NO]}, COARSE {easy[COARSE]}, FULL {easy[FULL]}. Where
the text settles nothing, NO can be right at chance alone; the letter behind the shape is never to be seen.
{others}
Limits: one kind of picture, a few hundred words, answers of one word. Not for statements about speed on real models.
Licence: Apache-2.0; `easy_vqa` is MIT-licensed and not part of this folder.
"""


def right(vlm: VLM, samples: Sequence[VQASample]) -> dict[str, list[bool]]:
    """Level -> whether each question was answered rightly there."""
    found: dict[str, list[bool]] = {}
    for level in LEVELS:
        found[level] = []
        for start in range(0, len(samples), CHUNK):
            part = samples[start : start + CHUNK]
            answers = vlm.answer(part, level, decoding=Decoding(max_new_tokens=2))
            found[level] += [a.text == s.answers[0] for a, s in zip(answers, part, strict=True)]
    return found


def score(vlm: VLM, samples: Sequence[VQASample]) -> float:
    """Accuracy at the level that each question needs."""
    found = right(vlm, samples)
    return sum(found[facts_of(s).need][i] for i, s in enumerate(samples)) / len(samples)


def card(
    folder: Path, vlm: VLM, tests: Sequence[VQASample], easy: Sequence[VQASample], scores: dict[str, float]
) -> str:
    found = right(vlm, tests)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, sample in enumerate(tests):
        facts = facts_of(sample)
        groups[sample.category, facts.need].append(i)
        groups["all, wording seen" if not facts.held else "all, wording held out", "as needed"].append(i)
    rows = []
    for (kind, need), index in sorted(groups.items()):
        rates = {level: sum(found[level][i] for i in index) / len(index) for level in LEVELS}
        needed = sum(found[facts_of(tests[i]).need][i] for i in index)
        low, high = wilson(needed, len(index))
        cells = " | ".join(f"{percent(rates[level], 1)}" for level in LEVELS)
        rows.append(
            f"| {kind} ({len(index)}) | {need} | {cells} | {percent(needed / len(index), 1)} "
            f"({percents(low, high, 1)}) |"
        )
    config = yaml.safe_load((folder / "train_config.yaml").read_text())
    seen = right(vlm, easy)
    others = "Seeds on validation, at the level that each question needs: " + ", ".join(
        f"{Path(name).parent.name} {percent(value, 1)}" for name, value in scores.items()
    )
    return CARD.format(
        parameters=sum(p.numel() for p in vlm.model.parameters()) / 1e6,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        steps=config["loop"]["steps"],
        batch=config["loop"]["batch_size"],
        count=len(tests),
        rows="\n".join(rows),
        easy_count=len(easy),
        easy={level: percent(sum(seen[level]) / len(easy), 1) for level in LEVELS},
        others=f"{others}.\n" if len(scores) > 1 else "",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=None, help="questions of each split, at most")
    args = parser.parse_args()
    validation = load_vqa("mixed", "val", max_samples=args.samples)
    scores = {str(folder): score(load_vlm(folder, batch_size=128), validation) for folder in args.models}
    print(json.dumps(scores, indent=1), file=sys.stderr)
    best = Path(max(scores, key=lambda name: scores[name]))
    vlm = load_vlm(best, batch_size=128)
    text = card(
        best,
        vlm,
        load_vqa("mixed", "test", max_samples=args.samples),
        load_vqa("easy_vqa", "test", max_samples=args.samples or 2000),
        scores,
    )
    (best / "README.md").write_text(text)
    print(text, file=sys.stderr)
    print(best)


if __name__ == "__main__":
    main()
