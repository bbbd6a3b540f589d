"""OpenVLA-OFT on the tiny golden checkpoint: traces against the reference's numbers, every verb and every pruner."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fake_env import on_the_path
from PIL import Image
from safetensors.torch import load_file

import foveate
from foveate.bench.clock import Rounds
from foveate.cli.main import main
from foveate.data.demos import DemoEpisode, write_episode, write_meta
from foveate.models.base import ModelInputs
from foveate.models.openvla_oft.processing import EMPTY, pad_prompts
from foveate.policy import Policy, TraceOptions
from foveate.studies.fit.config import FitConfig
from foveate.studies.fit.fit import fit_pruning
from foveate.testing.golden import golden_dir
from foveate.testing.openvla_oft import oft_observation, runnable_checkpoint
from foveate.testing.pruning import WITHOUT_WEIGHTS, quarter
from foveate.tracing.schema import validate
from foveate.tracing.store import read_dump


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runnable_checkpoint(tmp_path_factory.mktemp("oft") / "oft--40000_chkpt")


@pytest.fixture
def seeing_golden(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """The policy with LightVLA, its processor giving the reference's own inputs."""
    policy = foveate.load_policy(checkpoint, pruner="lightvla")
    given = load_file(golden_dir("openvla_oft", "inputs.safetensors") / "inputs.safetensors")
    pixels = given["pixel_values"]
    tokens, masks = pad_prompts([[*given["input_ids"][0].tolist(), EMPTY]])
    images = torch.stack((pixels[:, 3:6], pixels[:, 9:12]), 1)
    inputs = ModelInputs(images, torch.ones(1, 2, dtype=torch.bool), tokens, masks, given["proprio"])
    monkeypatch.setattr(policy.processor, "inputs", lambda observations: inputs)
    return policy


def test_a_trace_holds_what_the_reference_computes(seeing_golden: Policy) -> None:
    """Scores, lengths and attention as LightVLA's tracer defines them, recomputed from the reference's tensors."""
    golden = load_file(golden_dir("openvla_oft", "outputs_fp32.safetensors") / "outputs_fp32.safetensors")
    options = TraceOptions(attn_layers=(0, -1), raw_score=True)
    trace = seeing_golden.infer(oft_observation(), evidence=options).trace
    assert trace is not None and trace.keep is not None
    keep, score = golden["pruner.keep_mask"][0].bool(), golden["pruner.score"][0].double()
    np.testing.assert_array_equal(trace.keep["keep_mask"], keep)
    np.testing.assert_allclose(trace.keep["raw_score"], score, atol=2e-4)
    np.testing.assert_allclose(trace.keep["router_scores"], score.amax(0), atol=2e-4)
    np.testing.assert_allclose(trace.keep["max_per_query"], score.amax(1), atol=2e-4)
    entropy = -(score.softmax(1) * score.log_softmax(1)).sum(1)
    np.testing.assert_allclose(trace.keep["entropy_per_query"], entropy, atol=2e-4)

    before, after = golden["embeddings"].shape[1], golden["pruned.tokens"].shape[1]
    patches, kept = len(keep), int(keep.sum())
    assert trace.seq_lens["pre_seq_len"] == before == 605 and trace.seq_lens["post_seq_len"] == after == 128
    assert trace.seq_lens["pre_task_len"] == before - patches - 1 == 92
    assert trace.seq_lens["post_task_len"] == after - 1 - kept == 92

    assert set(trace.attn) == {0, 2}
    for layer, attention in trace.attn.items():
        task_to_vision = golden[f"pruned.attn_task_to_vision.{layer}"][0]  # [heads, 92 task tokens, kept patches]
        expected = np.zeros((4, patches))
        expected[:, keep] = task_to_vision.mean(1)
        np.testing.assert_allclose(attention, expected, atol=1e-5)


def test_lengths_of_all_tokens_and_of_padded_rows(checkpoint: Path) -> None:
    """Without a pruner nothing is dropped; a shorter prompt of a batch counts its own words."""
    batch = [oft_observation(), oft_observation("open the top drawer of the wooden cabinet")]
    full = foveate.load_policy(checkpoint).infer_batch(batch, evidence=TraceOptions())
    pruned = foveate.load_policy(checkpoint, pruner="lightvla").infer_batch(batch, evidence=TraceOptions())
    for whole, chosen in zip(full, pruned, strict=True):
        lengths, kept = chosen.trace.seq_lens, int(chosen.trace.keep["keep_mask"].sum())
        assert whole.trace.seq_lens == {**lengths, "post_seq_len": lengths["pre_seq_len"]}
        assert lengths["pre_seq_len"] - lengths["post_seq_len"] == 512 - kept
        assert lengths["pre_task_len"] == lengths["pre_seq_len"] - 512 - 1 == lengths["post_task_len"]
    assert pruned[0].trace.seq_lens["pre_task_len"] < pruned[1].trace.seq_lens["pre_task_len"]


# ---- every verb, every pruner ---------------------------------------------------------------------------------------

PRUNERS = [quarter(name) for name in WITHOUT_WEIGHTS]


@pytest.mark.parametrize("layer", [None, 0])
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner["name"])
def test_every_pruner_before_the_backbone_and_behind_a_layer(checkpoint: Path, pruner: dict, layer: int | None) -> None:
    """Rows of a padded batch act as they do alone; evidence, stages and FLOPs say what was dropped, and where."""
    policy = foveate.load_policy(checkpoint, pruner=pruner)
    assert policy.pruner is not None
    policy.pruner.layer = layer
    batch = [oft_observation(), oft_observation("open the top drawer of the wooden cabinet", seed=1)]
    chunks = policy.infer_batch(batch, evidence=TraceOptions(attn_layers=(0, -1), raw_score=True), sessions=["a", "b"])
    for seen, chunk in zip(batch, chunks, strict=True):
        assert chunk.actions.shape == (8, 7) and chunk.trace is not None and chunk.trace.keep is not None
        keep, lengths = chunk.trace.keep["keep_mask"], chunk.trace.seq_lens
        assert keep.all() if pruner["name"] in ("none", "depth_drop") else 0 < keep.sum() < 512
        assert lengths["pre_seq_len"] - lengths["post_seq_len"] == 512 - keep.sum()
        assert lengths["pre_task_len"] == lengths["post_task_len"]
        first, last = chunk.trace.attn[0], chunk.trace.attn[2]
        assert (last[:, keep] > 0).all() and not last[:, ~keep].any()
        assert (first[:, ~keep] > 0).all() if policy.pruner.late else not first[:, ~keep].any()
        assert {"vision", "prune", "prefill", "denoise", "total"} <= chunk.timings_ms.keys()
        left, all_of_it = chunk.trace.layer_tokens or lengths["post_seq_len"], lengths["pre_seq_len"]
        flops = [policy.flops(2, tokens)["total"] for tokens in (left, all_of_it)]
        assert flops[0] == flops[1] if pruner["name"] == "none" else flops[0] < flops[1]
        if policy.pruner.late:
            assert left[0] == all_of_it and left[-1] == lengths["post_seq_len"] and len(left) == 3
        if pruner["name"] != "random":  # it draws anew
            policy.reset()
            np.testing.assert_allclose(policy.infer(seen, session="alone").actions, chunk.actions, atol=1e-4)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One episode in DROID's format with LIBERO's state, and masks of one object."""
    root = tmp_path_factory.mktemp("tree")
    folder = root / "success/2025-12-10/2025-12-10_10-11-12"
    folder.mkdir(parents=True)
    (folder / "instruction.txt").write_text("put the bowl on the plate")
    with h5py.File(folder / "trajectory.h5", "w") as file:
        file["observation/robot_state/state"] = np.tile(oft_observation().state, (3, 1))
    rng = np.random.default_rng(0)
    for camera in ("hand_camera", "varied_camera_1"):
        frames, masks = folder / "recordings/frames" / camera, folder / "recordings/masks" / camera
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for row in range(3):
            picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(picture).save(frames / f"{row:05d}.jpg")
            np.savez(masks / f"{row:05d}.npz", bowl=np.arange(64 * 64).reshape(64, 64) % 64 < 20)
    return root


EPISODE = "{tree}/success/2025-12-10/2025-12-10_10-11-12"
FRAMES = f"{EPISODE}/recordings/frames"
PICTURES = f"--image {FRAMES}/varied_camera_1/00000.jpg --image {FRAMES}/hand_camera/00000.jpg"
VERBS = {
    "inspect": "inspect {oft} --prefix",
    "trace predict": "trace predict --checkpoint {oft} --exp_name try --device cpu --dtype bfloat16 --store_raw_score"
    " --pruner lightvla --trace_attn_layers 0,2",
    "attn frame": f"attn frame --checkpoint {{oft}} {PICTURES} --prompt go --layers 0,2 --tokens go --out look",
    "attn prompts": f"attn prompts --checkpoint {{oft}} {PICTURES} --prompt go --prompt stop --layers 2 --out words",
    "attn episodes": "attn episodes {tree} --checkpoint {oft} --keyframe_interval 2 --layers 0,2 --out maps",
    "attn fidelity": "attn fidelity {tree} --checkpoint {oft} --layers 2 --frames_per_episode 1 --draws 2"
    " --curve_points 0 --views both --pruner lightvla --out fidelity",
    "attn objects": "attn objects {tree} --checkpoint {oft} --keyframe_interval 2 --layers 2 --draws 2 --out objects",
    "eval sim": "eval sim --pretrained_checkpoint {oft} --env fake_env:TableEnv --task_suite_name go --pruner lightvla"
    " --num_trials_per_task 1 --num_workers 1 --num_open_loop_steps 8 --center_crop true --trace_out_dir sim"
    " --trace_dump_attn true --trace_attn_layers 0,2",
}
LEFT = {
    "trace predict": "runs/try/plots/attn_task_to_vis/layer02/task000_ep000_step00000__img1.png",
    "attn frame": "look/maps.npz",
    "attn prompts": "words",
    "attn episodes": "maps/success/2025-12-10/2025-12-10_10-11-12/maps.npz",
    "attn fidelity": "fidelity/fidelity.json",
    "attn objects": "objects/objects.json",
    "eval sim": "sim/plots/mask_heatmap/task000_ep000_step00000__img0.png",
}
"""Verb -> what it leaves."""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_it(
    checkpoint: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    on_the_path(monkeypatch)
    assert main([word.format(oft=checkpoint, tree=tree) for word in VERBS[verb].split()]) == 0, capsys.readouterr()
    assert verb not in LEFT or (tmp_path / LEFT[verb]).exists()
    if verb == "trace predict":
        dump = read_dump(tmp_path / "runs/try/dumps/task000/ep000/step00000.pt")
        assert validate(dump) == [] and dump["routing"]["raw_score"].shape == (512, 512)
        assert set(dump["attn"]["task_to_vis"]) == {0, 2} and dump["align"]["model_crop"] == pytest.approx(0.9**0.5)
    if verb == "eval sim":
        (episode,) = [json.loads(line) for line in (tmp_path / "sim/episodes.jsonl").read_text().splitlines()]
        assert episode["status"] == "success" and 0 < episode["kept_mean"] < 512 and episode["gflops_mean"] > 0


def test_a_fit_tries_what_prunes_it(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two episodes of LIBERO's robot: no noise to draw again, and a tower whose attention VisionZip can read."""
    monkeypatch.setattr("foveate.studies.fit.timing.ROUNDS", Rounds(least=1, most=1, warmup=0))
    rng = np.random.default_rng(0)
    for number in range(2):
        states = (np.tile(oft_observation().state, (9, 1)) + rng.normal(0, 0.01, (9, 8))).astype(np.float32)
        images = {view: rng.integers(0, 256, (2, 64, 64, 3), np.uint8) for view in ("image", "wrist_image")}
        actions, frames = rng.uniform(-1, 1, (9, 7)).astype(np.float32), np.array([0, 8])
        write_episode(tmp_path, number, DemoEpisode("go", "go", number, 9, states, actions, images, frames), 0, 20.0)
    write_meta(tmp_path, ["go"], 20.0, 8, {"complete": True})
    options = {"methods": ("visionzip",), "budgets": (0.25,), "replan_steps": 8, "out": str(tmp_path / "fit")}
    done = fit_pruning(FitConfig(policy=str(checkpoint), episodes=str(tmp_path), **options))
    assert (done.table.frames, done.table.noise, done.left_out) == (4, {}, {})
    assert {row.method: row.kept for row in done.table.rows} == dict.fromkeys(("random", "stride", "visionzip"), 128)
    assert done.recommendation.row is None and "name more episodes" in done.recommendation.lines[0]


def test_a_layer_that_is_not_there_is_refused_before_the_weights_are_read(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("foveate.models.openvla_oft.load.load_weights", lambda *args: pytest.fail("they were read"))
    on_the_path(monkeypatch)
    words = [str(checkpoint), "--trace_out_dir", str(tmp_path / "run"), "--trace_attn_layers", "1,31"]
    simulated = ["--env", "fake_env:TableEnv", "--task_suite_name", "go", "--trace_dump_attn", "true"]
    for line in (["trace", "predict", "--checkpoint", *words], ["eval", "sim", "--policy", *words, *simulated]):
        assert main(line) == 1
        assert "--trace_attn_layers 31: the backbone has layers 0 to 2 (3 layers)" in capsys.readouterr().err
