"""The Rerun recording, written and read back by the real SDK."""

from __future__ import annotations

from collections import Counter

import pytest

from foveate.cli.main import main
from foveate.errors import FoveateError
from foveate.testing.runs import write_run
from foveate.tracing.store import dump_paths
from foveate.viz.rerun import write_recording

pytestmark = pytest.mark.peer
pytest.importorskip("rerun", reason='the SDK is not installed: pip install "foveate[rerun]"')


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", tasks=("reach",), episodes=2, queries=3, side=(48, 64))


def rows_of(path) -> tuple[Counter, set[str]]:
    """Entity -> rows logged, and the timelines."""
    chunk = pytest.importorskip("rerun.chunk", reason="this SDK does not read recordings")
    rows: Counter[str] = Counter()
    timelines: set[str] = set()
    for part in chunk.RrdReader(path).stream():
        rows[part.entity_path] += part.num_rows
        timelines |= set(part.timeline_names)
    return rows, timelines


def test_everything_is_on_one_timeline(run, tmp_path):
    seen = []
    done = write_recording(run, tmp_path / "a/run.rrd", on_inference=lambda: seen.append(1))
    assert (done.inferences, done.left_out, done.unreadable, len(seen)) == (6, 0, [], 6)
    rows, timelines = rows_of(done.path)
    assert {"inference", "step"} <= timelines
    for view in ("corner", "gripperPOV"):
        for kind in ("camera", "kept", "score", "attention/layer01", "attention/layer02"):
            assert rows[f"/{kind}/{view}"] == 6, kind
    assert rows["/tokens/kept"] == rows["/ms/total"] == rows["/ms/prefill"] == rows["/actions/3"] == 6
    assert rows["/episode"] == 2 and "/ms/kv_cache" not in rows


def test_a_blueprint_comes_along(run, tmp_path):
    chunk = pytest.importorskip("rerun.chunk", reason="this SDK does not read recordings")
    done = write_recording(run, tmp_path / "run.rrd", limit=1)
    assert done.left_out == 5
    assert len(chunk.RrdReader(done.path).blueprints()) == 1


def test_a_damaged_dump_is_passed_over(run, capsys):
    dump_paths(run)[1].write_bytes(b"no dump")
    assert main(["trace", "rerun", str(run)]) == 3
    said = capsys.readouterr().out
    assert "step00005.pt: not a readable dump" in said and "5 inferences in" in said
    assert (run / "report/run.rrd").stat().st_size > 10_000


def test_a_run_of_damaged_dumps_leaves_no_file(run, tmp_path):
    for path in dump_paths(run):
        path.write_bytes(b"")
    with pytest.raises(FoveateError, match="no dump of 6 can be used"):
        write_recording(run, tmp_path / "out/run.rrd")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FoveateError, match="expected dumps/taskXXX"):
        write_recording(tmp_path, tmp_path / "run.rrd")
