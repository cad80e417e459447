"""Names for parts of a model, as masks over its parameters: what moves in a weight-refined coefficient.

| name | what moves |
|---|---|
| `all` | every parameter |
| `embed`, `unembed` | the input embedding; the output map (the same weights where they are tied) |
| `attention`, `mlp` | all parameters of these sub-blocks, in every layer |
| `layer 3`, `layer 3 attention`, `layer 3 mlp` | one decoder block, or one of its sub-blocks |
| `layer 3 head 5` | the rows of query, key and value maps, and columns of the output map, that belong to one
head | | a parameter's name, or a pattern with * | that parameter; all that match |

Several names move together. Wang et al. 2024 (arXiv 2410.02984), section 2.2.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from influence.llc.heads import head_mask
from influence.llc.space import EmptyMask, Mask
from influence.llc.target import Target
from influence.model.anatomy import Parts, parts
from influence.model.blocks import SELECTIONS, embeddings, linear_maps
from influence.types import LM

Where: TypeAlias = str | Sequence[str] | Mask | None
LAYER = re.compile(r"layer (\d+)(?: (attention|mlp|head (\d+)))?")


class NoPart(EmptyMask):
    """A name that no part of the model has."""


def masks(target: Target, where: Where) -> Mask | None:
    """The mask that `where` names, None for everything; masks are handed on.

    Raises:
        NoPart: for a name that fits nothing; lists what there is.
    """
    if where is None or where == "all":
        return None
    if isinstance(where, Mapping):
        return where
    names = [where] if isinstance(where, str) else list(where)
    found: dict[str, Tensor | bool] = {}
    for name in names:
        for parameter, value in _named(target, name).items():
            found[parameter] = _either(found.get(parameter, False), value)
    if not found:
        raise NoPart("where names no part; give None for all parameters, or at least one name")
    return found


def told(where: Where) -> str | None:
    """The name of a part for tables; None for everything."""
    if where is None or where == "all":
        return None
    if isinstance(where, Mapping):
        return f"a mask of {len(where)} parameters"
    return where if isinstance(where, str) else ", ".join(where)


def heads(lm: LM) -> list[str]:
    """The names of all attention heads of a model."""
    return [
        f"layer {p.layer} head {h}" for p in parts(lm.net) for h in range(p.heads or 0) if p.attention_out is not None
    ]


def layers(lm: LM) -> list[str]:
    """The names of the attention and MLP sub-blocks of all layers that have them."""
    found = parts(lm.net)
    return [f"layer {p.layer} {kind}" for p in found for kind in ("attention", "mlp") if _paths(lm, p, kind)]


def _paths(lm: LM, part: Parts, kind: str) -> list[str]:
    """The sub-block, or its linear maps where they hang in the decoder block itself (OPT)."""
    if (whole := getattr(part, kind)) is not None:
        return [whole]
    start = f"{part.block}." if part.block else ""
    return [m.name for m in linear_maps(lm.net) if m.name.startswith(start) and m.kind in SELECTIONS[kind]]


def _either(a: Tensor | bool, b: Tensor | bool) -> Tensor | bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a | b
    return (b if isinstance(b, Tensor) else bool(b)) if a is False else (a if b is False else True)


def _named(target: Target, name: str) -> Mask:
    exact = [own for own in target.point if fnmatch.fnmatchcase(own, name)]
    if exact:
        return dict.fromkeys(exact, True)
    if target.lm is None:
        raise NoPart(f"{name!r} is no parameter; there are {', '.join(target.point)}, and patterns with * for them")
    return _of_model(target, target.lm, name)


def _of_model(target: Target, lm: LM, name: str) -> Mask:
    found = parts(lm.net)
    if name in ("embed", "unembed"):
        outer = embeddings(lm.net)
        return _under(target, [outer[name][0]] if name in outer else [], name, found)
    if name in ("attention", "mlp"):
        return _under(target, [path for p in found for path in _paths(lm, p, name)], name, found)
    match = LAYER.fullmatch(name)
    if match is None or int(match[1]) >= len(found):
        raise NoPart(_choices(name, found))
    part = found[int(match[1])]
    if match[3] is not None:
        if part.heads is None or int(match[3]) >= part.heads:
            raise NoPart(_choices(name, found))
        return head_mask(target, lm, part, int(match[3]))
    return _under(target, _paths(lm, part, match[2]) if match[2] else [part.block], name, found)


def _under(target: Target, paths: Sequence[str], name: str, found: Sequence[Parts]) -> Mask:
    """The parameters of these modules, by the names that tied ones are kept under."""
    lm = target.lm
    assert lm is not None
    own = {id(p): n for n, p in lm.net.named_parameters()}
    inside = tuple(f"{path}." for path in paths)
    every = lm.net.named_parameters(remove_duplicate=False)
    chosen = {own[id(p)]: True for n, p in every if n in paths or n.startswith(inside)}
    if not chosen:
        raise NoPart(_choices(name, found))
    return chosen


def _choices(name: str, found: Sequence[Parts]) -> str:
    heads = {p.heads for p in found if p.heads is not None}
    most = f", `layer L head H` with H below {max(heads)}" if heads else ""
    return (
        f"{name!r} names no part of this model. It has {len(found)} layers, from 0: give `layer L`, `layer L "
        f"attention`, `layer L mlp`{most}, `attention`, `mlp`, `embed`, `unembed`, a parameter's name, or a "
        "pattern with *"
    )


def as_bool(target: Target, mask: Mask) -> dict[str, Tensor]:
    """Every parameter's mask as a bool tensor, for looking at."""
    whole = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in target.point.items()}
    for name, value in mask.items():
        whole[name] = value if isinstance(value, Tensor) else torch.full_like(whole[name], bool(value))
    return whole
