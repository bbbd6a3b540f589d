"""The viewer in headless Chromium: what is drawn, and that it is reached by keyboard alone."""

from __future__ import annotations

import base64
import io
import json
import queue
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from foveate.testing.lightvla_runs import write_lightvla_run
from foveate.testing.runs import write_run
from foveate.tracing.record import read_record
from foveate.tracing.store import dump_paths
from foveate.viz.overlay import ATTN_COLORS, SCORE_COLORS, attention_heat, heat, heatmap, mask
from foveate.viz.plots import load_images

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(root / name, variant=name, keep=keep, tasks=("reach", "push"), queries=5, side=(96, 128))
        for name, keep in (("lightvla", 20), ("full", None))
    ]
    lines = [json.loads(line) for line in (runs[0] / "episodes.jsonl").read_text().splitlines()]
    lines[0]["instruction"] = "<img src=x onerror=\"document.title='owned'\">"
    (runs[0] / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return runs


def serving(folders, check=None) -> str:
    """The address of a viewer that lives as long as the tests."""
    pytest.importorskip("starlette", reason='the viewer is not installed: pip install "foveate[view]"')
    from foveate.viz.viewer.server import serve

    ready: queue.Queue[str] = queue.Queue()
    threading.Thread(target=serve, args=(folders, 0, check, ready.put), daemon=True).start()
    return ready.get(timeout=60)


@pytest.fixture(scope="module")
def url(folders):
    def check(record, images):
        cases = [{"name": "kept", "area": 0.2, "rms": 0.5}, {"name": "dropped", "area": 0.8, "rms": 0.01}]
        return {"reference": 0.001, "cases": cases}

    return serving(folders, check)


@pytest.fixture
def page(browser, url):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    context.close()


def open_at(page, url, state=""):
    page.goto("about:blank")
    page.goto(f"{url}#{state}")
    page.wait_for_selector("html[data-ready]")


def wait_for(page, script):
    """Until an expression is true; the page's own policy forbids the browser's way to wait for one."""
    for _ in range(400):
        if page.evaluate(script):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"in vain: {script}")


def at(page, step):
    wait_for(page, f"document.getElementById('at').textContent === 'step {step}'")


def pixels(page, view=0, pane=0) -> np.ndarray:
    canvas = f"document.querySelectorAll('.pane')[{pane}].querySelectorAll('.views canvas')[{view}]"
    encoded = page.evaluate(f"{canvas}.toDataURL('image/png')").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))  # a test's own picture


def test_opens_without_errors_and_asks_nobody_else(page, url):
    open_at(page, url)
    assert page.said == []
    assert all(address.startswith((url, "blob:", "about:")) for address in page.asked)
    assert page.locator(".views canvas").count() == 2
    assert page.locator("#charts svg path").count() >= 6
    assert page.title() == "foveate"
    assert "<img src=x" in page.inner_text(".facts q")  # a text stays a text


def test_overlays_are_those_of_the_plots_pixel_by_pixel(page, url, folders):
    path = next(path for path in dump_paths(folders[0]) if "task001/ep000/step00010" in str(path))
    record = read_record(path, folders[0])
    images, scores = load_images(record), heat(record)["score_heatmap"]
    drawn = {
        "camera": lambda image, view: image,
        "kept": lambda image, view: mask(image, record.keep_mask[view.part], view),
    }
    drawn["score"] = lambda image, view: heatmap(image, scores.values[view.part], view, scores.scale, SCORE_COLORS)
    for query, head in (("&layer=2", None), ("&layer=1&head=3", 3)):
        of = attention_heat(record, int(query[7]), head)
        drawn[f"attention{query}"] = lambda image, view, of=of: heatmap(
            image, of.values[view.part], view, of.scale, ATTN_COLORS
        )
    for overlay, draw in drawn.items():
        open_at(page, url, f"episode=1.0&step=10&overlay={overlay}")
        for view in record.views:
            expected = draw(images[view.name], view).astype(int)
            # Colours of a map differ by a step or two where float32 and float64 round a level differently.
            assert np.abs(pixels(page, view.index) - expected).max() <= 3, (overlay, view.name)
            assert np.abs(pixels(page, view.index) - expected).mean() < 0.1, (overlay, view.name)


def test_the_slider_moves_pictures_numbers_and_address(page, url):
    open_at(page, url, "episode=0.0")
    before = pixels(page)
    page.focus("#time")
    page.keyboard.press("ArrowRight")
    at(page, 5)
    wait_for(page, "document.querySelector('.views canvas').getAttribute('aria-label').includes('kept')")
    page.wait_for_timeout(300)
    assert np.abs(pixels(page).astype(int) - before).max() > 20
    assert page.get_attribute("#time", "aria-valuetext") == "step 5, inference 2 of 5"
    page.keyboard.press("End")
    at(page, 20)
    assert "step=20" in page.evaluate("location.hash")
    page.keyboard.press("Home")
    at(page, 0)
    chart = page.locator("#charts .plot").first.bounding_box()
    page.mouse.click(chart["x"] + chart["width"] * 0.62, chart["y"] + 40)
    at(page, 15)
    assert page.said == []


def test_everything_by_keyboard_alone(page, url):
    open_at(page, url, "episode=0.0")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    wait_for(page, "!document.getElementById('layer-field').hidden")
    assert page.locator("#overlays [aria-pressed=true]").inner_text() == "Attention"
    page.keyboard.press("h")
    wait_for(page, "location.hash.includes('head=0')")
    page.keyboard.press("l")
    wait_for(page, "location.hash.includes('layer=1')")
    page.keyboard.press("+")
    wait_for(page, "location.hash.includes('opacity=0.65')")
    page.keyboard.press("]")
    wait_for(page, "location.hash.includes('episode=0.1')")
    page.keyboard.press("[")
    wait_for(page, "location.hash.includes('episode=0.0')")
    page.keyboard.press(" ")
    wait_for(page, "document.getElementById('at').textContent !== 'step 0'")
    at(page, 20)  # it plays to the end, and stops
    wait_for(page, "document.getElementById('play').getAttribute('aria-pressed') === 'false'")
    page.keyboard.press("?")
    wait_for(page, "document.getElementById('help').open")
    page.keyboard.press("Escape")
    wait_for(page, "!document.getElementById('help').open")
    page.keyboard.press("/")
    page.keyboard.type("push crash")
    wait_for(page, "document.querySelectorAll('#episodes button').length === 1")
    for _ in range(20):  # through the outcomes to the list
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#episodes') !== null"):
            break
    page.keyboard.press("Enter")
    wait_for(page, "location.hash.includes('episode=1.1')")
    assert "crash" in page.inner_text(".facts .badge")
    assert page.said == []


def test_every_control_has_a_name(page, url):
    open_at(page, url, "beside=1&overlay=attention")
    nameless = page.evaluate("""() => [...document.querySelectorAll('button, select, input, canvas[role], svg[role]')]
        .filter((node) => node.checkVisibility() && !(node.getAttribute('aria-label') || node.textContent.trim()
            || node.labels?.length || node.title)).map((node) => node.outerHTML)""")
    assert nameless == []


def test_filters_by_outcome_and_words(page, url):
    open_at(page, url)
    assert page.locator("#episodes button").count() == 4
    page.click("#outcomes .chip.failure")
    assert page.locator("#episodes button").count() == 1
    assert page.get_attribute("#outcomes .chip.failure", "aria-pressed") == "true"
    page.fill("#search", "nothing like it")
    assert page.inner_text("#episodes") == "No episode matches."


def test_two_runs_side_by_side_part_where_they_do(page, url):
    open_at(page, url, "episode=0.1&tolerance=0.05")
    page.select_option("#beside", "1")
    wait_for(page, "document.querySelectorAll('.pane').length === 2")
    wait_for(page, "document.getElementById('parting-said').textContent.includes('part at step 10')")
    assert [name.split()[-1] for name in page.locator(".pane h2").all_inner_texts()] == ["lightvla", "full"]
    assert "seed 1" in page.locator(".pane .facts").nth(1).inner_text()
    page.click("#parting-go")
    at(page, 10)
    page.select_option("#tolerance", "0.5")
    wait_for(page, "document.getElementById('parting-said').textContent.startsWith('No action differs')")
    # The run without a pruner has no scores: it is said, and its camera is shown.
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    wait_for(page, "document.querySelectorAll('.pane .note')[1].textContent.includes('no score')")


def test_the_shown_pictures_are_saved(page, url):
    open_at(page, url, "episode=1.0&step=10&overlay=score")
    with page.expect_download() as waiting:
        page.click("#save")
    assert waiting.value.suggested_filename == "lightvla_task001_ep000_step00010_score.png"
    saved = np.asarray(Image.open(waiting.value.path()).convert("RGB"))
    assert saved.shape[0] > 320 and len(np.unique(saved.reshape(-1, 3), axis=0)) > 500


def test_a_causal_check_is_asked_for_and_shown(page, url):
    open_at(page, url, "episode=0.0&step=5")
    page.click("#check-ask")
    wait_for(page, "document.querySelectorAll('#check-result tbody tr').length === 2")
    assert "dropped 80 % 0.0100" in " ".join(page.inner_text("#check-result").split())
    page.keyboard.press("ArrowRight")
    at(page, 10)
    assert page.inner_text("#check-result") == "" and page.inner_text("#check-said") == ""


@pytest.mark.parametrize("width", [1280, 800])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_its_window_in_both_schemes(page, url, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    open_at(page, url, "episode=0.0&beside=1&overlay=attention")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(250, 249, 246)" if scheme == "light" else "rgb(20, 23, 27)")
    assert page.said == []


def test_a_run_folder_of_lightvla(page, tmp_path):
    """Written by its own scripts: no logs, no actions, paths from where they ran; two pictures in one sequence."""
    folder = write_lightvla_run(tmp_path / "lightvla", tasks=2, queries=3, written_from=tmp_path)
    url = serving([folder])
    open_at(page, url, "episode=1.0&overlay=score")
    assert page.locator(".views canvas").count() == 2
    assert page.get_attribute("#time", "max") == "2"
    facts = page.inner_text(".facts")
    assert "black bowl between the plate and the ramekin" in facts
    path = dump_paths(folder)[-1]
    record = read_record(path, folder)
    page.focus("#time")
    page.keyboard.press("End")
    at(page, record.meta["step"])
    drawn = {
        "kept": lambda image, view: mask(image, record.keep_mask[view.part], view),
        "attention&layer=31": lambda image, view: heatmap(
            image, of_31.values[view.part], view, of_31.scale, ATTN_COLORS
        ),
    }
    of_31, images = attention_heat(record, 31, None), load_images(record)
    for overlay, draw in drawn.items():
        open_at(page, url, f"episode=1.0&step={record.meta['step']}&overlay={overlay}")
        for view in record.views:
            expected = draw(images[view.name], view).astype(int)
            assert np.abs(pixels(page, view.index) - expected).max() <= 3, (overlay, view.name)
    assert page.locator("#charts svg path").count() >= 2  # patches kept and the forward pass's time
    assert page.said == []


def test_a_run_that_is_being_written(page, browser, folders, tmp_path):
    folder = tmp_path / "growing"
    shutil.copytree(folders[0], folder)
    late = [path for path in dump_paths(folder) if path.parts[-2] == "ep001" and path.stem >= "step00010"]
    shutil.rmtree(folder / "dumps/task001")
    aside = {path: path.read_bytes() for path in late if path.exists()}
    for path in aside:
        path.unlink()
    open_at(page, serving([folder]), "episode=0.1")
    assert page.get_attribute("#time", "max") == "1"
    for path, content in aside.items():
        path.write_bytes(content)
    wait_for(page, "document.getElementById('time').max === '4'")
    at(page, 0)  # the view stays where it was
    page.keyboard.press("End")
    at(page, 20)
    wait_for(page, "!document.getElementById('save').disabled")
    assert page.said == []
