"""What is to be edited: which layers, which tokens, how. An `Edit` says it; `influence.edit` does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

TOKENS = ("previous", "prompt", "all")
ONWARDS = ("freeze", "skip")  # an int k means "from layer k on"; for the others "at the input of layer k"

Layers: TypeAlias = "int | Sequence[int] | Sequence[bool] | Tensor | np.ndarray"
Tokens: TypeAlias = "str | Tensor | Sequence[bool] | Sequence[Sequence[bool]]"


class BadEdit(ValueError):
    """An edit that cannot be made: layers, tokens or prompts that do not fit the model or the batch."""


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit; made by `noise`, `freeze`, `swap`, `shuffle` and `skip`, where the fields are explained."""

    kind: str
    layers: Any
    tokens: Any = "previous"
    seed: int = 0
    other: Any = field(default=None, repr=False)
    other_tokens: Any = field(default=None, repr=False)

    def at(self, n_layers: int) -> tuple[int, ...]:
        """The layers edited in a model of so many. Raises BadEdit for layers that it does not have."""
        return layers_of(self.kind, self.layers, n_layers)

    def __str__(self) -> str:
        tokens = self.tokens if isinstance(self.tokens, str) else "a mask"
        seed = f", seed={self.seed}" if self.kind in ("noise", "shuffle") else ""
        return f"{self.kind}(layers={self.layers}, tokens={tokens}{seed})"


def noise(layers: Layers, tokens: Tokens = "previous", *, seed: int = 0) -> Edit:
    """Replace states by Gaussian directions of the same norm, once, at the input of a layer.

    Args:
        layers: k, at whose input it is done; or several, or a mask of bool with one entry per layer.
        tokens: "previous" (all real tokens but the last of the sequence), "prompt" (all of the prompt, none that is
            generated), "all", or a mask of the prompt's tokens, (t) or (b t), True where edited. Padding in between or
            at either end counts as a token of the mask and is never looked at by the model.
        seed: of the directions. Those of a row depend on (seed, row, layer, place of the token) alone.

    Raises BadEdit (a ValueError) for an unknown name of tokens; layers and masks are checked where the edit is used.
    """
    return _edit("noise", layers, tokens, seed=int(seed))


def shuffle(layers: Layers, tokens: Tokens = "previous", *, seed: int = 0) -> Edit:
    """Permute the features inside each token at the input of a layer; arguments as for `noise`."""
    return _edit("shuffle", layers, tokens, seed=int(seed))


def freeze(layers: Layers, tokens: Tokens = "previous") -> Edit:
    """Let states pass layers unchanged: from layer k on, tokens keep their input of layer k.

    Args:
        layers: k for all layers from k on; or the layers passed unchanged, as a list or a mask of bool.
        tokens: as for `noise`.
    """
    return _edit("freeze", layers, tokens)


def skip(layers: Layers, tokens: Tokens = "all") -> Edit:
    """Leave the attention sub-block out and keep the MLP.

    Where attention and MLP read the same stream (GPT-NeoX, GPT-J, Phi, Falcon), the MLP never saw this layer's
    attention, so skipping takes less away than in families where it reads the sum.

    Args:
        layers: k for all layers from k on; or the layers concerned, as a list or a mask of bool.
        tokens: as for `noise`, but every token unless said otherwise: the last token too attends no more.
    """
    return _edit("skip", layers, tokens)


def swap(layers: Layers, other: Any, tokens: Tokens = "previous", *, other_tokens: Tokens | None = None) -> Edit:
    """Replace states at the input of a layer by those that the model has there for another prompt.

    Args:
        layers: k, or several, as for `noise`.
        other: the other prompt: a text, texts, token ids (b t) or (t), or a mapping of the model's arguments
            (`input_ids`, `attention_mask`, and `position_ids` where padding stands on the left and generation will give
            them); one row serves a whole batch. Its states come from an unedited pass at the start of the context.
        tokens: as for `noise`.
        other_tokens: mask of tokens of the other prompt: the i-th chosen token gets the state of the i-th chosen one
            there. Default: the i-th token that of the i-th token, so that both prompts must have the same length.
    """
    return _edit("swap", layers, tokens, other=other, other_tokens=other_tokens)


def _edit(kind: str, layers: Any, tokens: Any, **settings: Any) -> Edit:
    if isinstance(tokens, str) and tokens not in TOKENS:
        raise BadEdit(f"tokens={tokens!r}; give {', '.join(TOKENS)}, or a mask of the prompt's tokens (True: edited)")
    return Edit(kind, layers, tokens, **settings)


def layers_of(kind: str, layers: Any, n_layers: int) -> tuple[int, ...]:
    """The layers that `layers` means for an edit of that kind, ascending; see `noise` and `freeze`.

    Raises:
        BadEdit: for layers outside 0 … n_layers − 1, none at all, and masks of another length.
    """
    told = f"layers={layers!r} for {kind}"
    if isinstance(layers, Tensor | np.ndarray):
        layers = layers.tolist()
    if isinstance(layers, int | np.integer) and not isinstance(layers, bool):
        chosen = list(range(int(layers), n_layers)) if kind in ONWARDS and layers >= 0 else [int(layers)]
        if not 0 <= int(layers) < n_layers:
            raise BadEdit(f"{told}: the model has layers 0 to {n_layers - 1}; give one of them")
        return tuple(chosen)
    if isinstance(layers, str | bool) or not hasattr(layers, "__iter__"):
        raise BadEdit(f"{told}: give a layer, a list of layers, or a mask with one True or False per layer")
    given = list(layers)
    if given and all(isinstance(one, bool | np.bool_) for one in given):
        if len(given) != n_layers:
            raise BadEdit(
                f"{told}: the mask has {len(given)} entries and the model {n_layers} layers; give one for each"
            )
        given = [place for place, one in enumerate(given) if one]
    if not given or not all(isinstance(one, int | np.integer) and 0 <= one < n_layers for one in given):
        raise BadEdit(f"{told}: give at least one layer out of 0 to {n_layers - 1}, as whole numbers")
    return tuple(sorted({int(one) for one in given}))


def as_mask(tokens: Any) -> Tensor:
    """A token mask as (t) or (b t) bool. Raises BadEdit for other shapes and for values other than 0 and 1."""
    try:
        mask = torch.as_tensor(tokens).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadEdit(f"the token mask cannot be read as a tensor ({error}); give (t) or (b t) of bool") from error
    if mask.ndim not in (1, 2) or not bool(((mask == 0) | (mask == 1)).all()):
        raise BadEdit(
            f"the token mask has shape {tuple(mask.shape)} and type {mask.dtype}; give (t) or (b t) with True where a "
            "token is edited"
        )
    return mask.bool()
