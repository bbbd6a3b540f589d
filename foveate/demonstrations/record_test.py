import importlib.util
import json

import pytest

from foveate.cli.data.demos import metaworld_demos
from foveate.data.demos import DemoDataset, episode_path
from foveate.demonstrations.record import MetaWorldDemosConfig, episodes_of, record_demos
from foveate.errors import FoveateError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs metaworld")


def test_plan_goes_task_by_task_whatever_the_workers():
    planned = episodes_of(MetaWorldDemosConfig("x", tasks="push:4,reach", episodes=2, workers=1))
    assert planned == episodes_of(MetaWorldDemosConfig("x", tasks="push:4,reach", episodes=2, workers=9))
    assert [e.task for e in planned] == ["push-v3"] * 4 + ["reach-v3"] * 2
    assert [e.index for e in planned] == list(range(6))
    assert [e.seed for e in planned if e.task == "push-v3"] == [10000, 10001, 10002, 10003]


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


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FoveateError, match="cannot be written there"):
        record_demos(MetaWorldDemosConfig(str(tmp_path / "file" / "demos"), "reach:1"))
