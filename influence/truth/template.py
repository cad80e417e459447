"""Fresh models for a stack: one architecture, initial weights drawn from a seed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from influence.model.plan import as_config
from influence.model.quiet import quiet
from influence.model.train import initial

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Source: TypeAlias = "PreTrainedConfig | dict[str, Any] | nn.Module | Callable[[int], nn.Module]"


def template(source: Source, dtype: torch.dtype, device: str) -> nn.Module:
    """A module of the architecture that can be run under vmap, frozen and in evaluation mode.

    Raises ValueError for one with dropout or batch statistics, or without parameters.
    """
    net = _new(source, 0).to(device=device, dtype=dtype).eval().requires_grad_(False)
    _check(net)
    return net


def drawn(source: Source, net: nn.Module, seed: int) -> dict[str, Tensor]:
    """Initial parameters by name, drawn from `seed`, in the type and on the device of the template `net`."""
    new = dict(_new(source, seed).named_parameters())
    return {name: new[name].detach().to(value) for name, value in net.named_parameters()}


@contextmanager
def vectorised(net: nn.Module) -> Iterator[None]:
    """Quiet, and without the look for padding tokens that some transformers models take, which vmap cannot follow."""
    config = getattr(net, "config", None)
    padding = getattr(config, "pad_token_id", None)
    try:
        if padding is not None:
            config.pad_token_id = None  # type: ignore[union-attr]
        with quiet(net):
            yield
    finally:
        if padding is not None:
            config.pad_token_id = padding  # type: ignore[union-attr]


def fingerprint(source: Source, net: nn.Module) -> dict[str, Any]:
    """What a folder of trained stacks remembers of the model: architecture, type, first weights and fixed inputs."""
    digest = hashlib.sha256()
    for name, value in [*drawn(source, net, 0).items(), *net.named_buffers()]:
        digest.update(name.encode() + str(tuple(value.shape)).encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    first = next(net.parameters())
    return {"class": type(net).__name__, "dtype": str(first.dtype), "sha256": digest.hexdigest()}


def _new(source: Source, seed: int) -> nn.Module:
    if isinstance(source, nn.Module) and not hasattr(source, "config"):
        return _redrawn(source, seed)
    if callable(source) and not isinstance(source, nn.Module):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return source(seed)
    config = copy.deepcopy(as_config(getattr(source, "config", source)))
    config._attn_implementation = "eager"  # fused attention has no rule for vmap
    made: nn.Module = initial(config, seed)
    return made


def _redrawn(net: nn.Module, seed: int) -> nn.Module:
    """A copy whose layers have drawn their weights anew."""
    new = copy.deepcopy(net)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, module in new.named_modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                raise ValueError(
                    f"{name or type(module).__name__} has parameters and no reset_parameters(), so it cannot be drawn "
                    "anew from a seed; give a function seed -> module instead"
                )
    return new


def _check(net: nn.Module) -> None:
    if next(net.parameters(), None) is None:
        raise ValueError(f"{type(net).__name__} has no parameters, so there is nothing to train")
    for name, module in net.named_modules():
        told = {"dropout": getattr(module, "p", 0.0) if isinstance(module, nn.modules.dropout._DropoutNd) else 0.0}
        told |= {key: getattr(module, key, 0.0) for key in ("attention_dropout", "dropout_prob", "dropout_p")}
        on = [key for key, value in told.items() if isinstance(value, float) and value > 0]
        if on:
            raise ValueError(f"{name or type(net).__name__} has {on[0]} {told[on[0]]}; stacks have none: set it to 0")
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"{name} keeps batch statistics, which stacked models cannot; use another normalisation")
