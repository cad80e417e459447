"""Tail fits: the exponent is recovered, other laws are rejected, and both agree with the `powerlaw` package."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_analysis import scores

from influence.analysis import powerlaw_fit as law
from influence.analysis import tail, tail_points
from influence.analysis.tails import sparsity


def pareto(seed: int, size: int, alpha: float, xmin: float = 1.0) -> np.ndarray:
    return xmin * (1 - np.random.default_rng(seed).random(size)) ** (-1 / (alpha - 1))


@pytest.mark.parametrize("alpha", [2.0, 2.7, 4.0])
def test_the_interval_holds_the_true_exponent_as_often_as_it_says(alpha: float) -> None:
    fits = [law.fit_top(pareto(seed, 2000, alpha, 1e-7), 500) for seed in range(200)]
    held = sum(low <= alpha <= high for low, high in map(law.interval, fits))
    assert 180 <= held <= 199, "95 % of 200, give or take three standard deviations"
    assert np.mean([fit.alpha for fit in fits]) == pytest.approx(alpha, rel=0.01)


def test_xmin_by_distance_finds_where_the_tail_begins() -> None:
    close = 0
    for seed in range(20):
        body = np.random.default_rng(1000 + seed).random(1000)
        fit = law.fit_ks(np.r_[body, pareto(seed, 500, 2.5)])
        low, high = law.interval(fit)
        close += int(0.7 < fit.xmin < 2.0 and low - 0.1 < 2.5 < high + 0.1)
    assert close >= 17


@pytest.mark.filterwarnings("ignore::DeprecationWarning:powerlaw")
def test_fits_equal_the_powerlaw_package() -> None:
    import powerlaw

    sample = pareto(3, 190, 2.5)
    ours, theirs = law.fit_ks(sample, least=2), powerlaw.Fit(sample, verbose=0)
    assert ours.xmin == theirs.xmin
    assert ours.alpha == pytest.approx(theirs.power_law.alpha, rel=1e-12)
    assert ours.distance == pytest.approx(theirs.power_law.D, rel=1e-9)
    fixed = law.fit_top(sample, 100)
    theirs = powerlaw.Fit(sample, xmin=fixed.xmin, verbose=0)
    assert fixed.alpha == pytest.approx(theirs.power_law.alpha, rel=1e-12)
    assert fixed.distance == pytest.approx(theirs.power_law.D, rel=1e-9)


def test_a_power_law_passes_and_an_exponential_does_not() -> None:
    rng = np.random.default_rng(0)
    passed = [law.p_top(law.fit_top(pareto(seed, 1000, 2.5), 500), 200, rng) for seed in range(40)]
    assert sum(p >= 0.1 for p in passed) >= 31, "90 % of 40, give or take three standard deviations"
    assert 0.3 < np.mean(passed) < 0.7
    thin = [1 + np.random.default_rng(seed).exponential(size=1000) for seed in range(10)]
    assert all(law.p_top(law.fit_top(one, 500), 200, rng) < 0.1 for one in thin)


def test_goodness_of_fit_with_a_chosen_xmin() -> None:
    rng = np.random.default_rng(0)
    whole = [pareto(seed, 400, 2.5) for seed in range(8)]
    assert sum(law.p_ks(one, law.fit_ks(one), 60, rng) >= 0.1 for one in whole) >= 6
    flat = [1 + np.random.default_rng(seed).random(400) for seed in range(4)]
    assert all(law.p_ks(one, law.fit_ks(one, 200), 60, rng, 200) < 0.1 for one in flat)


@pytest.mark.filterwarnings("error")
def test_ratios_favour_the_law_that_made_the_sample() -> None:
    heavy = pareto(0, 800, 2.2)
    ratios = law.compare(heavy, law.fit_top(heavy, 500))
    assert ratios["exponential"][0] > 0 and ratios["exponential"][1] < 0.05
    assert np.isnan(ratios["stretched_exponential"]).all(), "the package finds no fit here, which must not pass as one"
    thin = 1 + np.random.default_rng(0).exponential(size=800)
    ratios = law.compare(thin, law.fit_top(thin, 500), ("exponential", "lognormal"))
    assert ratios["exponential"][0] < 0 and ratios["exponential"][1] < 0.05


def test_tail_table() -> None:
    rng = np.random.default_rng(5)
    heavy = np.r_[pareto(1, 900, 2.5) * 1e-6, -rng.random(900) * 1e-6]
    thin = np.r_[rng.normal(size=1800) * 1e-6]
    few = np.r_[np.ones(30) + rng.random(30), -np.ones(1770)]
    equal = np.ones(1800)
    made = scores([heavy, thin, few, equal]).assign_attrs(n=5000)
    frame = tail(made, bootstrap=50, compare=("exponential",))
    assert frame["query"].tolist() == [10, 10, 11, 11, 12, 12, 13, 13]
    assert frame["rule"].tolist() == ["top500", "ks"] * 4
    first = frame.iloc[0]
    assert first["low"] < 2.5 < first["high"] and first["alpha_survival"] == first["alpha_density"] - 1
    assert first["n_tail"] == 500 and first["n_positive"] == 900
    assert "not rejected" in first["verdict"] and "fits better than exponential" in first["verdict"]
    assert first["verdict"].endswith("only 1800 of 5000 rows were scored")
    assert "power law rejected" in frame["verdict"][2]
    assert "30 points is refused: at least 50" in frame["verdict"][4] and np.isnan(frame["alpha_density"][4])
    assert frame["n_positive"][4] == 30 and frame["rows_for_half"][4] == pytest.approx(15, abs=2)
    assert "all equal" in frame["verdict"][6]
    assert frame["effective_count"][6] == pytest.approx(1800)


def test_p_depends_on_seed_and_query_alone() -> None:
    made = scores([pareto(k, 300, 2.5) for k in range(3)])
    whole = tail(made, bootstrap=30, compare=())
    one = tail(made.isel(query=[2]), bootstrap=30, compare=())
    pd.testing.assert_frame_equal(whole.iloc[4:].reset_index(drop=True), one)
    assert tail(made, compare=())["p_value"].isna().all()
    assert "not tested" in tail(made, compare=())["verdict"][0]


def test_sparsity_by_hand() -> None:
    values = np.r_[6.0, 3.0, 1.0, np.zeros(150), -np.ones(47)]  # 200 rows: the top 1 % are two
    found = sparsity(values)
    assert found["top1_share"] == pytest.approx(0.9) and found["rows_for_half"] == 1
    assert found["effective_count"] == pytest.approx(100 / 46)
    assert found["largest"] == 6 and found["n_positive"] == 3
    assert sparsity(np.array([1.0, 1.0]))["rows_for_half"] == 1
    assert sparsity(np.array([3e-200, 3e-200]))["effective_count"] == pytest.approx(2)
    none = sparsity(np.array([-1.0, -2.0]))
    assert np.isnan(none["top1_share"]) and none["n_positive"] == 0 and none["largest"] == -1


def test_points_for_plotting() -> None:
    made = scores([pareto(0, 2000, 2.5), -np.ones(2000)])
    frame = tail_points(made, 300)
    assert set(frame["query"]) == {10} and len(frame) <= 300
    ordered = np.sort(made.values[0])[::-1]
    assert frame["score"].tolist()[:5] == ordered[:5].tolist()
    assert frame["survival"].iloc[0] == 1 / 2000 and frame["survival"].iloc[-1] == 1
    assert np.all(np.diff(frame["survival"]) > 0) and np.all(np.diff(frame["score"]) <= 0)
    with pytest.raises(ValueError, match="n is 1"):
        tail_points(made, 1)


def test_ties_are_cut_whole() -> None:
    sample = np.repeat(pareto(0, 100, 2.5), 3)
    fit = law.fit_ks(sample)
    assert fit.n_tail % 3 == 0 and (sample >= fit.xmin).sum() == fit.n_tail


def test_settings_out_of_range_are_refused() -> None:
    made = scores([np.ones(60)])
    for options in ({"top": 10}, {"bootstrap": -1}, {"compare": ("weibull",)}):
        with pytest.raises(ValueError, match="got top="):
            tail(made, **options)
