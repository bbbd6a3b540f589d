import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.evaluation.sim.collapse import KeepWatch
from foveate.evaluation.sim.simulate import EnvConfig, SimConfig, name_variant, trace_warnings
from foveate.pruning import make_pruner
from foveate.testing.runs import inference, layout
from foveate.tracing.store import TraceStore
from foveate.types import Span, TokenLayout


@pytest.mark.parametrize(
    ("pruner", "options", "expected"),
    [
        (None, {}, "full"),
        ("none", {}, "full"),
        ("lightvla", {}, "lightvla"),
        ({"name": "random", "keep_ratio": 0.125}, {}, "random_0.125"),
        ({"name": "stride", "keep_tokens": 16}, {}, "stride_16"),
        (None, {"vision": "blind"}, "blind"),
        ("lightvla", {"instruction": "shuffled"}, "lightvla_shuffled_instruction"),
        ("lightvla", {"variant": "mine"}, "mine"),
    ],
)
def test_variants_have_telling_names(pruner, options, expected):
    policy = SimpleNamespace(pruner=make_pruner(pruner))
    assert name_variant(SimConfig(policy="p", **options), policy) == expected


def test_jobs_pair_scenes_across_variants():
    jobs = SimConfig(policy="p", task_suite_name="push,reach", num_trials_per_task=2, seed=40).jobs()
    assert [(j.task, j.task_id, j.episode, j.seed) for j in jobs] == [
        ("push-v3", 0, 0, 40),
        ("push-v3", 0, 1, 41),
        ("reach-v3", 1, 0, 40),
        ("reach-v3", 1, 1, 41),
    ]


@pytest.mark.parametrize(
    "field", ["num_trials_per_task", "replan_steps", "num_workers", "max_batch", "num_steps", "action_horizon"]
)
def test_numbers_are_at_least_one(field):
    with pytest.raises(FoveateError, match=f"{field}: expected at least 1, got 0"):
        SimConfig(policy="p", **{field: 0})


def test_numbers_that_no_simulator_takes():
    with pytest.raises(FoveateError, match="seed: expected at least 0"):
        SimConfig(policy="p", seed=-1)
    for field in ("timeout_s", "image_size", "max_steps"):
        with pytest.raises(FoveateError, match=field):
            EnvConfig(**{field: 0})


def test_environment_options_are_passed_only_where_given():
    assert EnvConfig().options() == {}
    assert EnvConfig(image_size=96, max_steps=50).options() == {"image_size": 96, "max_steps": 50}


def test_a_collapsed_pruner_is_told():
    layout = TokenLayout((Span("corner", "image", 0, 64, (8, 8)), Span("text", "text", 64, 70)))
    watch = KeepWatch()
    for query in range(20):
        mask = np.arange(64) < 2
        watch.add(("push-v3", 0, query), {"keep_mask": mask, "valid": np.ones(64, bool)}, layout.view_slices)
    warnings = watch.warnings()
    assert "collapse" in warnings[0] and "2 of 64" in warnings[0]
    assert any("corner[0]" in w for w in warnings)
    assert KeepWatch().warnings() == []


def test_scores_that_compete_over_all_views_are_no_flat_ones() -> None:
    """Two views of 64 patches: nine tenths of the uniform entropy of 128 is more than the uniform one of 64."""
    for share, flat in ((0.9, False), (1.0, True)):
        watch = KeepWatch()
        for step in range(30):
            keep = {"keep_mask": np.arange(128) % 7 == step % 7, "entropy_per_query": np.full(128, share * np.log(128))}
            watch.add(("go", 0, step), keep, {"a": slice(0, 64), "b": slice(64, 128)})
        assert any("flat scores" in warning for warning in watch.warnings()) == flat


def test_inferences_without_a_dump_are_counted(tmp_path):
    trace, observation = inference(np.random.default_rng(0), 0.3, 20, layout())
    store = TraceStore(tmp_path, max_dumps=1)
    for step in range(2):
        store.submit(trace, observation, {"task_id": 0, "episode": 0, "step": step, "query": step})
    assert trace_warnings(store) == []  # a limit that was asked for is no fault
    store = TraceStore(tmp_path / "full")
    shutil.rmtree(tmp_path / "full/dumps")
    (tmp_path / "full/dumps").write_text("in the way")
    for step in range(4):
        store.submit(trace, observation, {"task_id": 0, "episode": 0, "step": step, "query": step})
    reason, count = trace_warnings(store)
    assert "could not be written" in reason and count == "trace: no dump of 4 of 4 inferences"
