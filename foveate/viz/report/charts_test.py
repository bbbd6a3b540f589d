"""Charts: what stands where, in the page's colours, and nothing in them that a page must not hold."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from foveate.viz.report import charts
from foveate.viz.report.charts import Chart, Line


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def marks(svg: str) -> dict[str, ElementTree.Element]:
    """What a mark says -> its path, the last of those that say the same."""
    groups = (g for g in ElementTree.fromstring(svg).iter("g") if g.find("title") is not None)
    return {g.findtext("title", ""): g.find("path") for g in groups}


def points(path: ElementTree.Element) -> list[tuple[float, float]]:
    numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", path.get("d", ""))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@pytest.mark.parametrize(
    ("high", "expected"),
    [(1, [0, 0.25, 0.5, 0.75, 1]), (128, [0, 50, 100]), (55, [0, 20, 40]), (2e-4, [0, 5e-5, 1e-4, 1.5e-4, 2e-4])],
)
def test_ticks_are_round(high, expected):
    said = texts(Chart((0, high), (0, 1), x_label="x", y_label="y").svg("chart"))
    assert [float(text.replace("−", "-")) for text in said[: said.index("x")]] == pytest.approx(expected)


def test_marks_stand_where_their_numbers_say():
    chart = Chart((0, 10), (0, 1), x_label="x", y_label="y", size=(200, 100))
    chart.line(Line("across", 0, [0, 5, 10], [0, 0.5, 1]))
    chart.dot(5, 0.5, 1, "middle")
    drawn = marks(chart.svg("chart"))
    (left, bottom), middle, (right, top) = points(drawn["across"])
    assert 0 < left < middle[0] < right <= 200 and 0 <= top < middle[1] < bottom < 100
    assert middle == pytest.approx(((left + right) / 2, (top + bottom) / 2))
    xs, ys = zip(*points(drawn["middle"]), strict=True)
    assert ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2) == pytest.approx(middle, abs=1e-4)
    assert max(xs) - min(xs) == pytest.approx(9, abs=1e-4)


def test_an_interval_runs_from_its_low_to_its_high_end():
    chart = Chart((0, 2), (0, 1), x_label="x", y_label="y", percent=True)
    chart.line(Line("scale", 1, [0, 2], [0, 1]))
    chart.dot(1, 0.5, 0, "half", (0.25, 0.9))
    svg = chart.svg("chart")
    (_, zero), (_, one) = points(marks(svg)["scale"])
    interval = next(p for p in ElementTree.fromstring(svg).iter("path") if "stroke-opacity: 0.55" in p.get("style", ""))
    assert [(zero - y) / (zero - one) for _, y in points(interval)] == pytest.approx([0.25, 0.9], abs=1e-5)
    assert {"0 %", "50 %", "100 %"} <= set(texts(svg))


def test_lines_start_at_zero_and_tell_faint_dashed_and_single():
    series = [
        Line("mean", 0, [5, 10], [20, 40]),
        Line("episode", 1, [5, 10], [10, 40], faint=True, dashed=True),
        Line("short", 1, [5], [30]),
    ]
    svg = charts.lines(series, x_label="step", y_label="kept", label="reach")
    assert ElementTree.fromstring(svg).get("aria-label") == "reach"
    assert "0" in texts(svg)[texts(svg).index("step") :], "the y axis starts at 0"
    style = {said: path.get("style") for said, path in marks(svg).items()}
    assert list(style) == ["episode", "mean", "short"], "means lie above episodes"
    assert "stroke-dasharray: 4,3" in style["episode"] and "stroke-opacity: 0.38" in style["episode"]
    assert "dash" not in style["mean"] and "stroke: var(--c0)" in style["mean"]
    assert "fill: var(--c1)" in style["short"], "a single value is a dot"


def test_bars_add_up_to_what_stands_beside_them():
    svg = charts.stacked_bars([("full", [4.0, 0.0, 6.0]), ("pruned", [4.0, 1.0, 2.5])], ["a", "b", "c"], "ms")
    assert {"full", "pruned", "10.0 ms", "7.5 ms", "4.0", "6.0"} <= set(texts(svg))
    width = {}
    for said, path in marks(svg).items():
        xs = [x for x, _ in points(path)]
        width[said] = max(xs) - min(xs)
    unit = width["full, c: 6.0 ms"] / 6
    assert width["pruned, c: 2.5 ms"] == pytest.approx(2.5 * unit, abs=2)
    assert width["full, b: 0.0 ms"] == 0
    assert all(f"var(--s{i})" in svg for i in range(3))


def test_text_from_outside_stays_text():
    nasty = "</svg><script>alert(1)</script> $x^2$ 图"
    svg = charts.lines([Line(nasty, 0, [0, 1], [0, 1])], x_label=nasty, y_label="y", label=f'{nasty}" onload="x')
    assert "<script" not in svg and svg.count("</svg>") == 1
    root = ElementTree.fromstring(svg)
    assert nasty in texts(svg) and nasty in marks(svg) and set(root.attrib) == {
        "viewBox", "class", "role", "aria-label", "style",
    }  # fmt: skip
    assert nasty in texts(charts.stacked_bars([(nasty, [1.0])], ["a"], "ms"))


def test_a_page_can_hold_many():
    """No identifier, address or namespace, the page's colours alone, and the same bytes each time."""
    both = [charts.lines([Line("a", 0, [0, 1], [3, 4])], x_label="x", y_label="y") for _ in range(2)]
    assert both[0] == both[1]
    svg = both[0] + charts.stacked_bars([("full", [1.0, 2.0])], ["a", "b"], "ms")
    assert not re.search(r"\bid=|href|xmlns|url\(|http|<style|<metadata", svg)
    assert set(re.findall("#[0-9a-f]{6}", svg)) <= {"#ffffff"}
    light = [pair[0] for pair in charts.PALETTE.values()]
    assert len(set(light)) == len(light), "each colour names one variable"


def test_marks_on_one_place_stand_side_by_side():
    assert charts.dodge([5.0, 20.0], 1.0, (0, 25)) == [5.0, 20.0]
    assert charts.dodge([5.0, 20.0, 5.0], 1.0, (0, 25)) == [4.5, 20.0, 5.5]
    assert charts.dodge([0.0, 0.0, 0.0], 1.0, (0, 25)) == [0.0, 1.0, 2.0]
    assert charts.dodge([25.0, 25.0], 1.0, (0, 25)) == [24.0, 25.0]
