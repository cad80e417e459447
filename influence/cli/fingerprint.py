"""SHA-256 of what a run is made from: weights, tokenizer, token rows."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from influence.types import Rows


def of_model(net: nn.Module) -> str:
    """Over names, types, shapes and bytes of parameters and saved buffers."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_tokenizer(tokenizer: Any) -> str:
    """Over the whole tokenizer where it can say itself in full, else over its vocabulary."""
    if tokenizer is None:
        return hashlib.sha256(b"none").hexdigest()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    said = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = json.dumps(getattr(tokenizer, "special_tokens_map", {}), sort_keys=True, default=str)
    return hashlib.sha256(f"{said}\n{special}".encode("utf-8", "surrogatepass")).hexdigest()


def of_rows(rows: Rows) -> str:
    """Over tokens, masks and ids."""
    from influence.model.batches import columns

    ids, masks, row = columns(rows)
    digest = hashlib.sha256(row.tobytes())
    for tokens, mask in zip(ids, masks, strict=True):
        digest.update(len(tokens).to_bytes(8, "little"))
        digest.update(tokens.astype("int64").tobytes())
        digest.update(mask.astype("int8").tobytes())
    return digest.hexdigest()
