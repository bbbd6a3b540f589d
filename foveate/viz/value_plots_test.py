from __future__ import annotations

import pytest
from PIL import Image

from foveate.errors import FoveateError
from foveate.viz import value_plots
from foveate.viz.value_plots import LABELS, labels_of, plot_errors, plot_oracle, plot_rows


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
    shares = {"NO": 0.5, "COARSE": 0.2, "FULL": 0.2}
    found = {"set": {"cheapest_right": shares | {"none": 0.1}, "by_category": {"shape": shares}}}
    paths.append(plot_oracle(found, tmp_path / "oracle.png"))
    for path in paths:
        with Image.open(path) as image:
            assert image.width > 600


def test_both_languages_have_every_word():
    assert LABELS["en"].keys() == LABELS["zh"].keys()


def test_chinese_without_a_font_and_unknown_languages_are_told(monkeypatch):
    monkeypatch.setattr(value_plots, "_cjk_fonts", list)
    with pytest.raises(FoveateError, match="no font with Chinese characters"):
        labels_of("zh")
    with pytest.raises(FoveateError, match="choices: en, zh"):
        labels_of("fr")
