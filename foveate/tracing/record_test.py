"""A dump is checked before anything is made of it: shapes, sizes, ranges, strides, and what is missing is named."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from foveate.errors import FoveateError
from foveate.testing.runs import write_run
from foveate.tracing.record import read_record
from foveate.tracing.store import dump_paths


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("run"), tasks=("reach",), episodes=1, queries=1, side=(32, 32))
    return dump_paths(run)[0]


def spoiled(good, tmp_path, change):
    dump = torch.load(good, weights_only=True)
    change(dump)
    path = tmp_path / "dumps/task000/ep000/step00000.pt"
    path.parent.mkdir(parents=True)
    torch.save(dump, path)
    return path


def align(**fields):
    return lambda dump: dump["align"].update(fields)


def routing(**fields):
    return lambda dump: dump["routing"].update(fields)


def meta(**fields):
    return lambda dump: dump["meta"].update(fields)


def actions(values):
    return lambda dump: dump.update(action=values)


GRIDS = "align.patch_grids.corner: expected a whole number from 1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            routing(keep_mask=torch.zeros(1, dtype=torch.bool).expand(40 * 10**9)),
            "routing.keep_mask has 40000000000 el",
        ),
        (
            routing(router_scores=torch.zeros(1).expand(4 * 10**9)),
            "routing.router_scores has 4000000000 elements",
        ),
        (lambda d: d.update(extra={"a": torch.zeros(1).expand(10**9)}), "extra.a has 1000000000 elements"),
        (actions(torch.zeros(5)), "action: expected finite numbers with 2 axes, got shape [5]"),
        (actions(torch.full((5, 4), torch.nan)), "action: expected finite numbers"),
        (routing(keep_mask=torch.full((128,), 3)), "routing.keep_mask: expected true and false alone"),
        (routing(keep_mask=torch.zeros(128).to_sparse()), "routing.keep_mask"),
        (routing(keep_mask="yes"), "routing.keep_mask: expected numbers"),
        (routing(router_scores=torch.full((128,), torch.nan)), "routing.router_scores has numbers that are not finite"),
        (routing(router_scores=torch.zeros(128, dtype=torch.complex64)), "routing.router_scores: expected numbers"),
        (routing(score_stats=[1]), "routing.score_stats: expected a dict, got list"),
        (routing(seq_lens={"pre_seq_len": -1}), "routing.seq_lens.pre_seq_len: expected a whole number from 0"),
        (lambda d: d["attn"]["task_to_vis"].update({1: torch.full((4, 128), 7.0)}), "task_to_vis.1: expected shares"),
        (lambda d: d["attn"]["task_to_vis"].update({1: torch.full((4, 128), torch.nan)}), "task_to_vis.1 has numbers"),
        (lambda d: d["attn"]["task_to_vis"].update({1: torch.zeros(4, 5)}), "task_to_vis.1 has 5 patches"),
        (lambda d: d["perf"].update(stages_ms={"total": float("nan")}), "perf.stages_ms.total: expected a time"),
        (lambda d: d["perf"].update(forward_latency_s="fast"), "perf.forward_latency_s: expected a time, got str"),
        (align(patch_grids={"corner": [10**9, 10**9], "gripperPOV": [8, 8]}), GRIDS),
        (align(patch_grids={"corner": [-8, 8], "gripperPOV": [8, 24]}), GRIDS),
        (align(patch_grids={"corner": [0, 0], "gripperPOV": [8, 16]}), GRIDS),
        (align(patch_grids={"corner": [8.5, 8], "gripperPOV": [8, 8]}), GRIDS),
        (align(patch_grids={"corner": [30000, 30000], "gripperPOV": [8, 8]}), "more than 1048576 patches"),
        (align(patch_grids={"corner": [8, 8]}), "align.patch_grids: no grid for view 'gripperPOV'"),
        (lambda d: d["align"].pop("patch_grids"), "align.patch_grids: missing"),
        (lambda d: d.pop("align"), "align.patch_grids: missing"),
        (align(views=["corner", "corner"]), "align.views: expected names, each once"),
        (align(model_image_size=[0, 0]), "align.model_image_size: expected a whole number from 1"),
        (align(model_image_size=[10**7, 10**7]), "align.model_image_size: expected a whole number from 1"),
        (align(source_sizes={"corner": [5, -7]}), "align.source_sizes.corner: expected a whole number from 1"),
        (align(flips={"corner": [1, "x"]}), "align.flips.corner: expected true or false"),
        (align(image_paths=["../secret.png", ""]), "align.image_paths: expected a path in the run folder"),
        (align(image_paths=["/etc/hostname", ""]), "align.image_paths: expected a path in the run folder"),
        (lambda d: d.update(meta=[1, 2]), "meta: expected a dict, got list"),
        (meta(step=10**30), "meta.step: expected a whole number from 0"),
        (meta(step=10**5000), "not a readable dump"),
        (meta(step=-1), "meta.step: expected a whole number from 0"),
        (meta(task={"a": 1}), "meta.task: expected a text, got dict"),
        (meta(variant=["a"]), "meta.variant: expected a text, got list"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(good, tmp_path, change, said):
    path = spoiled(good, tmp_path, change)
    with pytest.raises(FoveateError) as caught:
        read_record(path, tmp_path)
    assert str(path) in str(caught.value) and said in str(caught.value), caught.value
    assert len(str(caught.value)) < 600


def test_absent_cameras_may_have_no_score(good, tmp_path):
    def absent(dump):
        dump["routing"]["valid_mask"][64:] = False
        dump["routing"]["keep_mask"][64:] = False
        dump["routing"]["router_scores"][64:] = -torch.inf

    record = read_record(spoiled(good, tmp_path, absent), tmp_path)
    assert record.num_patches == 64 and np.isfinite(record.scores[:64]).all()


def test_a_packed_file_is_not_unpacked(good, tmp_path):
    path = tmp_path / "step00000.pt"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(FoveateError, match="is compressed"):
        read_record(path, tmp_path)


def test_what_is_no_file_is_refused(tmp_path):
    import os

    os.mkfifo(tmp_path / "step00000.pt")
    (tmp_path / "step00001.pt").mkdir()
    (tmp_path / "step00002.pt").symlink_to(tmp_path / "nowhere")
    for step in range(3):
        with pytest.raises(FoveateError, match="no regular file"):
            read_record(tmp_path / f"step{step:05d}.pt", tmp_path)
