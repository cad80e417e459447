"""Open a model for analysis: a hub name, a local folder or a live module."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from influence.model.blocks import NoBlocks, decoder_layers, select
from influence.types import LM, Tracked


class BadModel(ValueError):
    """A model that cannot be opened or trusted with an analysis."""


def load(
    name_or_path_or_net: str | Path | nn.Module,
    *,
    blocks: str | Sequence[str] = "all",
    tokenizer: Any = None,
    revision: str | None = None,
    accept_untracked: Sequence[str] = (),
    dtype: torch.dtype | str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> LM:
    """Open a causal language model and find the linear maps whose influence is tracked.

    Args:
        name_or_path_or_net: a hub name, a local folder (safetensors), or a module `forward(ids) -> logits`, which is
            used as it is: neither moved nor cast, and nothing is left on it.
        blocks: "all" (every linear map inside the decoder blocks; embedding and unembedding only when named),
            "attention", "mlp", "adapters" (LoRA), a kind, a regular expression, or several of these.
        tokenizer: a tokenizer or its path; default the one beside the model.
        accept_untracked: names (or patterns with *) of linear maps that may stay out of the analysis.
        dtype: of the weights, default float32; only for models opened by name.
        device: default "cuda" where there is one, else "cpu"; only for models opened by name.
        trust_remote_code: run code that comes with the model; off.

    Raises:
        BadModel: where it cannot be opened, has non-finite weights, or less than 90 % of the selected
            linear maps can be tracked and the rest is not accepted by name.
        NoBlocks: where nothing can be tracked; lists what was found.
    """
    if isinstance(name_or_path_or_net, nn.Module):
        net = name_or_path_or_net
        if dtype is not None or device is not None:
            raise BadModel("dtype and device are for models opened by name; a live module is used as it is")
    else:
        net = _open(str(name_or_path_or_net), revision, dtype, device, trust_remote_code)
        tokenizer = tokenizer if tokenizer is not None else str(name_or_path_or_net)
    if isinstance(tokenizer, str | Path):
        tokenizer = _open_tokenizer(str(tokenizer), revision, trust_remote_code)
    _check_finite(net)
    found, tracked = select(net, blocks)
    _check_share(tracked, accept_untracked)
    _check_vocabulary(net, tokenizer)
    return LM(net, tokenizer, found, len(decoder_layers(net)[1]), revision or _commit(net), tracked)


def _open(name: str, revision: str | None, dtype: Any, device: str | None, trust: bool) -> nn.Module:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if Path(name).is_dir() and (Path(name) / "adapter_config.json").exists():
        return _open_adapter(name, revision, dtype, device, trust)
    try:
        net = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=_dtype(dtype), trust_remote_code=trust, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadModel(f"cannot open a causal language model from {name!r}: {error}") from error
    moved: nn.Module = net.to(device or _default_device())  # type: ignore[arg-type]
    return moved


def _open_adapter(name: str, revision: str | None, dtype: Any, device: str | None, trust: bool) -> nn.Module:
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise BadModel(f"{name!r} holds a LoRA adapter; pip install peft to open it") from error
    config = PeftConfig.from_pretrained(name)
    base = _open(str(config.base_model_name_or_path), revision, dtype, device, trust)
    return PeftModel.from_pretrained(base, name).to(device or _default_device())


def _dtype(dtype: Any) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype or torch.float32
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise BadModel(f"dtype is {dtype!r}; give float32, float64 or bfloat16")
    return found


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _open_tokenizer(name: str, revision: str | None, trust: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust)
    except (OSError, ValueError, KeyError) as error:
        raise BadModel(f"cannot open a tokenizer from {name!r}: {error}; pass tokenizer=") from error


def _check_finite(net: nn.Module) -> None:
    for name, parameter in net.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter.detach()).all():
            raise BadModel(f"the weight {name} holds NaN or infinite values; load an intact checkpoint")


def _check_share(tracked: Tracked, accepted: Sequence[str]) -> None:
    left = [m for m in tracked.untracked if not any(fnmatch.fnmatchcase(m, pattern) for pattern in accepted)]
    if tracked.of_selected < 0.9 and left:
        raise BadModel(
            f"only {tracked.of_selected:.1%} of the selected linear maps can be tracked; "
            f"left out: {', '.join(left[:8])}"
            f"{' …' if len(left) > 8 else ''}. Accept that by name (accept_untracked=[…], patterns with * allowed) "
            "or select other blocks"
        )


def _check_vocabulary(net: nn.Module, tokenizer: Any) -> None:
    table = getattr(getattr(net, "config", None), "vocab_size", None)
    if tokenizer is None or not isinstance(table, int):
        return
    if len(tokenizer) > table:
        raise BadModel(
            f"the tokenizer has {len(tokenizer)} tokens but the model's embedding only {table}; "
            "pass the tokenizer that belongs to this model"
        )


def _commit(net: nn.Module) -> str | None:
    return getattr(getattr(net, "config", None), "_commit_hash", None)


__all__ = ["BadModel", "NoBlocks", "load"]
