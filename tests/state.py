"""All that an analysis could leave behind on a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def state_of(net: nn.Module) -> dict[str, Any]:
    """Everything an analysis could leave behind on a model, by identity where there is one."""
    state: dict[str, Any] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        kept = {
            key: id(value) for key, value in vars(module).items() if not isinstance(value, bool | int | float | str)
        }
        plain = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float | str)}
        hooks = {key: list(value) for key, value in vars(module).items() if "hooks" in key and isinstance(value, dict)}
        state[name] = (type(module), kept, plain, hooks)
    for name, parameter in net.named_parameters(remove_duplicate=False):
        grad = None if parameter.grad is None else parameter.grad.clone()
        state[name, "parameter"] = (id(parameter), parameter.requires_grad, parameter._version, grad)
        state[name, "hooks"] = dict(parameter._backward_hooks or {})
    if hasattr(net, "config"):
        state["config"] = {key: repr(value) for key, value in vars(net.config).items()}
    state["attention"] = (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )
    state["grad mode"] = torch.is_grad_enabled()
    return state


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(key, tuple) and key[1] == "parameter" and value[3] is not None:
            assert torch.equal(value[3], after[key][3])
            value, after[key] = value[:3], after[key][:3]
        assert value == after[key], key
