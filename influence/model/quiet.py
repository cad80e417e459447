"""Borrow the user's model: no weight gradients, no dropout, exact attention; everything as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

EXPERTS = "_experts_implementation_internal"


@contextmanager
def quiet(net: nn.Module) -> Iterator[None]:
    """Frozen parameters, evaluation mode, math attention and unfused experts inside; all flags restored on leaving.

    Fused attention kernels change gradients with the batch size, and fused expert products hide an expert's tokens.
    """
    learning = [p for p in net.parameters() if p.requires_grad]
    training = [m for m in net.modules() if m.training]
    configs = {id(c): c for c in (getattr(m, "config", None) for m in net.modules()) if hasattr(c, EXPERTS)}
    experts = [(c, getattr(c, EXPERTS)) for c in configs.values()]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        for module in training:
            module.training = False
        for config, _ in experts:
            setattr(config, EXPERTS, "eager")
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True
        for config, value in experts:
            setattr(config, EXPERTS, value)
