"""The report in headless Chromium: opens from disk, asks the network for nothing, and its slider works."""

from __future__ import annotations

import pytest

from foveate.testing.runs import write_run
from foveate.viz.report.page import build_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(root / name, variant=name, keep=keep, tasks=("reach", "push"), queries=5, side=(96, 128))
        for name, keep in (("full", None), ("lightvla", 20))
    ]
    return build_report(runs, root / "report").as_uri()


@pytest.fixture
def page(browser, url):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(60_000)
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(url)
    yield page
    page.close()


def sources(page) -> list[str]:
    return page.eval_on_selector_all("#views img", "images => images.map(i => i.src)")


def test_opens_from_disk_without_errors_or_requests(page, url):
    page.wait_for_function("[...document.images].every(i => i.complete)")
    assert page.said == []
    assert [address for address in page.asked if not address.startswith("data:")] == [url]
    assert page.locator("#views .view").count() == 2
    assert page.eval_on_selector_all("#views img", "images => images.every(i => i.naturalWidth === 128)")
    assert page.locator("svg").count() >= 5


def test_slider_by_keyboard_changes_the_pictures_and_what_is_said(page):
    before = sources(page)
    assert page.inner_text("#at") == "step 0"
    page.focus("#time")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#at") == "step 5"
    after = sources(page)
    assert len(after) == len(before) and all(a != b for a, b in zip(before, after, strict=True))
    page.keyboard.press("End")
    assert page.inner_text("#at") == "step 20"
    page.keyboard.press("Home")
    assert sources(page) == before
    assert page.get_attribute("#time", "aria-valuetext") == "step 0"
    assert page.said == []


def test_choosing_an_episode_shows_it_from_its_start(page):
    page.fill("#time", "3")
    names = page.eval_on_selector_all("#episode option", "options => options.map(o => o.textContent)")
    crash = next(i for i, name in enumerate(names) if name.endswith("crash") and "full" in name)
    page.select_option("#episode", str(crash))
    assert page.inner_text("#at") == "step 0"
    assert page.inner_text("#facts .badge") == "crash"
    assert "128 of 128 patches kept" in page.inner_text("#facts")
    page.click("#play")
    page.wait_for_function("document.getElementById('at').textContent !== 'step 0'")
    page.click("#play")
    assert page.said == []


def test_fits_a_phone_and_follows_the_dark_scheme(page):
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
