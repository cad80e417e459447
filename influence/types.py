"""The nouns every room shares; records only, no logic beyond how they show themselves.

Letters for shapes: b sequences, t positions, i inputs of a block (the constant 1 last where it has a bias),
o outputs, q queries, r rank, l layers, n training sequences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    import datasets
    import xarray

KINDS = ("attn_qkv", "attn_out", "mlp_in", "mlp_out", "embed", "unembed")

Rows: TypeAlias = "datasets.Dataset"
Scores: TypeAlias = "xarray.DataArray"


@dataclass(frozen=True, slots=True)
class Block:
    """One tracked linear map y = W a (+ bias).

    `name` is the module's path in the model, or for a parameter used without a module of its own
    (fused experts, routers) the parameter's path, with the expert in brackets: `…experts.down_proj[3]`.
    `d_in` and `d_out` are the map's own widths; `shape` = (o, i) is that of gradients, i one more where it has a bias.
    """

    name: str
    layer: int | None
    kind: str
    d_in: int
    d_out: int
    bias: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.d_out, self.d_in + int(self.bias)

    @property
    def size(self) -> int:
        return self.d_out * (self.d_in + int(self.bias))


@dataclass(frozen=True, slots=True)
class Tracked:
    """How much of a model the blocks cover: shares in [0, 1], and the selected linear maps left out."""

    of_all: float
    of_selected: float
    untracked: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.of_all:.1%} of all parameters, "
            f"{self.of_selected:.1%} of the linear maps selected inside the decoder blocks"
        )


@dataclass(frozen=True, eq=False)
class LM:
    """A model opened for analysis; nothing is attached to `net`."""

    net: torch.nn.Module
    tokenizer: Any
    blocks: tuple[Block, ...]
    n_layers: int
    revision: str | None
    tracked: Tracked

    def __str__(self) -> str:
        kind = type(self.net).__name__
        return f"{kind}: {self.n_layers} layers, {len(self.blocks)} blocks; tracked {self.tracked}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        kinds = Counter(block.kind for block in self.blocks)
        lines = "".join(f"<tr><td>{kind}</td><td>{count}</td></tr>" for kind, count in kinds.items())
        return f"<p>{escape(str(self))}</p><table><tr><th>kind</th><th>blocks</th></tr>{lines}</table>"


class Batch(NamedTuple):
    """Token rows padded on the right; `loss_mask[b, t]` says that the token at t is scored."""

    input_ids: Tensor  # (b t) int64
    loss_mask: Tensor  # (b t) bool
    row: Tensor  # (b) int64


class Pair(NamedTuple):
    """A block's input and the gradient at its output, both zero at positions that do not count.

    `position` (b t) gives the sequence position of each entry where it is not simply t
    (an expert sees only the tokens routed to it); unused entries are zero in `a` and `g`.
    """

    a: Tensor  # (b t i)
    g: Tensor  # (b t o)
    counted: int | None = None  # positions that count, default all
    position: Tensor | None = None


class LowRank(NamedTuple):
    """left @ right, one product per query."""

    left: Tensor  # (q o r)
    right: Tensor  # (q r i)


Grad: TypeAlias = dict[str, Tensor | LowRank]  # block name -> (q o i), always in block order


@dataclass(frozen=True)
class Solution:
    """What a solver returns: (G + λI)⁻¹ v with its certificate.

    `residual` (q) is ‖(G + λI)x − v‖ / ‖v‖, or None until certified by a product.
    """

    value: Grad
    residual: Tensor | None = None
    steps: int = 0
    converged: bool | None = None
    info: dict[str, Any] = field(default_factory=dict)


Solver: TypeAlias = Callable[[Grad], Solution]
