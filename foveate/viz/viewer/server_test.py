"""What the viewer answers, and what it does not: an ASGI conversation without sockets."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason='the viewer is not installed: pip install "foveate[view]"')

from foveate.errors import FoveateError
from foveate.geometry import patch_axes
from foveate.testing.runs import write_run
from foveate.tracing.record import read_record
from foveate.tracing.store import dump_paths
from foveate.viz.overlay import heat
from foveate.viz.viewer.server import STATIC, _listen, make_app


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.body = status, body
        self.headers = {name.decode(): text.decode() for name, text in headers}

    @property
    def json(self):
        return json.loads(self.body)


def ask(app, path, method="GET", host="127.0.0.1:8421", **headers) -> Answer:
    """One request, the path as it stands: nothing on the way tidies it up."""
    path, _, query = path.partition("?")
    named = {"host": host, **{name.replace("_", "-"): text for name, text in headers.items()}}
    scope = {
        **{"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode()},
        **{"headers": [(n.encode(), t.encode()) for n, t in named.items()], "scheme": "http", "root_path": ""},
        **{
            "server": ("127.0.0.1", 8421),
            "client": ("127.0.0.1", 1),
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
        },
    }
    said, asked = [], []

    async def receive():
        if asked:
            await asyncio.Event().wait()  # the connection stays
        asked.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        said.append(message)

    asyncio.run(app(scope, receive, send))
    return Answer(said[0]["status"], said[0]["headers"], b"".join(m.get("body", b"") for m in said[1:]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        write_run(root / name, variant=name, keep=keep, tasks=("reach", "push"), queries=5, side=(96, 128))
        for name, keep in (("full", None), ("lightvla", 20))
    ]


@pytest.fixture(scope="module")
def app(folders):
    return make_app(folders)


AT = "/api/runs/1/episodes/1.1"


def test_runs_episodes_and_inferences(app):
    about = ask(app, "/api").json
    assert [run["name"] for run in about["runs"]] == ["full", "lightvla"] and not about["can_check"]
    assert len(about["palettes"]["viridis"]) == 256
    episodes = ask(app, "/api/runs/1").json["episodes"]
    assert [(e["task"], e["episode"], e["status"]) for e in episodes][-1] == ("push", 1, "crash")
    moments = ask(app, f"{AT}/moments").json
    assert moments["steps"] == [0, 5, 10, 15, 20] and all(moments["dumps"])
    assert moments["series"] == {}  # this folder has no log of its inferences
    told = ask(app, f"{AT}/actions").json
    assert len(told["actions"]) == 4 and told["steps"] == list(range(25))
    assert all(15 <= kept <= 25 for kept in told["series"]["num_kept"]) and min(told["series"]["total_ms"]) > 10


def test_an_inference_is_what_its_dump_says(app, folders):
    record = read_record(next(p for p in dump_paths(folders[1]) if "task001/ep001/step00010" in str(p)), folders[1])
    frame = ask(app, f"{AT}/frames/2").json
    assert frame["keep"] == "".join("01"[int(bit)] for bit in record.keep_mask)
    rows, columns = patch_axes((8, 8), (96, 128), (128, 128))
    assert frame["views"][1]["rows"] == rows.tolist() and frame["views"][1]["columns"] == columns.tolist()
    assert frame["views"][1]["start"] == 64 and frame["attention"] == {"1": 4, "2": 4}
    drawn = heat(record)
    for query, expected in (
        ("kind=score", drawn["score_heatmap"]),
        ("kind=attention&layer=2", drawn["attn_task_to_vis/layer02"]),
    ):
        told = ask(app, f"{AT}/frames/2/heat?{query}").json
        assert told["values"] == expected.values.tolist() and (told["low"], told["high"]) == expected.scale
    head = ask(app, f"{AT}/frames/2/heat?kind=attention&layer=2&head=3").json
    assert head["values"] == record.attn[2][3].tolist() and head["high"] == pytest.approx(
        float(record.attn[2][3].max())
    )
    picture = ask(app, f"{AT}/frames/2/pictures/1")
    assert picture.headers["content-type"] == "image/png"
    assert picture.body == (folders[1] / record.views[1].image).read_bytes()


def test_where_two_episodes_part(app):
    asked = "/api/part?a=0&ea=0.0&b=1&eb=0.0&tolerance={}"
    # The made-up actions drift by 0.1 from the third inference on, of a range of about 1.5.
    assert ask(app, asked.format(0.05)).json["step"] == 10
    assert ask(app, asked.format(0.1)).json["step"] == 15
    assert ask(app, asked.format(0.9)).json["step"] is None
    assert ask(app, asked.format(7)).status == 404


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/runs/2", 404, "no run 2; there are 2"),
        ("/api/runs/0/episodes/9.9/moments", 404, "no episode '9.9' in it; it has 4 episodes"),
        ("/api/runs/0/episodes/<b>/moments", 404, "no episode '<b>'"),
        (f"{AT}/frames/5", 404, "no inference 5; there are 5"),
        (f"{AT}/frames/0/pictures/2", 404, "no picture of view 2"),
        (f"{AT}/frames/0/heat?kind=attention&layer=7", 404, "no attention of layer 7; layers: 1, 2"),
        (f"{AT}/frames/0/heat?kind=attention&layer=1&head=4", 404, "layer 1 has heads 0 to 3"),
        (f"{AT}/frames/0/heat?kind=scores", 404, "did you mean 'score'?"),
        (f"{AT}/frames/0/heat?kind=attention&layer=one", 400, "invalid literal"),
        (f"{AT}/frames/0/heat", 400, "'kind'"),
        ("/api/runs/0/episodes/0.0/frames/0/heat?kind=score", 404, "gives patches no scores"),
    ],
)
def test_what_is_not_there_is_named(app, path, status, said):
    answer = ask(app, path)
    assert answer.status == status and said in answer.json["error"]
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/static/",
        "/../../etc/passwd",
        "/api/runs/0/episodes/../../full/episodes.jsonl",
        "/api/runs/0/episodes/0.0/frames/0/pictures/-1",
        "/api/runs/-1",
        "/api/runs/0/episodes/\0/moments",
        "/dumps/task000/ep000/step00000.pt",
    ],
)
def test_nothing_else_is_served(app, path):
    assert ask(app, path).status in (404, 405)


def test_every_answer_is_fenced(app):
    for path in ("/", "/api", "/static/app.js", "/theme.css", "/nothing", f"{AT}/frames/0/pictures/0"):
        headers = ask(app, path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert ask(app, "/", host="evil.example").status == 400  # DNS rebinding
    assert ask(app, "/api", host="localhost:1").status == 200
    for method in ("POST", "PUT", "DELETE"):
        assert ask(app, "/api", method).status == 405


def test_the_page_asks_for_nothing_from_elsewhere():
    for path in STATIC.iterdir():
        text = path.read_text()
        assert "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text, path
        assert "innerHTML" not in text and "eval(" not in text, path


@pytest.fixture
def spoilt(folders, tmp_path):
    """A copy whose first episode can be spoilt, and where its pictures are."""
    folder = tmp_path / "spoilt"
    shutil.copytree(folders[1], folder)
    return folder, folder / "images/task000/ep000/step00000__img0.png"


def test_a_picture_from_outside_is_not_shown(spoilt, tmp_path):
    folder, picture = spoilt
    secret = tmp_path / "secret.png"
    Image.new("RGB", (128, 96), "red").save(secret)
    picture.unlink()
    os.symlink(secret, picture)
    app = make_app([folder])
    at = "/api/runs/0/episodes/0.0/frames/0"
    frame = ask(app, at).json
    assert [view["picture"] for view in frame["views"]] == [False, True]
    assert "lies outside the run folder" in frame["problems"][0]
    assert ask(app, f"{at}/pictures/0").status == 404


def test_a_picture_that_is_none_is_named(spoilt):
    folder, picture = spoilt
    picture.write_text("<svg onload='alert(1)'/>")
    app = make_app([folder])
    at = "/api/runs/0/episodes/0.0/frames/0"
    assert "not a readable picture" in ask(app, at).json["problems"][0]
    answer = ask(app, f"{at}/pictures/0")
    assert answer.status == 404 and b"<svg" not in answer.body
    Image.new("RGB", (64, 64)).save(picture)
    assert "64x64 pixels, where its dump says 128x96" in ask(app, at).json["problems"][0]


def test_other_kinds_of_pictures_become_png(spoilt):
    folder, picture = spoilt
    red = Image.new("RGB", (128, 96), "red")
    for kind, media in (("JPEG", "image/jpeg"), ("BMP", "image/png")):
        red.save(picture, kind)
        answer = ask(make_app([folder]), "/api/runs/0/episodes/0.0/frames/0/pictures/0")
        assert answer.headers["content-type"] == media
        with Image.open(io.BytesIO(answer.body)) as shown:
            assert np.asarray(shown.convert("RGB"))[0, 0, 0] > 250


def test_a_damaged_dump_is_named_and_the_others_are_shown(spoilt):
    folder, _ = spoilt
    dump_paths(folder)[1].write_bytes(b"no dump")
    app = make_app([folder])
    at = "/api/runs/0/episodes/0.0"
    answer = ask(app, f"{at}/frames/1")
    assert answer.status == 404 and "step00005.pt: not a readable dump" in answer.json["error"]
    assert ask(app, f"{at}/frames/2").status == 200
    told = ask(app, f"{at}/actions").json
    assert len(told["problems"]) == 1 and told["series"]["num_kept"][1] is None
    with_names = [line for line in told["steps"] if 5 <= line < 10]
    assert with_names == []  # the chunk before it has five actions


def test_a_check_is_for_this_page_and_a_policy(folders):
    at = "/api/runs/1/episodes/0.0/frames/3/check"
    assert "--policy" in ask(make_app(folders), at, "POST").json["error"]
    seen = []
    app = make_app(folders, lambda record, images: seen.append((record.name, images)) or {"cases": []})
    assert ask(app, "/api").json["can_check"]
    assert ask(app, at).status == 405
    assert ask(app, at, "POST", sec_fetch_site="cross-site").status == 404 and not seen
    assert ask(app, at, "POST", sec_fetch_site="same-origin").json == {"cases": []}
    ((name, images),) = seen
    assert name == "task000_ep000_step00015" and images["corner"].shape == (96, 128, 3)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FoveateError, match=rf"port {port} .* in use by .*python.*process {os.getpid()}\).*--port"):
            _listen(port)
    with pytest.raises(FoveateError, match=r"cannot listen on 127\.0\.0\.1:70000"):
        _listen(70000)
