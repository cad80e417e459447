"""All parameters that move, side by side in one flat buffer, and those that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from influence.llc.target import Target, Weights

if TYPE_CHECKING:
    from influence.llc.traced import Step

Mask = Mapping[str, Tensor | bool]


class EmptyMask(ValueError):
    """A mask that lets nothing move."""


@dataclass(frozen=True, eq=False)
class Space:
    """The coordinates of the chains: p of them, `free` of which move.

    `center` (p) is w* there, `mask` (p) is 1 where a coordinate moves (None: everywhere), `fixed` are the
    parameters without any coordinate that moves. `recorded` keeps recorded steps (`influence.llc.traced`) by target.
    """

    shapes: dict[str, torch.Size]
    center: Tensor
    mask: Tensor | None
    fixed: Weights
    free: int
    recorded: dict[int, Step] = field(default_factory=dict, repr=False)

    def weights(self, flat: Tensor) -> Weights:
        """All parameters by name, those in `flat` (p) as views of it."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        moved = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return {**self.fixed, **moved}

    def flat(self, values: Mapping[str, Tensor]) -> Tensor:
        """(p) from tensors in the shapes of the parameters."""
        return torch.cat([values[name].flatten() for name in self.shapes])


def space(target: Target, mask: Mask | None = None) -> Space:
    """The coordinates that `mask` lets move: for each parameter named in it True, or a bool tensor of its
    shape.

    Raises:
        EmptyMask: where nothing moves.
        ValueError: for names or shapes the model does not have.
    """
    asked = dict.fromkeys(target.point, True) if mask is None else dict(mask)
    chosen = {name: _checked(target, name, value) for name, value in asked.items()}
    kept = {name: chosen[name] for name in target.point if name in chosen and bool(chosen[name].any())}
    if not kept:
        raise EmptyMask(
            f"the mask lets no parameter move; name some of {', '.join(list(target.point)[:8])}"
            f"{' …' if len(target.point) > 8 else ''}"
        )
    dtypes = {target.point[name].dtype for name in kept}
    if len(dtypes) > 1:
        raise ValueError(f"the parameters have the types {sorted(map(str, dtypes))}; cast the model to one of them")
    shapes = {name: target.point[name].shape for name in kept}
    center = torch.cat([target.point[name].flatten() for name in kept])
    moving = torch.cat([value.flatten() for value in kept.values()])
    fixed = {name: value for name, value in target.point.items() if name not in kept}
    whole = bool(moving.all())
    return Space(shapes, center, None if whole else moving.to(center), fixed, int(moving.sum()))


def _checked(target: Target, name: str, value: Tensor | bool) -> Tensor:
    if name not in target.point:
        raise ValueError(f"the mask names {name!r}, which is no parameter; the first are {list(target.point)[:8]}")
    own = target.point[name]
    if isinstance(value, Tensor):
        if value.shape != own.shape or value.dtype != torch.bool:
            raise ValueError(
                f"the mask of {name} is {value.dtype} of shape {tuple(value.shape)}; expected is bool "
                f"{tuple(own.shape)}"
            )
        return value.to(own.device)
    return torch.full_like(own, bool(value), dtype=torch.bool)
