"""Products with the Gauss-Newton matrix: one forward-mode product, the loss's Hessian, one reverse-mode product.

Schraudolph 2002; Martens 2010. With labels drawn from the model this is the true Fisher, without any drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from influence.model.capture import NotFinite, call
from influence.model.likelihood import Likelihood, categorical
from influence.model.quiet import quiet
from influence.model.tangent import from_parameters, parameters, to_parameters

if TYPE_CHECKING:
    from influence.types import LM, Batch, Grad

Product = Callable[["Batch", "Grad"], "Grad"]
# Numbers that the outputs' tangents of all queries together may take; on CPUs more fall out of the cache
OUTPUT_NUMBERS = {"cpu": 1 << 22, "cuda": 1 << 26}

_ADVICE = "open it with attn_implementation='eager' or a plain activation, or use EK-FAC, which needs no such products"


class NoForwardDerivative(RuntimeError):
    """A model with a layer through which no forward-mode product can be taken."""


@contextmanager
def gauss_newton(
    lm: LM, *, likelihood: Likelihood = categorical, blockwise: bool = False, dtype: torch.dtype | None = None
) -> Iterator[Product]:
    """A function (batch, v) -> Σ_rows Jᵀ H J v of the summed loss, for all queries (q o i) at once.

    J is the Jacobian of the outputs in the tracked parameters, H the loss's Hessian at the outputs. The matrix is
    symmetric and positive semi-definite; divide by the number of rows for the mean.

    Args:
        likelihood: what the outputs mean.
        blockwise: leave out what couples different blocks; costs one product per block.
        dtype: compute in this type; default the model's own.

    Raises:
        NotFinite: for a product that is not finite, naming block and rows.
        ValueError: for a gradient of other blocks than the model's.
        NoForwardDerivative: (a RuntimeError) for a model with such a layer, for instance Bloom's own GELU.
    """
    weights = {n: p.to(dtype) if dtype and p.is_floating_point() else p for n, p in _all(lm).items()}
    tracked = {name: weights[name] for name in parameters(lm)}
    with quiet(lm.net):

        def product(batch: Batch, v: Grad) -> Grad:
            def outputs(point: dict[str, Tensor]) -> Tensor:
                return call(lm.net, {**weights, **point}, batch.input_ids)

            tangent = {n: t.to(tracked[n]) for n, t in to_parameters(lm, v).items()}
            found = from_parameters(lm, _product(outputs, tracked, tangent, batch, likelihood))
            _require_finite(found, batch)
            return found

        yield (lambda batch, v: _by_block(lm, product, batch, v)) if blockwise else product


def _product(
    outputs: Callable[[dict[str, Tensor]], Tensor],
    point: dict[str, Tensor],
    tangent: dict[str, Tensor],
    batch: Batch,
    likelihood: Likelihood,
) -> dict[str, Tensor]:
    try:
        at, pull = vjp(outputs, point)  # type: ignore[misc]

        def one(direction: dict[str, Tensor]) -> dict[str, Tensor]:
            _, u = jvp(outputs, (point,), (direction,))  # type: ignore[misc]
            return pull(likelihood.curvature(at, u, batch))[0]

        numbers = OUTPUT_NUMBERS.get(at.device.type, 1 << 24)
        return vmap(one, chunk_size=max(1, numbers // at.numel()))(tangent)
    except NotImplementedError as error:
        raise NoForwardDerivative(f"a layer of this model has no forward derivative ({error}); {_ADVICE}") from error
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise
        raise NoForwardDerivative(
            f"a layer of this model is an autograd.Function of its own that torch.func cannot enter; {_ADVICE}"
        ) from error


def _by_block(lm: LM, product: Product, batch: Batch, v: Grad) -> Grad:
    zero = {name: torch.zeros_like(value) for name, value in v.items()}  # type: ignore[arg-type]
    return {name: product(batch, {**zero, name: v[name]})[name] for name in v}


def _all(lm: LM) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in lm.net.named_parameters(remove_duplicate=False)}


def _require_finite(found: Grad, batch: Batch) -> None:
    for name, value in found.items():
        if not torch.isfinite(value).all():  # type: ignore[arg-type]
            raise NotFinite(
                f"the Gauss-Newton product of {name} is not finite in a batch with rows {batch.row.tolist()[:8]}; "
                "look for extreme weights, rows, or vectors"
            )
