"""Gauss-Newton products against the dense matrix, and gradients by block against the model's own parameters."""

import numpy as np
import pytest
import torch
from cases import FAMILIES, Float64
from small import token_rows
from torch import Tensor

import influence
from influence.attribution.gradients import query_gradients
from influence.model.batches import batches
from influence.model.capture import call, forward
from influence.model.gauss_newton import NoForwardDerivative, gauss_newton
from influence.model.tangent import from_parameters, parameters, to_parameters
from influence.types import LM, Batch, Grad


def batch_of(n: int = 3, seed: int = 0) -> Batch:
    return next(batches(token_rows(n, seed, low=4, high=8), n))[1]


def vectors(lm: LM, q: int = 2, seed: int = 0) -> Grad:
    generator = torch.Generator().manual_seed(seed)
    return {b.name: torch.randn(q, *b.shape, generator=generator, dtype=torch.float64) for b in lm.blocks}


def flat(grad: Grad) -> Tensor:
    return torch.cat([value.flatten(1) for value in grad.values()], 1)


def dense_matrix(lm: LM, batch: Batch) -> Tensor:
    """Σ_rows Σ_positions Jᵀ (diag(p) − p pᵀ) J, with J from one backward per output."""
    tracked = parameters(lm)
    everything = {n: p.detach() for n, p in lm.net.named_parameters(remove_duplicate=False)}

    def outputs(*values: Tensor) -> Tensor:
        point = dict(zip(tracked, values, strict=True))
        return call(lm.net, {**everything, **point}, batch.input_ids)[:, :-1][batch.loss_mask[:, 1:]]

    jacobian = torch.autograd.functional.jacobian(outputs, tuple(tracked.values()))
    p = forward(lm.net, batch.input_ids)[:, :-1][batch.loss_mask[:, 1:]].softmax(-1).detach()
    m, v = p.shape
    by_name = {name: one.reshape(m * v, *one.shape[2:]) for name, one in zip(tracked, jacobian, strict=True)}
    j = flat(from_parameters(lm, by_name)).view(m, v, -1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("mvx,mvw,mwy->xy", j, hessian, j)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "mixtral", "llama_lora"])
def test_products_equal_the_dense_matrix(family: str) -> None:
    with Float64():
        lm = influence.load(FAMILIES[family](), blocks="layers.0|h.0" if "lora" not in family else "adapters")
        batch = batch_of()
        v = vectors(lm)
        matrix = dense_matrix(lm, batch)
        with gauss_newton(lm) as product:
            found = product(batch, v)
    assert list(found) == [b.name for b in lm.blocks]
    torch.testing.assert_close(flat(found), flat(v) @ matrix, rtol=1e-9, atol=1e-9 * float(matrix.abs().max()))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bloom"])
def test_products_of_every_family_agree_with_finite_differences(family: str) -> None:
    """vᵀGv is the second derivative of the divergence from where the model stands."""
    from influence.model.likelihood import categorical

    with Float64(), torch.no_grad():
        lm = influence.load(FAMILIES[family]())
        batch, v = batch_of(), vectors(lm, 1)
        with gauss_newton(lm) as product:
            found = float((flat(product(batch, v)) * flat(v)).sum())
        everything = {n: p.detach() for n, p in lm.net.named_parameters(remove_duplicate=False)}
        here = forward(lm.net.eval(), batch.input_ids)
        step, total = 1e-6, 0.0  # small beside the kinks of OPT's ReLU
        for sign in (1, -1):
            moved = {n: everything[n] + sign * step * t[0] for n, t in to_parameters(lm, v).items()}
            there = call(lm.net, {**everything, **moved}, batch.input_ids)
            total += float(categorical.divergence(there, here, batch).sum())
    assert found == pytest.approx(total / step**2, rel=2e-4)


def test_a_model_without_forward_derivative_is_named() -> None:
    lm = influence.load(FAMILIES["bloom"]())
    with pytest.raises(NoForwardDerivative, match="plain activation"), gauss_newton(lm) as product:
        product(batch_of(), vectors(lm))


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmoe"])
def test_gradients_by_block_are_those_of_the_parameters(family: str) -> None:
    with Float64():
        lm = influence.load(FAMILIES[family](), blocks=["all", "embed"] if family == "gpt2" else "all")
        rows = token_rows(2, 5)
        grad, _ = query_gradients(lm, rows, progress=False)
        named = to_parameters(lm, grad)
        assert set(named) == set(parameters(lm))
        for place in range(2):
            lm.net.requires_grad_(True).zero_grad(set_to_none=True)
            _, batch = next(batches(rows.select([place]), 1))
            log_p = forward(lm.net, batch.input_ids)[0, :-1].log_softmax(-1).gather(1, batch.input_ids[0, 1:, None])
            (log_p[:, 0] * batch.loss_mask[0, 1:]).sum().backward()
            for name, value in named.items():
                if family == "gpt2" and "wte" in name:
                    continue  # tied: the block holds what came through the input alone
                torch.testing.assert_close(value[place], lm.net.get_parameter(name).grad, rtol=1e-10, atol=1e-12)
        back = from_parameters(lm, named)
        assert all(torch.equal(back[name], grad[name]) for name in grad)


def test_the_matrix_is_symmetric_linear_and_splits_into_blocks() -> None:
    lm = influence.load(FAMILIES["gpt_neox"]())
    batch, v = batch_of(5), vectors(lm, 3)
    with gauss_newton(lm) as product, gauss_newton(lm, blockwise=True) as diagonal:
        whole, parts = flat(product(batch, v)), diagonal(batch, v)
        one = flat(product(batch, {name: value[:1] + 2 * value[1:2] for name, value in v.items()}))
    gram = whole @ flat(v).T
    torch.testing.assert_close(gram, gram.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one[0], whole[0] + 2 * whole[1], rtol=1e-9, atol=1e-9)
    name = lm.blocks[1].name
    alone = influence.load(lm.net, blocks=f"^{name}$")
    with gauss_newton(alone) as product:
        torch.testing.assert_close(product(batch, {name: v[name]})[name], parts[name], rtol=1e-10, atol=1e-10)


def test_rows_add_and_padding_changes_nothing() -> None:
    lm = influence.load(FAMILIES["llama"]())
    rows, v = token_rows(4, 2), vectors(lm, 2)
    with gauss_newton(lm) as product:
        whole = flat(product(next(batches(rows, 4))[1], v))
        parts = sum(flat(product(batch, v)) for _, batch in batches(rows, 1))
    np.testing.assert_allclose(whole, parts, rtol=1e-6, atol=1e-6 * float(whole.abs().max()))


def test_nothing_is_left_behind_and_other_blocks_are_refused() -> None:
    net = FAMILIES["gpt2"]().train()
    net.requires_grad_(True)
    lm = influence.load(net)
    with pytest.raises(ValueError, match="lacks blocks"), gauss_newton(lm) as product:
        product(batch_of(), {lm.blocks[0].name: torch.zeros(1, *lm.blocks[0].shape)})
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())


def test_a_vector_that_is_not_finite_is_named() -> None:
    lm = influence.load(FAMILIES["gpt2"]())
    v = vectors(lm, 1)
    v[lm.blocks[0].name][0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite in a batch with rows"), gauss_newton(lm) as product:
        product(batch_of(), v)
