"""Bad input and estimates that should not be trusted: each is refused or named, with what to do next."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import FAMILIES
from llc_case import dimension, doubles, least_squares, llc_of, quadratic
from small import token_rows
from torch.nn import functional as F

import influence
from influence.llc.check import check
from influence.llc.diagnostics import diagnose, relaxation
from influence.llc.run import gamma_at, llc, plan_of, theory
from influence.llc.space import EmptyMask, space
from influence.llc.step_size import NoStepSize, search
from influence.llc.target import BadLoss, of_function, of_items, of_model, of_net

QUICK = {"step_size": 1e-4, "n_beta": 5.0, "chains": 2, "draws": 8, "thin": 1, "burn_in": 0, "batch_size": 4}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 3, generator=generator), torch.randn(20, generator=generator)


def refuse(losses, match: str) -> None:
    x, y = data()
    target = of_items(losses, {"w": torch.ones(3)}, [x, y])
    with pytest.raises(BadLoss, match=match):
        check(target, space(target))


def test_a_mean_over_the_batch_is_refused() -> None:
    refuse(lambda w, x, y: (x @ w["w"] - y).square().mean(), r"shape \(\).*reduction='none'")
    net = torch.nn.Linear(3, 1)
    target = of_net(net, data(), lambda out, y: F.mse_loss(out[:, 0], y))
    with pytest.raises(BadLoss, match="one number per item"):
        check(target, space(target))


def test_items_that_depend_on_each_other_are_refused() -> None:
    refuse(lambda w, x, y: (x @ w["w"] - y).square() / len(y), "division by the batch's size")
    refuse(lambda w, x, y: (x @ w["w"] - y - (x @ w["w"] - y).mean()).square(), "must not depend on the others")


def test_chance_in_the_loss_is_refused() -> None:
    refuse(lambda w, x, y: (F.dropout(x, 0.5) @ w["w"] - y).square(), "chance is in the loss")


def test_losses_that_are_not_finite_are_refused() -> None:
    refuse(lambda w, x, y: torch.log(x @ w["w"] * 0 - 1), "item 0 is not finite")


def test_masks_that_let_nothing_move() -> None:
    target = quadratic(doubles([1.0, 2.0])[0])
    with pytest.raises(EmptyMask, match="name some of w"):
        space(target, {"w": torch.zeros(2, dtype=torch.bool)})
    with pytest.raises(EmptyMask):
        space(target, {})
    with pytest.raises(ValueError, match="no parameter"):
        space(target, {"v": True})
    with pytest.raises(ValueError, match=r"expected is bool \(2,\)"):
        space(target, {"w": torch.ones(2)})


def test_a_negative_estimate_says_why() -> None:
    """Around a point that is no minimum, downhill is a long way."""
    x, _ = data()
    target = least_squares(x.double(), torch.zeros(3, dtype=torch.float64))
    moved = of_items(lambda w, a: target.losses({"w": w["w"] - 3}, (a,)), target.point, [x.double()])
    found = llc_of(
        moved, n_beta=50.0, gamma=20.0, step_size=1e-3, chains=8, draws=50, thin=1, burn_in=50, batch_size=20
    )
    assert found.value < 0
    assert any("not a minimum of this loss" in note for note in found.notes)
    assert "note: the estimate is negative" in str(found)


def test_parameters_without_effect_are_named() -> None:
    target = of_function(
        lambda w: w["a"].square().sum() + 0 * w["b"].sum(), dict(zip("ab", doubles([0.0], [0.0]), strict=True)), 10
    )
    found = llc_of(target, {"b": True}, n_beta=5.0, gamma=1.0, step_size=1e-2, draws=8, thin=1, burn_in=0)
    assert found.value == 0 and np.isnan(found.rhat) and "does not depend" in found.notes[0]


def test_chains_too_short_for_flat_directions_are_named() -> None:
    found = llc_of(
        quadratic(doubles([1.0, 0.0])[0]), n_beta=50.0, gamma=1.0, step_size=1e-3, draws=20, thin=1, burn_in=50
    )
    assert any("2/(εγ) = 2e+03 steps" in note for note in found.notes)
    assert relaxation(1e-3, 1.0) == 2000


@pytest.mark.parametrize(
    "wrong", [{"chains": 1}, {"draws": 4}, {"step_size": -1.0}, {"n_beta": 0.0}, {"gamma": -1.0}, {"sampler": "hmc"}]
)
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        llc_of(quadratic(doubles([1.0])[0]), **{**QUICK, **wrong})


def test_gamma_by_parameter() -> None:
    target = of_function(
        lambda w: w["a"].sum() + w["b"].sum(), dict(zip("ab", doubles([0.0, 0.0], [0.0]), strict=True)), 10
    )
    coordinates = space(target)
    assert gamma_at(coordinates, {"a": 2.0, "b": torch.tensor([3.0])}).tolist() == [2, 2, 3]
    with pytest.raises(ValueError, match=r"lacks the parameters \['b'\]"):
        gamma_at(coordinates, {"a": 2.0})


def test_the_search_finds_a_step_size_whose_bias_is_small() -> None:
    h = doubles([0.0, 0.1, 1.0, 3.0])[0]
    target = quadratic(h)
    coordinates = space(target)
    plan = plan_of(target, coordinates, step_size=1.0, n_beta=100.0, gamma=10.0, batch_size=1)
    found = search(target, coordinates, plan)
    exact = dimension(h, 100.0, 10.0)
    share = dimension(h, 100.0, 10.0, found) / exact - 1
    assert 0.01 < share < 0.08
    assert search(target, coordinates, plan, start=found * 64) == pytest.approx(found)
    with pytest.raises(NoStepSize, match="Give a larger batch_size or a smaller n_beta"):
        search(target, coordinates, plan, share=0.0)


def test_diagnostics_agree_with_their_definitions() -> None:
    rng = np.random.default_rng(0)
    free = rng.normal(size=(4, 500))
    found = diagnose(free)
    assert found.rhat == pytest.approx(1, abs=0.01) and 1500 < found.ess < 2600
    assert found.mcse == pytest.approx(1 / np.sqrt(2000), rel=0.1)
    slow = np.cumsum(free, 1)
    assert diagnose(slow).rhat > 1.2 and diagnose(slow).ess < 30
    shifted = free + np.arange(4)[:, None]
    assert diagnose(shifted).rhat > 1.5


def test_a_language_model_on_rows_and_units() -> None:
    lm = influence.load(FAMILIES["live"]())
    rows = token_rows(8, 0)
    found = llc(lm, rows, **QUICK, gamma=1.0, progress=False)
    counts = [sum(mask) for mask in rows["loss_mask"]]
    by_token = of_model(lm, rows, unit="token")
    assert found.settings["n"] == 8 and by_token.count == pytest.approx(sum(counts))
    again = llc(by_token, **{**QUICK, "n_beta": 5.0 * sum(counts) / 8}, gamma=1.0, progress=False)
    assert by_token.tokens == pytest.approx(np.mean([len(ids) for ids in rows["input_ids"]]))
    assert again.value == pytest.approx(found.value, rel=1e-6) and again.start == pytest.approx(
        found.start * 8 / sum(counts)
    )
    assert llc(lm, rows, **{**QUICK, "n_beta": None}, progress=False).settings["n_beta"] == pytest.approx(theory(8))
    frame = found.frame()
    assert len(frame) == 1 and frame["value"].iloc[0] == found.value and frame["where"].iloc[0] == "all"
    assert "λ̂" in found._repr_html_()
    with pytest.raises(ValueError, match="rows are missing"):
        llc(lm)


def test_a_regression_by_its_likelihood() -> None:
    x, y = data()
    net = torch.nn.Sequential(torch.nn.Linear(3, 1))
    lm = influence.load(influence.Supervised(net, x))
    rows = influence.examples(np.zeros(20, int))
    found = llc(lm, rows, likelihood=influence.gaussian(y), **QUICK, gamma=1.0, progress=False)
    direct = of_net(net, [x, y], lambda out, t: (out[:, 0] - t).square() / 2)
    assert found.value == pytest.approx(llc(direct, **QUICK, gamma=1.0, progress=False).value, rel=1e-4)
