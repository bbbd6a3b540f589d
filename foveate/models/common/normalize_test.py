import json
from pathlib import Path

import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.models.common.normalize import Normalizer, NormStats, RunningStats, load_norm_stats, save_norm_stats

STATS = NormStats([1.0, 2.0], [0.5, 2.0], [0.0, -10.0], [2.0, 10.0])


def test_quantile_maps_q01_and_q99_to_minus_one_and_one() -> None:
    quantile = Normalizer(STATS, "quantile")
    np.testing.assert_allclose(
        quantile.normalize(np.array([[0, -10], [2, 10], [1, 0]])), [[-1, -1], [1, 1], [0, 0]], atol=2e-6
    )


def test_zscore_by_hand() -> None:
    got = Normalizer(STATS, "zscore").normalize(np.array([1.5, -2.0]))
    np.testing.assert_allclose(got, [0.5 / 0.500001, -4 / 2.000001], rtol=1e-6)


@pytest.mark.parametrize("kind", ["quantile", "zscore", "identity"])
def test_inverse(kind: str) -> None:
    norm = Normalizer(STATS, kind)  # type: ignore[arg-type]
    x = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(norm.unnormalize(norm.normalize(x)), x, atol=3e-6)


def test_what_the_statistics_do_not_cover_passes_through() -> None:
    norm = Normalizer(STATS, "zscore")
    padded = np.array([[1.0, 2.0, 7.0, -3.0]])
    np.testing.assert_allclose(norm.normalize(padded), [[0, 0, 7, -3]], atol=1e-6)
    np.testing.assert_allclose(norm.unnormalize(np.array([[0.0, 0.0, 7.0, -3.0]])), [[1, 2, 7, -3]], atol=1e-6)
    np.testing.assert_allclose(norm.normalize(np.array([1.0])), [0], atol=1e-6)  # shorter than the statistics


def test_a_constant_entry_far_from_zero_maps_to_minus_one() -> None:
    norm = Normalizer(NormStats([100.0], [0.0], [100.0], [100.0]), "quantile")
    assert norm.normalize(np.array([100.0])) == [-1.0]


def test_nan_actions_come_back_as_nan() -> None:
    assert np.isnan(Normalizer(STATS).unnormalize(np.array([np.nan, 0.0]))[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q01": [0.0, 10.0], "q99": [2.0, -10.0]}, r"q01 is greater than q99 at \[1\]"),
        ({"std": [0.5, -2.0]}, r"std is negative at \[1\]"),
        ({"q01": [-3e38, 0.0], "q99": [3e38, 1.0]}, r"q99 - q01 is beyond float32 at \[0\]"),
        ({"mean": [float("nan"), 0.0]}, r"mean holds NaN or infinity at \[0\]"),
        ({"q99": [2.0, float("inf")]}, r"q99 holds NaN or infinity at \[1\]"),
        ({"mean": [1e300, 0.0]}, r"mean holds NaN or infinity at \[0\]"),
        ({"mean": "abcd"}, "mean is not a list of numbers"),
        ({"mean": [[1], [2, 3]]}, "mean is not a list of numbers"),
    ],
)
def test_statistics_that_cannot_be_are_refused_with_file_and_key(tmp_path: Path, change: dict, message: str) -> None:
    good = STATS.to_dict()
    (tmp_path / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": good, "actions": good | change}}))
    with pytest.raises(FoveateError, match=message) as caught:
        load_norm_stats(tmp_path)
    assert "norm_stats.json, 'actions'" in str(caught.value)


def test_a_quantile_may_equal_the_other() -> None:
    assert NormStats([1.0], [0.0], [1.0], [1.0]).dim == 1


def test_file_round_trip(tmp_path: Path) -> None:
    path = save_norm_stats(tmp_path / "assets" / "droid", {"state": STATS, "actions": STATS})
    assert path.name == "norm_stats.json" and "norm_stats" in json.loads(path.read_text())
    for source in (path, path.parent):
        loaded = load_norm_stats(source)
        np.testing.assert_array_equal(loaded["actions"].q99, STATS.q99)


def test_openpi_file_without_quantiles(tmp_path: Path) -> None:
    group = {"mean": [0.0], "std": [1.0], "q01": None, "q99": None}
    (tmp_path / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": group, "actions": group}}))
    stats = load_norm_stats(tmp_path)["state"]
    assert stats.q01 is None
    with pytest.raises(FoveateError, match="needs q01 and q99"):
        Normalizer(stats, "quantile")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected"),
        ('{"norm_stats": {"state": {"mean": [0], "std": [1]}}}', "no norm stats for 'actions'"),
        (
            '{"norm_stats": {"state": {"mean": [0]}, "actions": {"mean": [0], "std": [1]}}}',
            "'state' needs mean and std",
        ),
        ('{"norm_stats": {"state": {"mean": [0, 1], "std": [1]}, "actions": {"mean": [0], "std": [1]}}}', "one length"),
        ('{"norm_stats": {"state": {"mean": [NaN], "std": [1]}, "actions": {"mean": [0], "std": [1]}}}', "NaN"),
        ('{"norm_stats": {"state": {"mean": "x", "std": [1]}, "actions": {"mean": [0], "std": [1]}}}', "not a list"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "norm_stats.json").write_text(text)
    with pytest.raises(FoveateError, match=message) as caught:
        load_norm_stats(tmp_path)
    assert "norm_stats.json" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="no such file"):
        load_norm_stats(tmp_path / "assets" / "droid")


def test_running_stats_equal_numpys() -> None:
    data = np.random.default_rng(1).normal(3, 2, size=(5000, 3))
    running = RunningStats()
    for part in np.array_split(data, 7):
        running.update(part.reshape(-1, 1, 3))
    got = running.result()
    np.testing.assert_allclose(got.mean, data.mean(0), rtol=1e-6)
    np.testing.assert_allclose(got.std, data.std(0), rtol=1e-6)
    np.testing.assert_allclose(got.q01, np.quantile(data, 0.01, axis=0), rtol=1e-6)
    np.testing.assert_allclose(got.q99, np.quantile(data, 0.99, axis=0), rtol=1e-6)


def test_running_stats_beyond_the_exact_rows_stay_close() -> None:
    data = np.random.default_rng(2).uniform(size=(40_000, 1))
    running = RunningStats(exact_rows=4000)
    for part in np.array_split(data, 13):
        running.update(part)
    got = running.result()
    assert got.q01 == pytest.approx(0.01, abs=0.005) and got.q99 == pytest.approx(0.99, abs=0.005)
    assert got.mean == pytest.approx(data.mean(), rel=1e-6)


@pytest.mark.parametrize("rows", [2, 99, 101, 300_000])
def test_running_stats_of_a_known_number_of_rows_are_exact(rows: int) -> None:
    """Also where fewer rows come than were said, and ends are cut several times."""
    rng = np.random.default_rng(3)
    data = np.stack([rng.standard_cauchy(rows), rng.integers(0, 3, rows), np.arange(rows)[::-1]], axis=1)
    running = RunningStats(total=rows + 17)
    for part in np.array_split(data, min(rows, 11)):
        running.update(part)
    got = running.result()
    for name, share in (("q01", 0.01), ("q99", 0.99)):
        np.testing.assert_allclose(getattr(got, name), np.quantile(data, share, axis=0), rtol=1e-6)
    np.testing.assert_allclose(got.std, data.std(0), rtol=1e-6)
    np.testing.assert_array_equal([running.low, running.high], [data.min(0), data.max(0)])


def test_running_stats_refuse_bad_data() -> None:
    running = RunningStats()
    with pytest.raises(FoveateError, match="NaN"):
        running.update(np.array([[np.nan]]))
    running.update(np.zeros((1, 2)))
    with pytest.raises(FoveateError, match="2 numbers, got 3"):
        running.update(np.zeros((1, 3)))
    with pytest.raises(FoveateError, match="at least 2"):
        running.result()
