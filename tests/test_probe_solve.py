"""The batched solve against scikit-learn run to a tight tolerance: the same minimum, for all problems at once."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from influence.probing import descent
from influence.probing.probes import Probes
from influence.probing.solve import logistic

KINDS = ("plain", "common mean and outliers", "low rank", "separable", "twins", "constant columns")
TIGHT = ({"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 300}, {"tol": 1e-9, "max_iter": 3000})


def drawn(kind: str, n: int, d: int, k: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """x (n d) and two label sets (2 n): one that x tells, one at random; every class in both."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    if kind == "common mean and outliers":
        x = x * np.where(np.arange(d) == 0, 30, 1) + 20 * rng.normal(size=d)
    if kind == "low rank":
        x = rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) * 3 + 0.01 * x
    if kind == "twins":
        x = x[rng.integers(0, n // 3, n)]
    if kind == "constant columns":
        x[:, 1::2] = 7.0
    z = (x - x.mean(0)) @ rng.normal(size=(d, k))
    told = z.argmax(1) if kind == "separable" else (z + z.std() * rng.gumbel(size=z.shape)).argmax(1)
    y = np.stack([told, rng.integers(0, k, n)])
    for row in y:
        row[rng.permutation(n)[:k]] = np.arange(k)
    return torch.tensor(x, dtype=torch.float32 if seed % 2 else torch.float64), y


def best(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
    """Loss per statement and probabilities of the better of two scikit-learn solvers."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for how in TIGHT:
            fitted = LogisticRegression(C=strength, **how).fit(x, y)
            z = fitted.decision_function(x)
            found.append((objective(z, fitted.coef_, y, strength), fitted.predict_proba(x)))
    return min(found, key=lambda one: one[0])


def objective(z: np.ndarray, coef: np.ndarray, y: np.ndarray, strength: float) -> float:
    z = np.stack([0 * z, z], 1) if z.ndim == 1 else z
    loss = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]
    return float(loss.mean() + 0.5 * (coef**2).sum() / (strength * len(y)))


def probabilities(logits: torch.Tensor) -> np.ndarray:
    logits = logits.double()
    two = torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits
    return torch.softmax(two, -1).numpy()


@given(
    st.sampled_from(KINDS), st.integers(10, 120), st.integers(1, 60), st.sampled_from([2, 2, 3, 4]),
    st.lists(st.floats(-4, 3), min_size=1, max_size=3), st.booleans(), st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=25)
def test_the_minimum_is_scikit_learn_s(kind, n, d, k, powers, standardize, seed) -> None:
    x, y = drawn(kind, n, d, k, seed)
    if bool((x == x[0]).all()):
        return
    strengths = [10.0**power for power in powers]
    probes = logistic(x[None], y, np.ones(n, bool), strengths, classes=k, standardize=standardize)
    assert probes.converged.all()
    plain = x.double().numpy() - x.double().numpy().mean(0)
    plain = StandardScaler().fit_transform(plain) if standardize else plain
    logits = probes.logits(x[None])[0, :, 0]
    for problem in range(2):
        for place, strength in enumerate(strengths):
            loss, p = best(plain, y[problem], strength)
            assert abs(float(probes.loss[0, problem, 0, place]) - loss) < 1e-6
            assert np.abs(probabilities(logits[problem, place]) - p).max() < 1e-4


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("strength", [1e4, 1e6])
def test_separable_problems_with_hardly_any_penalty(k: int, strength: float) -> None:
    x, y = drawn("separable", 90, 30, k, 1)
    probes = logistic(x[None], y, np.ones(90, bool), [strength], classes=k)
    assert probes.converged.all()
    for problem in range(2):
        loss, p = best(x.double().numpy(), y[problem], strength)
        assert float(probes.loss[0, problem, 0, 0]) < loss + 1e-6
        assert np.abs(probabilities(probes.logits(x[None])[0, problem, 0, 0]) - p).max() < 1e-3


def test_no_loss_lies_above_scikit_learn_s_defaults() -> None:
    rng = np.random.default_rng(0)
    spectrum = (1 + np.arange(64)) ** -0.8
    x = (rng.normal(size=(2, 400, 64)) * spectrum) @ rng.normal(size=(64, 64)) + 5
    y = np.stack([(x[0, :, 0] > x[0, :, 0].mean()).astype(int), rng.integers(0, 2, 400)])
    train = np.arange(400) < 280
    probes = logistic(torch.from_numpy(x), y, train, (1e-3, 0.1, 10.0))
    for layer, problem, place in np.ndindex(2, 2, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(C=probes.strengths[place]).fit(x[layer, train], y[problem, train])
        theirs = objective(
            fitted.decision_function(x[layer, train]), fitted.coef_, y[problem, train], probes.strengths[place]
        )
        assert float(probes.loss[layer, problem, 0, place]) <= theirs + 1e-10


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("d", [12, 150])
def test_together_is_as_one_by_one(k: int, d: int) -> None:
    layers = [drawn(kind, 100, d, k, seed) for seed, kind in enumerate(("plain", "low rank"))]
    x, y = torch.stack([x.double() for x, _ in layers]), layers[0][1]
    train = np.random.default_rng(0).random((3, 100)) < 0.7
    together = logistic(x, y, train, (0.01, 1.0), classes=k)
    assert together.weights.shape == (2, 2, 3, 2, k if k > 2 else 1, d) and together.logits(x).shape[4] == 100
    for at in ((0, 0, 0, 0), (0, 1, 2, 1), (1, 0, 1, 1), (1, 1, 0, 0), (1, 1, 2, 1)):
        layer, problem, split, place = at
        one = logistic(x[layer][None], y[problem], train[split], (0.01, 1.0)[place : place + 1], classes=k)
        torch.testing.assert_close(together.loss[at], one.loss[0, 0, 0, 0], atol=2e-10, rtol=0)
        torch.testing.assert_close(together.logits(x)[at], one.logits(x[layer][None])[0, 0, 0, 0], atol=1e-3, rtol=1e-3)


def test_splits_that_share_a_preconditioner() -> None:
    x, y = drawn("plain", 300, 8, 2, 3)
    train = np.random.default_rng(0).random((4, 300)) < 0.7
    together = logistic(x[None], y, train, (0.1, 10.0), standardize=True)
    for split in range(4):
        alone = logistic(x[None], y, train[split], (0.1, 10.0), standardize=True)
        torch.testing.assert_close(together.loss[:, :, split], alone.loss[:, :, 0], atol=2e-10, rtol=0)


def test_a_common_offset_changes_nothing() -> None:
    x, y = drawn("plain", 120, 10, 2, 4)
    train = np.ones(120, bool)
    here, there = logistic(x[None], y, train, (1.0,)), logistic(x[None] + 1000, y, train, (1.0,))
    torch.testing.assert_close(here.weights, there.weights, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(here.logits(x[None]), there.logits(x[None] + 1000), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gap_is_what_a_tighter_solve_gains(kind: str) -> None:
    x, y = drawn(kind, 150, 40, 2, 7)
    train = np.ones(150, bool)
    loose = logistic(x[None], y, train, (0.01, 1.0, 100.0), tol=1e-6)
    tight = logistic(x[None], y, train, (0.01, 1.0, 100.0), tol=1e-13)
    excess = loose.loss - tight.loss
    assert (excess > -1e-12).all() and (excess < 2e-6).all()
    assert (loose.gap > 0.1 * excess - 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_layers_may_come_one_by_one_in_any_type(dtype: torch.dtype) -> None:
    x, y = drawn("plain", 80, 6, 2, 5)
    x, train = x.to(dtype), np.ones(80, bool)
    found = logistic((one for one in (x, x)), y, train, (1.0,))
    expected = logistic(x.double()[None], y, train, (1.0,))
    torch.testing.assert_close(found.loss[1], expected.loss[0], atol=1e-9, rtol=0)
    assert found.logits(iter([x, x])).dtype == torch.float32


def test_the_probes_of_the_chosen_strengths() -> None:
    x, y = drawn("plain", 80, 6, 2, 6)
    train = np.random.default_rng(1).random((3, 80)) < 0.7
    probes = logistic(x[None], y, train, (0.01, 1.0, 100.0))
    place = torch.tensor([[[0, 1, 2], [2, 2, 0]]])
    kept = probes.chosen(place)
    assert kept.weights.shape == (1, 2, 3, 1, 1, 6)
    assert torch.equal(kept.logits(x[None])[0, 1, 2, 0], probes.logits(x[None])[0, 1, 2, 0])
    with pytest.raises(ValueError, match="expected"):
        probes.chosen(place[0])
    assert "1 layers x 2 problems x 3 splits x 3 strengths" in repr(probes) and "<p>" in probes._repr_html_()


def test_what_does_not_converge_is_said() -> None:
    x, y = drawn("plain", 120, 30, 2, 8)
    with pytest.warns(UserWarning, match="did not converge"):
        probes = logistic(x[None], y, np.ones(120, bool), (100.0,), steps=1)
    assert not probes.converged.all() and float(probes.gap.max()) > 1e-6


def case() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    x, y = drawn("plain", 60, 5, 2, 9)
    return x[None], y, np.ones((1, 60), bool)


def test_bad_input_is_named() -> None:
    x, y, train = case()
    for change, said in (
        ({"x": x[0]}, r"pass x\[None\]"),
        ({"x": x[:, :50]}, "50, 5"),
        ({"x": torch.ones_like(x)}, "the same for every training statement"),
        ({"x": iter([])}, "no layers"),
        ({"x": iter([x[0], x[0, :, :4]])}, "same width"),
        ({"y": y * 0}, "is of one class"),
        ({"y": np.where(np.arange(60) < 59, 0, 2)}, "lacks class 1"),
        ({"y": y.astype(str)}, "labels.encode"),
        ({"y": y + 0.5}, "whole numbers"),
        ({"y": y - 1}, "numbered from 0"),
        ({"y": y[:, :50]}, "do not fit"),
        ({"classes": 1}, "expected classes"),
        ({"train": train.astype(int)}, "booleans"),
        ({"strengths": (0.0,)}, "positive"),
        ({"strengths": ()}, "positive"),
    ):
        with pytest.raises(ValueError, match=said):
            logistic(**{"x": x, "y": y, "train": train, "strengths": (1.0,)} | change)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_activations_that_are_not_finite_are_named(value: float) -> None:
    x, y, train = case()
    both = torch.cat([x, x])
    both[1, 7, 2] = value
    with pytest.raises(ValueError, match=r"layer at place 1: .*1 training statements hold NaN or infinite.*the 8\."):
        logistic(both, y, train, (1.0,))
    left_out = train.copy()
    left_out[0, 7] = False
    probes = logistic(both, y, left_out, (1.0,))
    with pytest.raises(ValueError, match="not finite, the first at place 7"):
        probes.logits(both)


def test_logits_want_the_same_layers_and_columns() -> None:
    x, y, train = case()
    probes: Probes = logistic(x, y, train, (1.0,))
    for other in (x[:, :, :4], torch.cat([x, x]), x[0]):
        with pytest.raises(ValueError, match="expected"):
            probes.logits(other)


def test_least_eigenvalues_say_nothing_where_directions_overflowed() -> None:
    h = torch.diag_embed(torch.tensor([[3.0, 2.0], [5.0, 0.25], [4.0, 1.0], [4.0, 1.0]], dtype=torch.float64))
    h[2, 0, 1], h[3, 1, 1] = float("inf"), float("nan")
    assert descent._least(h).tolist() == [2.0, 0.25, 1.0, 1.0]
