"""A run folder of LightVLA's own scripts, through every verb that reads one, and its fields one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.cli.main import main
from foveate.errors import FoveateError
from foveate.testing.lightvla_runs import PATCHES, TASK_LEN, lightvla_dump, write_lightvla_run
from foveate.tracing.lightvla import adopt
from foveate.tracing.record import read_record
from foveate.tracing.schema import leaves, validate
from foveate.tracing.store import dump_paths, read_dump
from foveate.viz import overlay


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_lightvla_run(tmp_path / "runs/libero_spatial_eval_20260112_181320", written_from=tmp_path)


def change(path, edit):
    dump = torch.load(path, weights_only=True)
    edit(dump)
    torch.save(dump, path)


def test_every_field_of_a_dump(run):
    path = dump_paths(run)[1]
    raw, record = torch.load(path, weights_only=True), read_record(path, run)
    assert (record.meta["task_id"], record.meta["episode"], record.meta["step"], record.meta["query"]) == (0, 0, 18, 1)
    assert record.meta["checkpoint"] == "/models/oft--40000_chkpt" and record.meta["task_suite"] == "libero_spatial"
    assert record.name == path.stem and record.latency_s == 0.0815
    assert [view.name for view in record.views] == ["img0", "img1"]
    assert [view.grid for view in record.views] == [(16, 16)] * 2
    assert [view.part for view in record.views] == [slice(0, 256), slice(256, 512)]
    assert all((run / view.image).is_file() and view.source_hw == (224, 224) for view in record.views)
    routing = raw["routing"]
    np.testing.assert_array_equal(record.keep_mask, routing["keep_mask"][0])
    np.testing.assert_array_equal(record.scores, routing["router_scores"][0])
    for name, values in routing["score_stats"].items():
        np.testing.assert_array_equal(record.stats[name], values[0].float())
    assert dict(record.seq_lens) == routing["seq_lens"]
    assert set(record.attn) == {1, 31} and record.attn[31].shape == (1, PATCHES)
    np.testing.assert_array_equal(record.attn[31], raw["attn"]["task_to_vis"]["31"].float())


def test_what_is_adopted_follows_the_schema(run):
    dump = adopt(read_dump(dump_paths(run)[0]))
    assert validate(dump) == []
    routing = dump["routing"]
    np.testing.assert_array_equal(routing["indices"], np.flatnonzero(routing["keep_mask"]))
    assert routing["keep_counts"].tolist() == [routing["keep_mask"][:256].sum(), routing["keep_mask"][256:].sum()]
    assert routing["kept_ratio"] == pytest.approx(routing["keep_mask"].mean())
    assert adopt(dump) is dump


def test_the_verbs_read_the_folder(run, capsys):
    assert main(["trace", "plot", "--exp_dir", str(run)]) == 0
    for kind in ("score_heatmap", "mask_heatmap", "attn_task_to_vis/layer01", "attn_task_to_vis/layer31"):
        assert len(list((run / "plots" / kind).glob("*.png"))) == 2 * 3 * 2
    record = read_record(dump_paths(run)[0], run)
    drawn = np.asarray(Image.open(run / f"plots/mask_heatmap/{record.name}__img1.png"))
    image = np.asarray(Image.open(run / record.views[1].image))
    np.testing.assert_array_equal(drawn, overlay.mask(image, record.keep_mask[256:], record.views[1]))
    kept, dropped = (np.flatnonzero(record.keep_mask[256:] == said)[0] for said in (True, False))
    for patch, same in ((kept, True), (dropped, False)):
        inside = tuple(slice(14 * at + 2, 14 * at + 12) for at in divmod(patch, 16))
        assert np.array_equal(drawn[inside], image[inside]) == same

    assert main(["trace", "tokens", "--run_root", str(run)]) == 0
    rows = [json.loads(line) for line in (run / "report/tokens.jsonl").read_text().splitlines()]
    assert [(row["task_id"], row["step"]) for row in rows] == [(task, step) for task in (0, 1) for step in (10, 18, 26)]
    for row in rows:
        assert row["delta_seq_len"] == PATCHES - row["num_kept"] and row["kept_ratio"] == row["num_kept"] / PATCHES
        assert row["pre_task_len"] == row["post_task_len"] == TASK_LEN
        assert {"score_max_mean", "entropy_mean", "forward_latency_s", "task_suite"} <= row.keys()
    summary = json.loads((run / "report/tokens_summary.json").read_text())
    assert summary["schema_problems"] == {} and summary["unreadable"] == []
    assert summary["coverage"]["pre_seq_len"]["ratio"] == 1

    assert main(["trace", "report", "--run_root", str(run)]) == 0
    assert "libero_spatial" in (run / "report/index.html").read_text()
    assert "schema" not in capsys.readouterr().out


def test_coverage_tells_absent_from_not_understood(run, capsys):
    change(dump_paths(run)[0], lambda dump: dump["routing"].update(temperature=0.5))
    change(dump_paths(run)[0], lambda dump: dump["capabilities"].append("routing_moe"))
    assert main(["trace", "tokens", str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 fields that the trace schema does not have are left alone: capabilities: routing_moe (1 dumps)" in said
    content = json.loads((run / "report/capabilities.json").read_text())
    fields = content["fields"]
    assert fields["not_understood"] == {"capabilities: routing_moe": 1, "routing.temperature": 1}
    assert fields["read"]["routing.keep_mask"] == fields["read"]["align.patch_grid_hw"] == 6
    assert fields["read"]["attn.task_to_vis.*"] == 6 and fields["told_elsewhere"]["align.seq_layout"] == 6
    assert {"routing.raw_score", "perf.stages_ms", "align.flips"} <= set(fields["absent"]) <= set(leaves())
    assert "align.patch_grids" not in fields["absent"]
    held = {name: said["available"] for name, said in content["capabilities"].items()}
    assert [name for name, there in held.items() if there] == [
        *("images", "routing", "router_scores", "seq_lens", "score_stats", "attn", "perf")
    ]
    assert content["views"] == ["img0", "img1"] and content["extra"]["final_success_rate"] == 0.9
    assert main(["trace", "tokens", str(run)]) == 0
    assert json.loads((run / "report/capabilities.json").read_text()) == content


@pytest.mark.parametrize("moved", [False, True])
def test_pictures_are_found_wherever_the_folder_stands(tmp_path, moved):
    run = write_lightvla_run(tmp_path / "run", tasks=1, queries=1)  # absolute paths
    if moved:
        run = run.rename(tmp_path / "elsewhere")
    (record,) = [read_record(path, run) for path in dump_paths(run)]
    assert all((run / view.image).is_file() for view in record.views)


def test_no_picture_outside_the_run_folder(run):
    outside = ["/etc/images/../../secret.png", "/etc/hostname"]
    change(dump_paths(run)[0], lambda dump: dump["align"].update(image_paths=outside))
    with pytest.raises(FoveateError, match=r"align.image_paths: expected a path in the run folder"):
        read_record(dump_paths(run)[0], run)
    change(dump_paths(run)[0], lambda dump: dump["align"].update(image_paths=outside[1:] * 2))
    assert [view.image for view in read_record(dump_paths(run)[0], run).views] == ["", ""]


def test_one_call_without_a_simulator(tmp_path):
    """As `dump_routing_from_predict_action.py` writes it: no task, one picture that is not saved, a raw score."""
    dump = lightvla_dump(np.random.default_rng(1), {"sample_id": "sample_000001", "exp_name": "minimal"}, [])
    for name in ("keep_mask", "indices", "keep_counts", "router_scores"):
        dump["routing"][name] = dump["routing"][name][:, :256]
    dump["routing"]["raw_score"] = torch.rand(1, 256, 256, dtype=torch.bfloat16)
    dump["align"] |= {"image_size_hw": (256, 256), "num_images_in_input": 1}
    dump["outputs_summary"] = {"action_type": "tuple"}
    dump["capabilities"] = [*dump["capabilities"][:-1], "routing_raw_score"]
    del dump["align"]["image_paths"], dump["attn"]
    (tmp_path / "dumps").mkdir()
    torch.save(dump, tmp_path / "dumps/sample_000001.pt")
    record = read_record(tmp_path / "dumps/sample_000001.pt", tmp_path)
    assert record.name == "sample_000001" and record.num_patches == 256 and record.views[0].source_hw == (256, 256)
    adopted = adopt(read_dump(tmp_path / "dumps/sample_000001.pt"))
    assert adopted["routing"]["raw_score"].shape == (256, 256) and adopted["capabilities"]["raw_score"]
    assert main(["trace", "tokens", str(tmp_path)]) == 0
    assert main(["trace", "plot", str(tmp_path)]) == 0


def test_what_the_scripts_did_not_find_is_absent(run):
    """They write None for a grid, statistics and lengths that their hooks did not see."""

    def forget(dump):
        dump["align"]["patch_grid_hw"] = None
        dump["routing"]["score_stats"]["entropy_per_query"] = None
        dump["routing"]["seq_lens"]["post_task_len"] = None
        dump["attn"]["task_to_vis"] = {}

    change(dump_paths(run)[0], forget)
    record = read_record(dump_paths(run)[0], run)
    assert record.views[1].grid == (16, 16) and not record.attn
    assert set(record.stats) == {"max_per_query"} and "post_task_len" not in record.seq_lens
    problems = validate(adopt(read_dump(dump_paths(run)[0])))
    assert problems == ["capabilities.attn: says True, the dump says False"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d["routing"].update(keep_mask=torch.ones(2, PATCHES, dtype=torch.bool)), "holds one inference"),
        (lambda d: d["align"].update(patch_grid_hw=(16, 12)), "has 512 patches, the grids of align have 384"),
        (lambda d: d["align"].update(num_images_in_input=0), "expected 1 to 64 pictures, got 0"),
        (lambda d: d["align"].update(patch_grid_hw=None, num_images_in_input=3), "are not 3 squares"),
        (lambda d: d["routing"].update(router_scores=torch.full((1, PATCHES), torch.nan)), "not finite"),
        (lambda d: d.update(routing=[1]), "routing: expected a dict, got list"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(run, edit, said):
    change(dump_paths(run)[0], edit)
    with pytest.raises(FoveateError, match=said):
        read_record(dump_paths(run)[0], run)
