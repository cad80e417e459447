"""Classifiers and regressions as rows of two tokens: factors and scores against closed forms."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ekfac
import influence
from influence.model.batches import batches
from influence.model.capture import forward
from influence.model.likelihood import categorical


def mlp(outputs: int, seed: int = 0) -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return net


def table(n: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def jacobians(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """(n v o i) of each Linear by name, its bias as last column."""
    found: dict[str, torch.Tensor] = {}
    for name, module in net.named_children():
        if isinstance(module, nn.Linear):

            def at(w: torch.Tensor, name: str = name) -> torch.Tensor:
                weights = {**dict(net.named_parameters()), f"{name}.weight": w[:, :-1], f"{name}.bias": w[:, -1]}
                return torch.func.functional_call(net, weights, (x,))

            both = torch.cat([module.weight, module.bias[:, None]], 1).detach()
            found[f"net.{name}"] = torch.autograd.functional.jacobian(at, both)
    return found


def test_expected_labels_give_the_exact_eigenvalues_of_a_classifier() -> None:
    net, x = mlp(4), table()
    lm = influence.load(influence.Supervised(net, x))
    rows = influence.examples(np.arange(12) % 4)
    factors = influence.fit_ekfac(lm, rows, labels="expected", batch_size=5, progress=False)
    p = net(x).softmax(-1).detach()
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    for name, jacobian in jacobians(net, x).items():
        one = factors[name]
        turned = torch.einsum("nvoi,op,ij->nvpj", jacobian, one.basis_out, one.basis_in)
        direct = torch.einsum("nvpj,nvw,nwpj->pj", turned, hessian, turned) / 12
        torch.testing.assert_close(one.eigenvalues, direct, rtol=1e-10, atol=1e-14)
        kfac = ekfac.kfac(factors)[name].eigenvalues
        assert kfac.sum() > 0


def test_expected_kfac_is_exact_for_one_example() -> None:
    net, x = mlp(3), table(1)
    lm = influence.load(influence.Supervised(net, x))
    factors = influence.fit_ekfac(lm, influence.examples([1]), labels="expected", progress=False)
    for name, one in ekfac.kfac(factors).items():
        torch.testing.assert_close(one.eigenvalues.sum(), factors[name].eigenvalues.sum())


def test_regression_factors_and_scores_equal_the_direct_ones() -> None:
    net, x = mlp(1), table()
    targets = table(12, seed=3)[:, 0]
    lm = influence.load(influence.Supervised(net, x))
    likelihood = influence.gaussian(targets)
    rows = influence.examples(np.zeros(12, int))
    factors = influence.fit_ekfac(lm, rows, labels="expected", likelihood=likelihood, progress=False)
    with torch.no_grad():
        error = targets - net(x)[:, 0]
    total = torch.zeros(2, 12, dtype=torch.float64)
    for name, jacobian in jacobians(net, x).items():
        one = factors[name]
        turned = torch.einsum("noi,op,ij->npj", jacobian[:, 0], one.basis_out, one.basis_in)
        torch.testing.assert_close(one.eigenvalues, turned.square().mean(0), rtol=1e-10, atol=1e-14)
        gradient = error[:, None, None] * turned
        solved = gradient[:2] / (one.eigenvalues + 0.1 * one.eigenvalues.mean())
        total += torch.einsum("qpj,npj->qn", solved, gradient) / 12
    queries = influence.examples(np.zeros(12, int), [0, 1])
    options = {"per": "sequence", "likelihood": likelihood, "progress": False}
    scores = influence.score(lm, rows, queries, ekfac.solver(factors, damping=0.1), row_norm=True, **options)
    np.testing.assert_allclose(scores.values, total.numpy(), rtol=1e-9)
    np.testing.assert_allclose(scores["row_norm"].values[:2] ** 2 / 12, np.diagonal(total.numpy()), rtol=1e-9)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_curvature_and_divergence_are_those_of_the_loss(kind: str) -> None:
    net, x = mlp(3), table()
    lm = influence.load(influence.Supervised(net, x))
    likelihood = categorical if kind == "categorical" else influence.gaussian(table(12, seed=4)[:, :3])
    _, batch = next(batches(influence.examples(np.arange(12) % 3), 12))
    outputs = forward(lm.net, batch.input_ids).detach()
    u = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    # the divergence from where we stand has value 0, gradient 0 and the Hessian of the loss
    step = 1e-4
    plus = likelihood.divergence(outputs + step * u, outputs, batch)
    minus = likelihood.divergence(outputs - step * u, outputs, batch)
    product = likelihood.curvature(outputs, u, batch)
    assert (product[:, 1] == 0).all()
    torch.testing.assert_close((plus + minus) / step**2, (u * product).sum((1, 2)), rtol=1e-5, atol=1e-8)
    assert torch.equal(
        likelihood.divergence(outputs, outputs, batch).abs().round(decimals=14), torch.zeros(12).double()
    )
    if kind == "categorical":
        direct = F.kl_div(plus_outputs(outputs, u), outputs[:, 0].log_softmax(-1), log_target=True, reduction="none")
        torch.testing.assert_close(likelihood.divergence(outputs + u, outputs, batch), direct.sum(-1))


def plus_outputs(outputs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return (outputs + u)[:, 0].log_softmax(-1)


def test_drawn_targets_do_not_depend_on_the_batch() -> None:
    lm = influence.load(influence.Supervised(mlp(2), table()))
    likelihood = influence.gaussian(torch.zeros(12, 2))
    rows = influence.examples(np.zeros(12, int))
    one = [influence.fit_ekfac(lm, rows, likelihood=likelihood, batch_size=b, progress=False) for b in (1, 12)]
    for name in one[0]:
        torch.testing.assert_close(one[0][name].eigenvalues.sum(), one[1][name].eigenvalues.sum(), rtol=1e-10, atol=0)


def test_bad_examples_are_named() -> None:
    with pytest.raises(ValueError, match="class numbers"):
        influence.examples([0.5, 1])
    with pytest.raises(ValueError, match="there are 3 examples"):
        influence.examples([0, 1, 1], [3])
    with pytest.raises(ValueError, match="table"):
        influence.Supervised(mlp(2), torch.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        influence.gaussian(torch.tensor([1.0, torch.nan]))


def test_expected_labels_are_refused_for_rows_of_several_scored_tokens() -> None:
    from cases import FAMILIES
    from small import token_rows

    with pytest.raises(ValueError, match="one scored token"):
        influence.fit_ekfac(influence.load(FAMILIES["gpt2"]()), token_rows(3, 0, low=8), labels="expected")
