"""The sum over checkpoints: standardised per query, in the order of rows, with checkpoints chosen by a rule."""

import numpy as np
import pytest
import xarray
from cases import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from small import token_rows

import ekfac
import influence
from influence.attribution.trajectory import combine, predictive, spaced, standardised


def scores(values: np.ndarray) -> xarray.DataArray:
    coords = {"query": np.arange(values.shape[0]), "row": np.arange(values.shape[1])}
    return xarray.DataArray(values, dims=("query", "row"), coords=coords)


def test_the_sum_is_over_standardised_scores_whatever_their_scale() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 7))
    whole = combine([scores(x), scores(y)], [1.0, 2.0])
    direct = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    direct = direct + 2 * (y - y.mean(1, keepdims=True)) / y.std(1, keepdims=True)
    np.testing.assert_allclose(whole.values, direct, rtol=1e-12)
    scaled = combine([scores(1e-9 * x + 3), scores(1e6 * y)], [1.0, 2.0])
    np.testing.assert_allclose(scaled.values, direct, rtol=1e-5)
    assert whole.attrs["checkpoints"] == 2 and "standard deviations" in whole.attrs["units"]


def test_a_query_without_variation_adds_nothing() -> None:
    x = np.array([[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]])
    found = standardised(x)
    assert (found[0] == 0).all() and found[1].std() == pytest.approx(1)


def test_predictive_joins_the_scores_of_every_checkpoint() -> None:
    rows, queries = token_rows(8, 0), token_rows(3, 1, first=50)
    nets = [FAMILIES["gpt_neox"](), FAMILIES["gpt_neox"]()]
    for parameter in nets[1].parameters():
        parameter.data.mul_(0.7)
    whole = predictive(nets, rows, queries, damping=0.2, progress=False)
    parts = []
    for net in nets:
        lm = influence.load(net)
        solver = ekfac.solver(influence.fit_ekfac(lm, rows, progress=False), damping=0.2)
        parts.append(influence.score(lm, rows, queries, solver, per="sequence", progress=False).values)
    np.testing.assert_allclose(whole.values, standardised(parts[0]) + standardised(parts[1]), rtol=1e-10)
    assert list(influence.rank(whole)["query"].values) == [50, 51, 52]
    by_norm = predictive(nets[:1], rows, queries, damping=0.2, normalize="row", progress=False)
    assert not np.allclose(by_norm.values, standardised(parts[0]))


@settings(deadline=None)
@given(st.sets(st.integers(1, 3000), min_size=1, max_size=12), st.integers(1, 8))
def test_spaced_steps_are_among_the_kept_ones_and_end_with_the_last(steps: set[int], count: int) -> None:
    found = spaced(steps, count)
    assert set(found) <= steps and found[-1] == max(steps) and len(found) <= count and found == sorted(found)


def test_spaced_steps_are_log_spaced_from_a_tenth() -> None:
    assert spaced(range(1001), 5) == [100, 178, 316, 562, 1000]
    assert spaced([0, 1, 10, 100, 1000], 3) == [100, 1000]
    assert spaced([7], 4) == [7]


def test_bad_input_is_named() -> None:
    x = scores(np.eye(3))
    with pytest.raises(ValueError, match="no scores"):
        combine([])
    with pytest.raises(ValueError, match="weights"):
        combine([x], [1.0, 2.0])
    with pytest.raises(ValueError, match="other queries or rows"):
        combine([x, x.assign_coords(row=[5, 6, 7])])
    with pytest.raises(ValueError, match="above 0"):
        spaced([0])


def test_a_function_of_the_spectrum_equals_the_solver() -> None:
    rows = token_rows(6, 0)
    lm = influence.load(FAMILIES["llama"]())
    factors = influence.fit_ekfac(lm, rows, progress=False)
    solver = ekfac.solver(factors, damping=0.3)
    other = ekfac.spectral(factors, lambda name, values: 1 / (values + solver.lam[name]))
    options = {"per": "sequence", "progress": False}
    ours, theirs = (influence.score(lm, rows, rows.select([0]), each, **options) for each in (solver, other))
    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-10)
