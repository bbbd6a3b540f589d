"""`foveate train policy` from the golden OpenVLA-OFT policy to a folder in OpenVLA-OFT's layout."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foveate.cli.main import main
from foveate.data.demos import DemoEpisode, write_episode, write_meta
from foveate.errors import FoveateError
from foveate.models import registry
from foveate.models.base import ModelInputs, ModelOptions, pack
from foveate.models.common.tensor_files import read_header, read_tensor
from foveate.models.openvla_oft.images import centre_crop
from foveate.models.openvla_oft.lora import Adapter
from foveate.models.openvla_oft.model import OpenVLAOFT
from foveate.policy import TraceOptions, load_policy
from foveate.pruning import make_config
from foveate.testing.golden import REPO
from foveate.testing.openvla_oft import runnable_checkpoint
from foveate.training.config import DataConfig, LoopConfig, OptimConfig, RtcConfig
from foveate.training.loop import Share
from foveate.training.policy.augment import crop
from foveate.training.policy.lora import LoraConfig
from foveate.training.policy.recipe import begin
from foveate.training.policy.train import TrainPolicyConfig, train_policy
from foveate.types import Observation

PROMPTS = ["put the bowl on the plate", "open the top drawer of the cabinet"]
DATA = DataConfig(random_crop=True, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
OPTIM = OptimConfig(lr=2e-3, final_lr=2e-4, decay_at=3, warmup_steps=0, ema_decay=0.0)
LOOP = LoopConfig(steps=4, batch_size=2, log_every=1, save_every=2, device="cpu", threads=1)
CONFIG = TrainPolicyConfig(
    lora=LoraConfig(rank=4),
    pruner=make_config({"name": "lightvla", "train_form": "paper"}),
    data=DATA,
    optim=OPTIM,
    loop=LOOP,
)


def episode(seed: int, steps: int = 12) -> DemoEpisode:
    """LIBERO's shapes: two cameras, 8 numbers of state, 7 of action of which the last is -1 (open) or 1 (close)."""
    rng = np.random.default_rng(seed)
    frames = np.arange(0, steps, 4)
    images = {v: rng.integers(0, 256, (len(frames), 64, 64, 3), dtype=np.uint8) for v in ("image", "wrist_image")}
    states = rng.normal([0, 0, 0.8, 3, -0.5, 0, 0.02, -0.02], 0.01, (steps, 8)).astype(np.float32)
    actions = rng.uniform(-1.2, 1.2, (steps, 7)).astype(np.float32)
    actions[:, 6] = np.where(np.arange(steps) < steps // 2, -1, 1)
    return DemoEpisode(PROMPTS[seed % 2], f"task_{seed % 2}", seed, 0, states, actions, images, frames)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runnable_checkpoint(tmp_path_factory.mktemp("base") / "oft--40000_chkpt")


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("demos")
    for i in range(2):
        write_episode(root, i, episode(i), i, fps=20.0)
    write_meta(root, PROMPTS, 20.0, 4, {})
    return str(root)


def config_of(base: Path, demos: str, out: Path, **changes) -> TrainPolicyConfig:
    config = dataclasses.replace(CONFIG, init_from=str(base), out=str(out), **changes)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=(demos,)))


@pytest.fixture(scope="module")
def policy(checkpoint: Path, demos: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_policy(config_of(checkpoint, demos, tmp_path_factory.mktemp("run")))


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {key: read_tensor(entry) for key, entry in read_header(folder / "model.safetensors.index.json").items()}


def test_the_folder_has_the_published_layout_and_acts(policy: Path, checkpoint: Path) -> None:
    names = {path.name for path in policy.iterdir()}
    published = {path.name.replace("40000", "4") for path in checkpoint.iterdir()}
    assert names == published | {"lora_adapter", "robot.yaml", "train_config.yaml", "README.md", "engine.json"}
    head = torch.load(policy / "action_head--4_checkpoint.pt", weights_only=True)
    assert all(key.startswith("module.model.") for key in head)
    _, info = registry.detect(policy)
    assert info.missing == () and info.pruner["name"] == "lightvla" and info.pruner["train_form"] == "paper"
    before, after = (json.loads((f / "dataset_statistics.json").read_text()) for f in (checkpoint, policy))
    assert before == after
    demo = episode(0)
    acting = load_policy(policy)
    seen = Observation({v: i[0] for v, i in demo.images.items()}, demo.states[0], demo.task)
    chunk = acting.infer(seen, evidence=TraceOptions())
    assert chunk.actions.shape == (8, 7) and np.isfinite(chunk.actions).all()
    assert 0 < int(chunk.trace.keep["keep_mask"].sum()) < 512


def test_the_merged_weights_are_the_base_with_the_adapter_and_nothing_else_moved(
    policy: Path, checkpoint: Path
) -> None:
    adapter = Adapter(policy / "lora_adapter")
    base, merged = weights_of(checkpoint), weights_of(policy)
    assert base.keys() == merged.keys()
    for key, value in base.items():
        assert torch.equal(merged[key], adapter.merged(key.removesuffix(".weight"), value)), key
    changed = {key for key, value in base.items() if not torch.equal(value, merged[key])}
    assert changed and all(key.removesuffix(".weight") in adapter.targets for key in changed)
    assert {
        "vision_backbone.featurizer.patch_embed.proj",
        "language_model.model.layers.2.mlp.up_proj",
    } < adapter.targets
    for label in ("action_head", "proprio_projector"):
        one, other = (torch.load(next(f.glob(f"{label}--*.pt")), weights_only=True) for f in (checkpoint, policy))
        assert one.keys() == other.keys() and all(not torch.equal(one[k].float(), other[k]) for k in one)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    policy: Path, checkpoint: Path, demos: str, tmp_path: Path
) -> None:
    shutil.copytree(policy.parent, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "4")
    shutil.rmtree(tmp_path / "policy")
    train_policy(config_of(checkpoint, demos, tmp_path))
    assert [m["noise_scale"] for m in metrics(tmp_path)] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert [m["lr"] for m in metrics(tmp_path)] == [2e-3, 2e-3, 2e-3, 2e-4]
    for key in ("step", "loss", "grad_norm", "lr", "kept"):
        assert [m[key] for m in metrics(tmp_path)] == [m[key] for m in metrics(policy.parent)], key
    for path in policy.rglob("*"):
        if path.is_file() and path.name != "train_config.yaml":
            there = tmp_path / "policy" / path.relative_to(policy)
            if path.suffix == ".pt":  # a zip file, which carries its own name
                one, other = (torch.load(p, weights_only=True) for p in (path, there))
                assert all(torch.equal(one[key], other[key]) for key in one | other), path
            else:
                assert there.read_bytes() == path.read_bytes(), path


def test_a_checkpoint_holds_what_trains_alone(policy: Path) -> None:
    stored = load_file(policy.parent / "4" / "train_state" / "model.safetensors")
    assert all(".adapters." in key or key.startswith(("model.head.", "model.proprio.")) for key in stored)


def as_float32(folder: Path) -> Path:
    """The same checkpoint with its model stored in float32, so that merging rounds nothing away."""
    for path in folder.glob("model-*.safetensors"):
        save_file({key: value.float() for key, value in load_file(path).items()}, path, {"format": "pt"})
    return folder


@torch.no_grad()
def actions_of(model: OpenVLAOFT, inputs: ModelInputs) -> Tensor:
    return model.decode(model.prefill(pack(model.embed_prefix(inputs))), inputs, None)


def test_what_adapters_give_is_what_the_merged_folder_gives(demos: str, tmp_path: Path) -> None:
    """Nothing at the start, to the bit; after a few steps the same up to rounding. PEFT merges the adapter alike."""
    base = as_float32(runnable_checkpoint(tmp_path / "base"))
    config = config_of(base, demos, tmp_path / "run", pruner=None)
    recipe = begin(config)
    source, model = recipe.source([episode(0)]), recipe.objective.model
    batch = source.batch(Share(0, 0, 2, 2))
    untouched, _ = (family := registry.detect(base)[0]).load(registry.detect(base)[1], ModelOptions())
    assert family.name == "openvla_oft"
    start = actions_of(model, batch.inputs)
    torch.testing.assert_close(start, actions_of(untouched, batch.inputs), rtol=0, atol=0)
    optimizer = torch.optim.AdamW([p for p in recipe.objective.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        recipe.objective(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = actions_of(model, batch.inputs)
    assert (trained - start).abs().max() > 1e-2
    out = tmp_path / "run" / "policy"
    recipe.export(out, 3, {"pruner": None, "loop": {"steps": 3, "batch_size": 2}}, PROMPTS)
    merged, _ = family.load(registry.detect(out)[1], ModelOptions())
    torch.testing.assert_close(actions_of(merged, batch.inputs), trained, rtol=1e-4, atol=1e-4)
    _peft_merges_alike(base, out)


def _peft_merges_alike(base: Path, out: Path) -> None:
    peft = pytest.importorskip("peft")
    weights, adapter = weights_of(base), Adapter(out / "lora_adapter")
    tree = nn.Module()
    for module in adapter.targets:
        *path, name = module.split(".")
        place = tree
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        value = weights[f"{module}.weight"]
        rows, columns, *kernel = value.shape
        layer = nn.Conv2d(columns, rows, kernel, kernel) if kernel else nn.Linear(columns, rows)
        layer.weight.data = value
        place.add_module(name, layer)
    read = peft.PeftModel.from_pretrained(tree, str(out / "lora_adapter"))
    merged = read.merge_and_unload()
    ours = weights_of(out)
    for module in adapter.targets:
        theirs = merged.get_submodule(module).weight
        torch.testing.assert_close(ours[f"{module}.weight"], theirs.detach(), rtol=1e-6, atol=1e-7, msg=module)


def test_a_sample_is_what_the_processor_makes_of_an_observation(checkpoint: Path, demos: str, tmp_path: Path) -> None:
    demo = episode(0)
    recipe = begin(config_of(checkpoint, demos, tmp_path, data=DataConfig(), lora=None, pruner=None))
    assert all(p.requires_grad for p in recipe.objective.parameters())
    seen = [
        Observation({v: i[row] for v, i in demo.images.items()}, demo.states[step], demo.task)
        for row, step in enumerate(demo.frames)
    ]
    source = recipe.source([dataclasses.replace(demo, images=dict(demo.images))])
    batch, expected = source.batch(Share(0, 0, 3, 3)), recipe.processor.inputs(seen)
    order = source.rows(0, 3)
    for name in ("images", "image_masks", "tokens", "token_masks", "state"):
        torch.testing.assert_close(getattr(batch.inputs, name), getattr(expected, name)[order], atol=1e-6, rtol=0)
    assert float(batch.actions[..., :6].abs().max()) == 1  # beyond the quantiles: clipped, as in the reference
    assert set(batch.actions[..., 6].unique().tolist()) == {0.0, 1.0}  # the model's gripper: 1 is open
    first = source.samples.actions[:1]
    back = recipe.processor.actions(first, seen[:1])[0]
    low, high = (np.array(recipe.info.statistics[recipe.data_set]["action"][q])[:6] for q in ("q01", "q99"))
    np.testing.assert_allclose(back[:, :6], np.clip(demo.actions[:8, :6], low, high), atol=1e-5)
    np.testing.assert_array_equal(back[:, 6], demo.actions[:8, 6])


def test_a_random_crop_has_the_size_of_the_centre_crop() -> None:
    """At the middle it is what the policy sees, up to that one's rounding."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    side = 0.9**0.5
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    middle = crop(pixels, torch.full((1, 2), (1 - side) / 2), side)[0].permute(1, 2, 0)
    assert np.abs(middle.numpy() * 255 - centre_crop(picture)).max() <= 1
    corner = crop(pixels, torch.zeros(1, 2), side)[0]
    torch.testing.assert_close(corner[:, 0, 0], pixels[0, :, 0, 0])


def test_the_preset_from_the_command_line(checkpoint: Path, demos: str, tmp_path: Path) -> None:
    """Frozen weights and arithmetic in bfloat16; what trains stays float32."""
    preset = REPO / "foveate" / "training" / "presets" / "openvla_oft_lightvla.yaml"
    words = f"--config {preset} --init-from {checkpoint} --data.path {demos} --out {tmp_path} --lora.targets q_proj,fc1"
    short = "--lora.rank 2 --lora.alpha 2 --loop.steps 1 --loop.batch-size 2 --loop.device cpu"
    assert main(["train", "policy", *words.split(), *short.split()]) == 0
    config = json.loads((tmp_path / "policy" / "lora_adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 2, 0.0)
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == {"q_proj", "fc1"}
    (line,) = metrics(tmp_path)
    assert np.isfinite(line["loss"]) and line["noise_scale"] == 1 and line["lr"] == 5e-4
    stored = load_file(tmp_path / "1" / "train_state" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}


def test_what_cannot_be_trained_is_told(checkpoint: Path, demos: str, tmp_path: Path) -> None:
    def refused(match: str, base: Path = checkpoint, **changes) -> None:
        with pytest.raises(FoveateError, match=match):
            train_policy(config_of(base, demos, tmp_path / "run", **changes))

    refused("lora.targets: no layer ends in 'q_prj'", lora=LoraConfig(targets=("q_prj",)))
    refused("flow_samples: L1 regression draws no noise", data=DataConfig(flow_samples=2))
    refused("rtc.max_delay: L1 regression has no flow", rtc=RtcConfig(2))
    refused("no statistics of the data set 'nowhere'", data=DataConfig(asset_id="nowhere"))
    raw = tmp_path / "raw"
    shutil.copytree(checkpoint, raw)
    for path in raw.glob("*.pt"):
        path.unlink()
    refused("no action_head--.*OpenVLA before OpenVLA-OFT's fine-tuning.*keeping almost nothing", raw)
    with pytest.raises(FoveateError, match=r"lora.dropout: expected a share in \[0, 1\), got 1"):
        LoraConfig(dropout=1)
    with pytest.raises(FoveateError, match="see whole pictures"):
        begin(TrainPolicyConfig(data=dataclasses.replace(DATA, path=(demos,))))
