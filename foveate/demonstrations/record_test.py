import importlib.util
import json

import pytest

from foveate.cli.data.demos import metaworld_demos
from foveate.data.demos import DemoDataset, episode_path
from foveate.demonstrations.config import LiberoDemosConfig, MetaWorldDemosConfig
from foveate.demonstrations.record import SEED_STRIDE, episodes_of, record_demos
from foveate.errors import FoveateError

needs_metaworld = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs metaworld")


def test_libero_is_recorded_from_states_that_are_not_evaluated_on():
    config = LiberoDemosConfig("x", tasks="libero_object/2:70,libero_spatial/0:1")
    planned = episodes_of(config)
    assert [e.task for e in planned[-2:]] == ["libero_object/2", "libero_spatial/0"]
    scenes = [config.scene(e.seed) for e in planned[:70]]
    assert set(scenes) == set(range(20, 50))
    # A second attempt, and the same scene in another round, are disturbed in another way.
    assert len({e.seed + attempt * SEED_STRIDE for e in planned[:70] for attempt in range(3)}) == 210


def test_settings_of_each_simulator():
    assert (MetaWorldDemosConfig("x").image_every, LiberoDemosConfig("x").image_every) == (2, 5)
    assert MetaWorldDemosConfig("x").scene(10_003) == 10_003
    with pytest.raises(FoveateError, match="multiple of image_every"):
        LiberoDemosConfig("x", learner="metaworld_tiny", learner_steps=8)


@needs_metaworld
def test_plan_goes_task_by_task_whatever_the_workers():
    planned = episodes_of(MetaWorldDemosConfig("x", tasks="push:4,reach", episodes=2, workers=1))
    assert planned == episodes_of(MetaWorldDemosConfig("x", tasks="push:4,reach", episodes=2, workers=9))
    assert [e.task for e in planned] == ["push-v3"] * 4 + ["reach-v3"] * 2
    assert [e.index for e in planned] == list(range(6))
    assert [e.seed for e in planned if e.task == "push-v3"] == [10000, 10001, 10002, 10003]


@needs_metaworld
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store_size": 100}, "divisor"),
        ({"episodes": 0}, "at least 1"),
        ({"tasks": "push:many"}, "NAME:EPISODES"),
        ({"tasks": "psh"}, "did you mean 'push'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(FoveateError, match=message):
        episodes_of(MetaWorldDemosConfig("x", **options))


@needs_metaworld
def test_records_resumes_and_refuses_other_settings(tmp_path, capsys):
    out = tmp_path / "demos"
    argv = ["--out", str(out), "--tasks", "reach:2", "--workers", "1", "--image_size", "32", "--store-size", "16"]
    assert metaworld_demos(argv) == 0
    assert "2 episodes" in capsys.readouterr().out
    first = DemoDataset.load(out)
    assert [e.task for e in first.episodes] == ["move the gripper to the green marker"] * 2
    assert first.episodes[0].images["corner"].shape[1:] == (16, 16, 3)

    kept = episode_path(out, 0).stat().st_mtime_ns
    episode_path(out, 1).unlink()  # as if the recording had been interrupted
    (out / "meta/info.json").unlink()
    assert metaworld_demos(argv) == 0
    assert episode_path(out, 0).stat().st_mtime_ns == kept
    again = DemoDataset.load(out).episodes[1]
    assert (again.states == first.episodes[1].states).all()
    assert json.loads((out / "meta/info.json").read_text())["complete"]

    with pytest.raises(FoveateError, match="max_steps: 180 there, 100 asked for"):
        record_demos(MetaWorldDemosConfig(str(out), "reach:2", image_size=32, store_size=16, max_steps=100))


@needs_metaworld
def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FoveateError, match="cannot be written there"):
        record_demos(MetaWorldDemosConfig(str(tmp_path / "file" / "demos"), "reach:1"))
