"""Fitted factors of all blocks, and the coarser curvatures that share their form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ekfac.basis import BadFactor, Basis
from ekfac.eigenvalues import EigenvaluesState, relative_error


@dataclass(frozen=True)
class Factor:
    """The curvature of one block: G ≈ (Q_S ⊗ Q_A) diag(Λ) (Q_S ⊗ Q_A)ᵀ.

    `basis_in` (i i) or in diagonal blocks (s k k), `basis_out` likewise over o; None is the standard basis.
    `eigenvalues` Λ (o i) is a mean over `count` sequences. `values_in` (i) and `values_out` (o) are the eigenvalues of
    A and S, `positions` the counted positions per sequence.
    """

    basis_in: Tensor | None
    basis_out: Tensor | None
    eigenvalues: Tensor
    count: int
    values_in: Tensor | None = None
    values_out: Tensor | None = None
    positions: float = 0.0

    @property
    def mean(self) -> float:
        """tr(G) / dim: what damping is measured in."""
        return float(self.eigenvalues.double().mean())


class Factors(Mapping[str, Factor]):
    """Factors by block name, in block order, and `how` they were fitted (JSON-able)."""

    def __init__(self, blocks: Mapping[str, Factor], how: Mapping[str, Any] | None = None):
        self._blocks = dict(blocks)
        self.how: dict[str, Any] = dict(how or {})

    def __getitem__(self, name: str) -> Factor:
        return self._blocks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __repr__(self) -> str:
        count = max((f.count for f in self.values()), default=0)
        return f"Factors({self.how.get('curvature', 'ekfac')}: {len(self)} blocks fitted on {count} sequences)"

    def _repr_html_(self) -> str:
        lines = "".join(
            f"<tr><td>{escape(name)}</td><td>{one.eigenvalues.shape[0]} × {one.eigenvalues.shape[1]}</td>"
            f"<td>{one.mean:.3g}</td></tr>"
            for name, one in self.items()
        )
        head = "<tr><th>block</th><th>o × i</th><th>mean Λ</th></tr>"
        return f"<p>{escape(repr(self))}</p><table>{head}{lines}</table>"

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with a checksum; see `ekfac.save`."""
        from ekfac.files import save

        return save(self, path)

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> Factors:
        """Read what `save` wrote and check every byte; see `ekfac.load`."""
        from ekfac.files import load

        return load(path, device)


def factors(bases: Mapping[str, Basis], state: EigenvaluesState, how: Mapping[str, Any] | None = None) -> Factors:
    """Join eigenbases with the eigenvalues fitted in them.

    Raises:
        BadFactor: where an eigenvalue is NaN or infinite; names the block.
    """
    found = {}
    errors = {}
    for name, one in state.items():
        basis = bases[name]
        mean = one.total / max(one.sequences, 1)
        if not torch.isfinite(mean).all():
            raise BadFactor(f"Λ of {name} holds NaN or infinite values; look for rows with extreme gradients")
        found[name] = Factor(
            basis.basis_in, basis.basis_out, mean, one.sequences,
            basis.values_in, basis.values_out, basis.positions_per_sequence,
        )  # fmt: skip
        errors[name] = relative_error(one)
    ranks = {n: [b.rank_in, len(b.values_in), b.rank_out, len(b.values_out)] for n, b in bases.items()}
    extra = {"curvature": "ekfac", "relative_error": errors, "ranks": ranks}
    return Factors(found, {**extra, **(how or {})})


def kfac(fitted: Factors) -> Factors:
    """K-FAC in the same basis: Λ = T̄ · D_S ⊗ D_A with T̄ the counted positions per sequence (Martens & Grosse 2015)."""
    blocks = {}
    for name, one in fitted.items():
        if one.values_in is None or one.values_out is None:
            raise ValueError(f"the factors of {name} hold no covariance eigenvalues; fit EK-FAC first")
        product = one.positions * torch.outer(one.values_out.clamp_min(0), one.values_in.clamp_min(0))
        blocks[name] = replace(one, eigenvalues=product)
    return Factors(blocks, {**fitted.how, "curvature": "kfac"})


def identity(
    shapes: Mapping[str, tuple[int, int]],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Factors:
    """Λ = 1 in the standard basis: with damping 0 the score is a gradient dot product."""
    blocks = {
        name: Factor(None, None, torch.ones(shape, dtype=dtype, device=device), 0) for name, shape in shapes.items()
    }
    return Factors(blocks, {"curvature": "identity"})


def diagonal(state: EigenvaluesState, how: Mapping[str, Any] | None = None) -> Factors:
    """Mean squared gradient of every weight, from eigenvalues fitted in the standard basis."""
    blocks = {n: Factor(None, None, one.total / max(one.sequences, 1), one.sequences) for n, one in state.items()}
    return Factors(blocks, {"curvature": "diagonal", **(how or {})})


def merge(x: Factors, y: Factors) -> Factors:
    """Factors of both parts of the rows, fitted in one and the same basis: means weighted by their counts.

    Raises:
        ValueError: where blocks or bases differ.
    """
    if list(x) != list(y):
        raise ValueError("two factors of different blocks came; merge parts of one and the same fit")
    blocks = {}
    for name, one in x.items():
        two = y[name]
        for a, b in ((one.basis_in, two.basis_in), (one.basis_out, two.basis_out)):
            if (a is None) != (b is None) or (a is not None and b is not None and not torch.equal(a, b)):
                raise ValueError(
                    f"{name}: the two were fitted in different bases; fit the second with basis=first and merge again"
                )
        total = one.count + two.count
        if total == 0:
            raise ValueError(f"{name}: neither part has any sequences")
        mean = (one.eigenvalues * one.count + two.eigenvalues * two.count) / total
        blocks[name] = replace(one, eigenvalues=mean, count=total)
    return Factors(blocks, {**x.how, "merged": True})
