from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from foveate.errors import FoveateError
from foveate.viz.value import bars, canvas, curves
from foveate.viz.value.bars import plot_errors, plot_oracle
from foveate.viz.value.canvas import labels_of
from foveate.viz.value.curves import plot_ablation, plot_rows
from foveate.viz.value.labels import LABELS


def row(name: str, accuracy: float, cost: float, **more) -> dict:
    rates = {"action_rate_no": 0.5, "action_rate_coarse": 0.25, "action_rate_full": 0.25}
    bounds = {"accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02}
    return {"dataset": "set", "baseline_name": name, "row": name, "accuracy": accuracy, "avg_cost": cost} | (
        rates | bounds | {"remaining_vision_tokens": 16 * cost} | more
    )


def test_every_picture_is_drawn(tmp_path):
    pruned = [row("vision_token_pruning_proxy", 0.6, r, pruning_ratio=r, pruning_mode="stride") for r in (0.5, 0.25)]
    rows = [row("", 0.8, 0.3), row("", 0.7, 0.2), row("always_full", 0.9, 1.0), row("oracle", 0.95, 0.2), *pruned]
    paths = plot_rows(rows, tmp_path)
    assert [p.name for p in paths] == ["pareto_set.png", "action_ratio_set.png", "pruning_set.png"]
    piece = {"dataset": "set", "row": "learned", "action": "NO", "category": "all", "samples": 20, "wrong": 5}
    paths.append(plot_errors([piece], tmp_path / "errors.png"))
    shares = {"NO": 0.5, "COARSE": 0.2, "FULL": 0.2, "none": 0.1, "samples": 20}
    found = {"set": {"cheapest_right": shares, "samples": 20, "by_category": {"shape": shares}}}
    paths.append(plot_oracle(found, tmp_path / "oracle.png"))
    variants = [row("", 0.8, c, ablation="D1", checkpoint=f"D1 {c}") for c in (0.2, 0.3)]
    paths += plot_ablation([*variants, row("always_full", 0.9, 1.0, ablation="", checkpoint=None)], tmp_path)
    for path in paths:
        with Image.open(path) as image:
            assert image.width > 600


def test_both_languages_have_every_word():
    assert LABELS["en"].keys() == LABELS["zh"].keys()


def test_chinese_without_a_font_and_unknown_languages_are_told(monkeypatch):
    monkeypatch.setattr(canvas, "_cjk_fonts", list)
    with pytest.raises(FoveateError, match="no font with Chinese characters"):
        labels_of("zh")
    with pytest.raises(FoveateError, match="choices: en, zh"):
        labels_of("fr")


def test_ratios_have_the_intervals_of_their_shares(monkeypatch):
    seen = {}
    monkeypatch.setattr(bars, "save", lambda figure, path: figure)
    monkeypatch.setattr(bars, "_stacked", lambda bars, colours, spreads, *_: seen.update(spreads=spreads))
    bars.plot_actions([row("", 0.8, 0.3, samples=100)], None, LABELS["en"], "set")
    # 1.96 sqrt(0.5 * 0.5 / 100) and 1.96 sqrt(0.25 * 0.75 / 100)
    assert seen["spreads"][0] == pytest.approx([0.098, 0.08487], abs=1e-5)
    spread = {"accuracy_std": 0.01, "action_rate_no_std": 0.03, "action_rate_full_std": 0.02}
    bars.plot_actions([row("", 0.8, 0.3, samples=100, **spread)], None, LABELS["en"], "set")
    assert seen["spreads"][0] == [0.03, 0.02]


def test_a_font_is_found_that_was_installed_after_matplotlib_listed_fonts(monkeypatch):
    from matplotlib import font_manager

    mono = next(f for f in font_manager.fontManager.ttflist if f.name == "DejaVu Sans Mono")
    others = [f for f in font_manager.fontManager.ttflist if f.name != mono.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", others)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [mono.fname, "/nowhere/broken.ttf"])
    monkeypatch.setattr(canvas, "CJK_FONTS", (mono.name,))
    assert canvas._cjk_fonts() == [mono.name]


@pytest.mark.skipif(not canvas._cjk_fonts(), reason="no font with Chinese characters on this machine")
def test_chinese_plots_have_no_boxes(tmp_path, recwarn):
    pruned = [row("vision_token_pruning_proxy", 0.6, r, pruning_ratio=r, pruning_mode="stride") for r in (0.5, 0.25)]
    rows = [row(name, 0.8, 0.3) for name in curves.FAMILIES if name != "vision_token_pruning_proxy"]
    plot_rows([*rows, *pruned], tmp_path, "zh")
    shares = {"NO": 0.5, "COARSE": 0.2, "FULL": 0.2, "none": 0.1, "samples": 20}
    plot_oracle({"图": {"cheapest_right": shares, "samples": 20, "by_category": {}}}, tmp_path / "o.png", "zh")
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_thresholds_of_two_kinds_are_two_lines():
    rule = {"uncertainty": "entropy", "vision": "full"}
    rows = [
        row("uncertainty_threshold", 0.8, c, **rule | more) for c in (0.3, 0.2) for more in ({}, {"vision": "coarse"})
    ]
    lines = curves._lines(rows, LABELS["en"])
    assert {kind: [r["avg_cost"] for r in line] for kind, line in lines.items()} == {
        "FULL": [0.2, 0.3], "COARSE": [0.2, 0.3],
    }  # fmt: skip
    assert list(curves._lines(rows[::2], LABELS["en"])) == [""]
    matched = [row("random_policy_matched", 0.8, 0.3, matched=kind) for kind in ("global", "entropy_buckets")]
    assert list(curves._lines(matched, LABELS["en"])) == ["over the whole set", "by entropy"]


def test_the_best_way_of_pruning_is_drawn_at_shares_that_all_have():
    scores = {("lightvla", 0.5): 0.6, ("stride", 0.5): 0.7, ("lightvla", 1.0): 0.9}
    rows = [
        row("vision_token_pruning_proxy", score, ratio, pruning_mode=mode, pruning_ratio=ratio)
        for (mode, ratio), score in scores.items()
    ]
    assert list(curves._lines(rows, LABELS["en"])) == ["stride (the best)"]
    assert list(curves._lines(rows, LABELS["en"], "lightvla")) == ["LightVLA", "stride (the best other one)"]
    assert list(curves._lines(rows, LABELS["en"], "stride")) == ["stride", "LightVLA (the best other one)"]
    assert list(curves._lines(rows, LABELS["en"], "pool")) == ["stride (the best)"]
    assert list(curves._lines(rows[:1], LABELS["en"], "lightvla")) == ["LightVLA"]


def test_bars_are_those_near_the_chosen_row():
    rows = [row("", 0.8, 0.3, lambda_cost=0.1), row("", 0.7, 0.2, lambda_cost=0.2, chosen="on validation")]
    rows += [row("random_policy_matched", 0.6, c, lambda_cost=lam) for c, lam in ((0.3, 0.1), (0.2, 0.2))]
    rows += [row("cascade", 0.6, c, threshold=c) for c in (0.1, 0.19, 0.4)]
    rows += [row("string_lookup", 0.6, 0.2, lambda_cost=0.2), row("oracle", 0.9, 0.2)]
    kept = [(r["baseline_name"], r["avg_cost"]) for r in bars._selected(rows)]
    assert kept == [("", 0.3), ("", 0.2), ("random_policy_matched", 0.2), ("cascade", 0.19), ("oracle", 0.2)]
    given = row("random_policy_matched", 0.6, 0.25, matched="global")
    assert given in bars._selected([*rows, given]), "of ratios that were given, it is no row's twin"
    assert bars._selected(rows[4:7]) == rows[4:7], "without a learned row all are drawn"


def drawn(monkeypatch, draw) -> list:
    """The panels of the figure that `draw` would save."""
    found: list = []
    monkeypatch.setattr(curves, "save", lambda figure, path: found.extend(figure.axes))
    draw()
    return found


@pytest.mark.parametrize("accuracy", [0.0, 0.004, 0.5, 1.0])
def test_limits_hold_accuracy_within_a_hundred_and_cost_from_nothing(monkeypatch, accuracy):
    rows = [row("no_vision", accuracy, 0.0, accuracy_low=accuracy, accuracy_high=accuracy)]
    (axes,) = drawn(monkeypatch, lambda: curves.plot_curve(rows, None, LABELS["en"], "set"))
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert -0.05 < left < 0 and right > 1, "the marker at 0 is whole, and no tick is below it"
    assert -1 < low <= 100 * accuracy <= high < 101 and 10 <= high - low < 12
    ticks = [t for t in axes.get_xticks() if t > left] + [t for t in axes.get_yticks() if low < t < high]
    assert all(0 <= tick <= 100 for tick in ticks)


def test_legends_stand_beside_the_data(monkeypatch):
    pruned = [row("vision_token_pruning_proxy", 0.6, r, pruning_ratio=r, pruning_mode="stride") for r in (0.5, 0.25)]
    variants = [row("", 0.8, c, ablation="D1", checkpoint=f"D1 {c}") for c in (0.2, 0.3)]
    panels = drawn(monkeypatch, lambda: curves.plot_pruning(pruned, None, LABELS["en"], "set"))
    panels += drawn(monkeypatch, lambda: plot_ablation(variants, Path("out")))
    for axes in (panels[0], panels[1]):
        axes.figure.draw_without_rendering()
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1 - 1


def test_a_crowded_curve_has_eight_entries_intervals_on_both_axes_and_its_n(monkeypatch):
    def line(name: str, **more) -> list[dict]:
        bounds = {"cost_low": 0.1, "cost_high": 0.4, "samples": 600}
        return [row(name, accuracy, 0.3, **bounds, **more) for accuracy in (0.7, 0.8)]

    rows = [*line(""), *line("", chosen="on validation"), *line("string_lookup"), *line("cascade"), *line("oracle")]
    rows += [*line("always_full"), *line("always_coarse"), *line("no_vision"), *line("oracle", corrected="for chance")]
    for matched in ("global", "entropy_buckets"):
        rows += line("random_policy_matched", matched=matched)
    for kind in ("entropy", "margin"):
        for look in ("full", "coarse"):
            rows += line("uncertainty_threshold", uncertainty=kind, vision=look, threshold=0.5)
    for mode in curves.MODES:
        pruned = {"pruning_mode": mode, "pruning_ratio": 0.5, "note": "new to it"}
        rows += line("vision_token_pruning_proxy", **pruned)
    (axes,) = drawn(monkeypatch, lambda: curves.plot_curve(rows, None, LABELS["en"], "set", "stride"))
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(words) == 8 and "learned: λ chosen on validation" in words and "pruned tokens: stride †" in words
    assert {"learned", "string lookup", "cascade"} <= set(words), "a family of several kinds gives way first"
    names = {text.get_text() for text in axes.texts}
    assert {"always FULL", "always COARSE", "no vision", "oracle", "oracle, less lucky guesses"} <= names
    title = axes.get_title(loc="left")
    assert "set, n = 600" in title and "more lines in the table: 4" in title and "not trained for fewer" in title
    learned = next(c for c in axes.containers if c.get_label() == "learned")
    horizontal, vertical = (bars.get_segments()[0] for bars in learned[2])
    assert horizontal[:, 0] == pytest.approx([0.1, 0.4]) and vertical[:, 1] == pytest.approx([68, 72])
