"""Copy the part of the golden data that a clone carries: `tests/golden`, under 12 MB.

    python scripts/make_golden_subset.py ../shared/golden tests/golden

Values are never touched: files are copied whole, or chosen tensors of them under their own names, and an index
lists what its file still holds. Left out: the `gqa` model, the larger LightVLA cases, two of three resize cases,
most of π0's attention maps (π0.5's are all there), and `openvla_oft`. Set FOVEATE_GOLDEN to a full folder to test
against everything.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

LIMIT = 12_000_000
WHOLE = (
    "README.md",
    "vqa/vqa_metrics.json",
    "pi0/images.safetensors",
    "pi0/tiny.inputs.safetensors",
    "pi0/mid_config.json",
    "pi0/real_pi0_keys.json",
    "pi0/real_pi05_keys.json",
    *(f"pi0/tiny_{model}.{part}" for model in ("pi0", "pi05") for part in (
        "model.safetensors", "bf16_outputs.safetensors", "bf16_dtypes.json")),
    "pi0/tiny_pi05.outputs.safetensors",
    "lightvla/lightvla_noise.safetensors",
)  # fmt: skip
CASES = (
    "rand_P16_T5_D32_s1", "rand_P16_T20_D64_s7", "rand_P64_T20_D32_s13", "T1_P16_D32", "nomask_P16_T5_D32",
    "posoff_P16_T5_D32", "dup_P16_T5_D32", "allequal_P16_T5_D32", "batch3_P16_T5_D32",
    "bf16_clustered_P64_T20_D64",
)  # fmt: skip
"""LightVLA cases: every kind of input, small ones."""
ATTENTION = tuple(f"prefix.layer{i}.attn" for i in (1, 2, 3))


def main(source: Path, target: Path) -> None:
    for name in WHOLE:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    _choose(source, target, "pi0/resize.safetensors", lambda name: name.startswith("wide."))
    _choose(source, target, "pi0/tiny_pi0.outputs.safetensors", lambda name: name not in ATTENTION)
    _choose(source, target, "lightvla/pruner.safetensors", lambda name: name.split("/")[0] in CASES)

    index = json.loads((source / "pi0/pi0_index.json").read_text())
    index = {tag: entry for tag, entry in index.items() if (target / f"pi0/{tag}.model.safetensors").exists()}
    outputs = index["tiny_pi0"]["outputs"]
    index["tiny_pi0"]["outputs"] = {name: facts for name, facts in outputs.items() if name not in ATTENTION}
    (target / "pi0/pi0_index.json").write_text(json.dumps(index, indent=1) + "\n")
    pruner = json.loads((source / "lightvla/index.json").read_text())
    pruner["cases"] = [case for case in pruner["cases"] if case["name"] in CASES]
    (target / "lightvla/index.json").write_text(json.dumps(pruner, indent=1) + "\n")

    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.2f} MB")
    if size >= LIMIT:
        sys.exit(f"{target}: {size} bytes, expected fewer than {LIMIT}; leave more out")


def _choose(source: Path, target: Path, name: str, wanted) -> None:
    tensors = load_file(source / name)
    save_file({key: value for key, value in tensors.items() if wanted(key)}, target / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
