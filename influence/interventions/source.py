"""The states that a model has for another prompt, and how their tokens line up with those that are edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influence.data.words import encode, words
from influence.interventions.edits import BadEdit, as_mask
from influence.model.anatomy import parts
from influence.types import LM


@dataclass(frozen=True, eq=False)
class Source:
    """Another prompt: the inputs (b t d) of some layers, and which of its tokens may be taken, (b t) bool."""

    states: dict[int, Tensor]
    tokens: Tensor
    aligned: bool  # by place, rather than chosen token by chosen token


def source(lm: LM, other: Any, layers: Sequence[int], other_tokens: Any = None) -> Source:
    """Run another prompt through the model, unedited, and keep what the layers receive.

    `other` is as for `influence.interventions.swap`, or a `Source` already. Hooks on the model act as always.

    Raises:
        BadEdit: for what is no prompt, and a mask that does not fit it.
    """
    if isinstance(other, Source):
        return other
    ids, mask, more = prompt_ids(lm, other)
    device = next(lm.net.parameters()).device
    ids, mask = ids.to(device), mask.to(device)
    states = inputs_of(lm, ids, layers, None if bool(mask.all()) else mask, **more)
    if other_tokens is None:
        return Source(states, mask, True)
    chosen = as_mask(other_tokens).to(device)
    chosen = chosen[None] if chosen.ndim == 1 else chosen
    if chosen.shape[1] != ids.shape[1] or len(chosen) not in (1, len(ids)):
        raise BadEdit(
            f"other_tokens is for {len(chosen)} row(s) of {chosen.shape[1]} tokens and the other prompt has {len(ids)} "
            f"of {ids.shape[1]}; give (t) or (b t) with one True or False for each token"
        )
    return Source(states, chosen & mask, False)


def inputs_of(lm: LM, ids: Tensor, layers: Sequence[int], mask: Tensor | None = None, **more: Any) -> dict[int, Tensor]:
    """What the layers receive for ids (b t), as copies (b t d), from one ordinary pass without gradients."""
    blocks = parts(lm.net)
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[layer] = (args[0] if args else next(iter(kwargs.values()))).detach().clone()

        return hook

    with ExitStack() as stack, torch.no_grad():
        for layer in layers:
            module = lm.net.get_submodule(blocks[layer].block)
            stack.callback(module.register_forward_pre_hook(keep(layer), with_kwargs=True).remove)
        lm.net(ids, **({} if mask is None else {"attention_mask": mask.long()}), **more)
    return found


def prompt_ids(lm: LM, other: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """(ids, mask), both (b t), and further arguments of the model, of a prompt as `swap` takes it."""
    if isinstance(other, str) or (isinstance(other, Sequence) and other and all(isinstance(o, str) for o in other)):
        texts = [other] if isinstance(other, str) else list(other)
        rows = encode(words(lm), texts, [f"prompt {place}" for place in range(len(texts))])["input_ids"]
        width = max(map(len, rows))
        ids = torch.tensor([list(row) + [0] * (width - len(row)) for row in rows])
        return ids, torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows]), {}
    mask, more = None, {}
    if isinstance(other, Mapping):
        more = {name: value for name, value in other.items() if name not in ("input_ids", "attention_mask")}
        other, mask = other.get("input_ids"), other.get("attention_mask")
    try:
        ids = torch.as_tensor(other)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadEdit(f"the other prompt cannot be read ({error}); give a text, or token ids (b t)") from error
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or ids.numel() == 0 or ids.is_floating_point():
        raise BadEdit(f"the other prompt has shape {tuple(ids.shape)} and type {ids.dtype}; give whole numbers (b t)")
    mask = torch.ones_like(ids).bool() if mask is None else torch.as_tensor(mask).bool()
    return ids, mask.reshape(ids.shape), more


def check_aligned(found: Source, real: Tensor, chosen: Tensor) -> None:
    """Whether the other prompt lines up with a prompt of `real` (b t) tokens of which `chosen` (b t) are edited.

    Raises BadEdit where it does not, saying what would.
    """
    if len(found.tokens) not in (1, len(real)):
        raise BadEdit(f"swap has {len(found.tokens)} other prompts for {len(real)} rows; give one, or one for each row")
    here = (real if found.aligned else chosen).sum(1).cpu()
    there = found.tokens.sum(1).cpu().expand(len(here))
    if bad := torch.nonzero(here != there).flatten().tolist():
        row = bad[0]
        if found.aligned:
            raise BadEdit(
                f"swap: row {row} has {int(here[row])} tokens and the other prompt {int(there[row])}, so they are not "
                "aligned; give prompts of the same number of tokens, or say which tokens go where with tokens= and "
                "other_tokens= (as many in each)"
            )
        raise BadEdit(
            f"swap: {int(here[row])} tokens of row {row} are edited and {int(there[row])} of the other prompt are "
            "given; choose as many in other_tokens= as in tokens="
        )


def placed(found: Source, layer: int, real: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(states (b s d), tokens (b s)): the other prompt's states put where they are wanted, and where there are any.

    `real` and `chosen` (b s) are about whole sequences, cached tokens included.
    """
    states, wanted = found.states[layer], (real if found.aligned else chosen)
    b, s = real.shape
    rank = wanted.cumsum(1) - 1  # the i-th wanted token …
    there = found.tokens.to(real.device).expand(b, -1)
    places = there.long().argsort(dim=1, descending=True, stable=True)  # … gets the i-th that may be taken
    has = wanted & (rank < there.sum(1, keepdim=True))
    index = places.gather(1, rank.clamp(0, places.shape[1] - 1)).to(states.device)
    full = states.expand(b, -1, -1)
    return full.gather(1, index[..., None].expand(-1, -1, full.shape[-1])), has & chosen
