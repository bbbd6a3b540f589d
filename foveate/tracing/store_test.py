"""The store: what goes in comes out, nothing stalls or kills a run, and damaged files are named."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.errors import FoveateError
from foveate.testing.faults import UNEXPECTED
from foveate.testing.runs import inference, layout
from foveate.tracing import store as store_module
from foveate.tracing.schema import CAPABILITIES, FIELDS, validate
from foveate.tracing.store import TraceStore, dump_paths, forget_unfinished, iter_dumps, lacking_dumps, read_dump
from foveate.types import Observation, VisionDecision

RNG = np.random.default_rng(0)


def meta(step: int = 0, query: int | None = None, **more):
    query = step if query is None else query
    return {"task": "push", "task_id": 3, "episode": 1, "step": step, "query": query, "variant": "lightvla", **more}


def test_a_dump_holds_what_was_submitted(tmp_path):
    trace, observation = inference(RNG, 0.3, 20, layout(), side=(120, 200))
    trace.decision = VisionDecision({"corner": "FULL", "gripperPOV": "COARSE"}, {"corner": 0.9}, 64)
    with TraceStore(tmp_path, model_image_size=112) as store:
        store.submit(trace, observation, meta(step=5, query=1, seed=np.int64(7)), np.ones((3, 4)))
    assert store.close() == {"written": 1, "dropped": 0, "failed": 0, "warning": None}

    path = tmp_path / "dumps/task003/ep001/step00005.pt"
    raw = torch.load(path, weights_only=True)
    assert validate(raw) == []
    assert raw["meta"] == {**meta(step=5, query=1), "seed": 7, "sample_id": "task003_ep001_step00005"}
    assert raw["align"] == {
        "views": ["corner", "gripperPOV"],
        "patch_grids": {"corner": [8, 8], "gripperPOV": [8, 8]},
        "num_images_in_input": 2,
        "image_paths": [f"images/task003/ep001/step00005__img{i}.png" for i in range(2)],
        "source_sizes": {"corner": [120, 200], "gripperPOV": [120, 200]},
        "model_image_size": [112, 112],
    }
    routing = raw["routing"]
    mask = trace.keep["keep_mask"]
    assert routing["keep_mask"].numpy().tolist() == mask.tolist()
    assert routing["indices"].tolist() == np.flatnonzero(mask).tolist()
    assert routing["keep_counts"].tolist() == [mask[:64].sum(), mask[64:].sum()]
    assert routing["kept_ratio"] == 20 / 128
    assert torch.equal(routing["router_scores"], torch.from_numpy(trace.keep["router_scores"]))
    assert routing["seq_lens"] == trace.seq_lens
    assert set(routing["score_stats"]) == {"max_per_query", "entropy_per_query", "tied_per_query"}
    assert routing["score_stats"]["tied_per_query"].dtype == torch.bool
    assert torch.equal(raw["attn"]["task_to_vis"][2], torch.from_numpy(trace.attn[2]))
    assert raw["perf"]["stages_ms"]["kv_cache"] == trace.timings_ms["prefill"]
    assert raw["perf"]["forward_latency_s"] == pytest.approx(trace.timings_ms["total"] / 1e3)
    assert raw["action"].tolist() == [[1.0] * 4] * 3 and raw["observation"]["state"].tolist() == [0.0] * 4
    assert raw["decision"]["level"] == {"corner": "FULL", "gripperPOV": "COARSE"}
    held = {name for name, there in raw["capabilities"].items() if there}
    assert held == set(raw["capabilities"]) - {"raw_score"}
    with Image.open(tmp_path / raw["align"]["image_paths"][1]) as image:
        assert np.array_equal(np.asarray(image), observation.images["gripperPOV"])


def test_absent_parts_are_absent_keys(tmp_path):
    trace, observation = inference(RNG, 0.3, None, layout())
    trace.attn, trace.timings_ms = {}, {}
    with TraceStore(tmp_path, save_images=False, dump_routing=False) as store:
        store.submit(trace, observation, meta())
    dump = read_dump(dump_paths(tmp_path)[0])
    assert set(dump) == {"schema_version", "meta", "align", "observation", "capabilities"}
    assert not any(dump["capabilities"].values())
    assert validate(dump) == []
    assert not (tmp_path / "images").exists()


def test_an_absent_camera_has_no_picture(tmp_path):
    trace, observation = inference(RNG, 0.3, 20, layout())
    one = Observation({"front": observation.images["corner"]}, observation.state, "go")
    with TraceStore(tmp_path, views={"corner": ("rear", "front"), "gripperPOV": ()}) as store:
        store.submit(trace, one, meta())
    align = read_dump(dump_paths(tmp_path)[0])["align"]
    assert align["num_images_in_input"] == 1
    assert align["image_paths"] == ["images/task003/ep001/step00000__img0.png", ""]


def test_a_picture_is_copied_before_submit_returns(tmp_path):
    trace, observation = inference(RNG, 0.3, 20, layout())
    before = observation.images["corner"].copy()
    with TraceStore(tmp_path) as store:
        store.submit(trace, observation, meta())
        observation.images["corner"][:] = 0
    with Image.open(tmp_path / "images/task003/ep001/step00000__img0.png") as image:
        assert np.array_equal(np.asarray(image), before)


def test_max_dumps_counts_those_of_an_interrupted_run(tmp_path):
    trace, observation = inference(RNG, 0.3, 20, layout())
    with TraceStore(tmp_path, max_dumps=3, save_images=False) as store:
        store.submit(trace, observation, meta(step=1))
    with TraceStore(tmp_path, max_dumps=3, save_images=False) as store:
        for step in range(1, 6):
            store.submit(trace, observation, meta(step=step))
    assert store.close() == {"written": 3, "dropped": 2, "failed": 0, "warning": None}
    assert [p.name for p in dump_paths(tmp_path)] == ["step00001.pt", "step00002.pt", "step00003.pt"]


def test_a_cap_spreads_over_episodes_and_takes_pictures_along(tmp_path):
    trace, observation = inference(RNG, 0.3, 20, layout())
    with TraceStore(tmp_path, max_dumps=6) as store:
        for episode in range(3):
            for query in range(6):
                store.submit(trace, observation, meta(episode=episode, step=5 * query, query=query))
    assert store.close() == {"written": 6, "dropped": 12, "failed": 0, "warning": None}
    assert [p.parent.name for p in dump_paths(tmp_path)] == ["ep000", "ep000", "ep001", "ep001", "ep002", "ep002"]
    assert len(list((tmp_path / "images").rglob("*.png"))) == 2 * 6


def test_an_episode_that_starts_again_leaves_nothing_of_its_first_attempt(tmp_path):
    trace, observation = inference(RNG, 0.3, 20, layout())
    for steps in ((0, 5, 10), (0, 6)):
        with TraceStore(tmp_path) as store:
            for query, step in enumerate(steps):
                store.submit(trace, observation, meta(step=step, query=query))
    assert [p.name for p in dump_paths(tmp_path)] == ["step00000.pt", "step00006.pt"]
    assert len(list((tmp_path / "images").rglob("*.png"))) == 4


def test_a_folder_that_cannot_be_written_stops_before_the_run(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(FoveateError, match=r"run: the trace cannot be written there .*--trace_out_dir"):
        TraceStore(tmp_path / "run")


def test_a_disk_that_fails_ends_the_trace_and_not_the_run(tmp_path):
    trace, observation = inference(RNG, 0.3, 20, layout())
    store = TraceStore(tmp_path)
    shutil.rmtree(tmp_path / "dumps")
    (tmp_path / "dumps").write_text("in the way")
    for step in range(5):
        store.submit(trace, observation, meta(step=step))
    stats = store.close()
    assert (stats["written"], stats["failed"], stats["dropped"]) == (0, 1, 4)
    assert "task003_ep001_step00000 could not be written" in stats["warning"]
    assert store.warnings == [stats["warning"]]


def test_submit_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    trace, observation = inference(RNG, 0.3, 20, layout())
    gate, write = threading.Event(), store_module.write_bytes
    monkeypatch.setattr(store_module, "write_bytes", lambda *args, **how: (gate.wait(20), write(*args, **how)))
    store = TraceStore(tmp_path, save_images=False)
    for step in range(50):
        store.submit(trace, observation, meta(step=step))
    assert dump_paths(tmp_path) == []
    gate.set()
    assert store.close()["written"] == 50


def test_a_corrupt_dump_among_good_ones_is_named(tmp_path):
    trace, observation = inference(RNG, 0.3, 20, layout())
    with TraceStore(tmp_path, save_images=False) as store:
        for step in range(3):
            store.submit(trace, observation, meta(step=step))
    paths = dump_paths(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    torch.save({"schema_version": "v9"}, paths[2])
    results = [result for _, result in iter_dumps(tmp_path)]
    assert isinstance(results[0], dict)
    told = str(results[1])
    assert isinstance(results[1], FoveateError) and "step00001.pt: not a readable dump: expected tensors" in told
    assert "it is cut short" in told and "delete it" in told and "PytorchStreamReader" not in told
    assert isinstance(results[2], FoveateError) and "got schema_version 'v9'" in str(results[2])


def test_a_dump_with_code_in_it_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "dumps/task000/ep000/step00000.pt"
    path.parent.mkdir(parents=True)
    torch.save(Evil(), path)
    with pytest.raises(FoveateError, match="not a readable dump"):
        read_dump(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d["routing"].update(keep_mask=np.ones(5, bool)), "routing.keep_mask: expected shape [128], got [5]"),
        (lambda d: d["routing"].update(router_scores=np.ones(128)), "router_scores: expected float32, got float64"),
        (lambda d: d["routing"].update(indices=np.zeros(3, np.int64)), "routing.indices: 3 patches, but keep_mask"),
        (lambda d: d["meta"].pop("step"), "meta.step: missing"),
        (lambda d: d["meta"].update(step="5"), "meta.step: expected int, got str"),
        (lambda d: d["align"]["patch_grids"].pop("corner"), "no grid for view 'corner'"),
        (lambda d: d["capabilities"].update(attn=False), "capabilities.attn: says False, the dump says True"),
        (lambda d: d["attn"]["task_to_vis"].update({1: [1, 2]}), "attn.task_to_vis.1: expected a tensor [H P]"),
    ],
)
def test_validate_names_what_is_wrong(tmp_path, change, problem):
    trace, observation = inference(RNG, 0.3, 20, layout())
    with TraceStore(tmp_path) as store:
        store.submit(trace, observation, meta())
    dump = read_dump(dump_paths(tmp_path)[0])
    assert validate(dump) == []
    change(dump)
    assert any(problem in text for text in validate(dump)), validate(dump)


def test_the_documentation_names_every_field_and_no_other():
    text = (Path(__file__).parents[2] / "docs/trace-schema.md").read_text()
    table = text[text.index("## A dump") : text.index("## Where a patch lies")]
    documented = re.findall(r"^\| `([\w.*]+)` \|", table, re.M)
    assert documented == [field.path for field in FIELDS]
    for name in CAPABILITIES:
        assert name in table


def test_flush_returns_when_all_that_was_submitted_is_on_disk(tmp_path, monkeypatch):
    trace, observation = inference(RNG, 0.3, 20, layout())
    write, begun = TraceStore._write, threading.Event()

    def slow(store, sample):
        begun.wait(1.0)
        write(store, sample)

    monkeypatch.setattr(TraceStore, "_write", slow)
    with TraceStore(tmp_path, save_images=False) as store:
        store.submit(trace, observation, meta(step=0))
        store.submit(trace, observation, meta(step=1))
        assert dump_paths(tmp_path) == []
        begun.set()
        store.flush()
        assert len(dump_paths(tmp_path)) == 2


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["_pictures", "_dump"])
def test_one_odd_inference_is_named_and_the_trace_goes_on(tmp_path, monkeypatch, error, where):
    trace, observation = inference(RNG, 0.3, 20, layout())
    usual, calls = getattr(TraceStore, where), iter(range(3))

    def odd(*arguments):
        if next(calls) == 1:
            raise error
        return usual(*arguments)

    monkeypatch.setattr(TraceStore, where, odd)
    with TraceStore(tmp_path, save_images=False) as store:
        for step in range(3):
            store.submit(trace, observation, meta(step=step))
    assert [path.name for path in dump_paths(tmp_path)] == ["step00000.pt", "step00002.pt"]
    told = store.close()
    assert told["failed"] == 1 and "task003_ep001_step00001 could not be written" in told["warning"]


def test_dumps_of_episodes_that_never_ended_go_and_lacking_ones_are_known(tmp_path):
    trace, observation = inference(RNG, 0.3, 20, layout())
    with TraceStore(tmp_path) as store:
        for episode in range(3):
            for step in (0, 5):
                store.submit(trace, observation, {**meta(step=step), "episode": episode})
    forget_unfinished(tmp_path, {(3, 0), (3, 2)})
    assert [path.parent.name for path in dump_paths(tmp_path)] == ["ep000", "ep000", "ep002", "ep002"]
    assert len(list((tmp_path / "images").rglob("*.png"))) == 8
    asked = [{"task_id": 3, "episode": episode, "step": 5} for episode in range(3)]
    assert lacking_dumps(tmp_path, asked) == ["task003_ep001_step00005"]
