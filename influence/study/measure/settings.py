"""How a study measures: everything on which its tables depend beside models, rows and concepts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Settings of the measurements, the same for every model and concept.

    Probes: `splits` by group, `bootstrap` draws. Influence: `damping` in mean eigenvalues of a block, EK-FAC factors
    from `fit_rows` rows (all where there are fewer), `queries` a concept and `controls` matched to them. `margin` is
    the number of items whose probe margin is traced in each layer (0: not measured); `signature` the items of the
    descriptive quantity 4 (0: not measured), over `signature_rows` rows; `edits` the questions on which it is measured
    how long previous tokens are needed (0: not measured). `k95`: neurons for 95 % of what a dense probe tells.
    `llc`: draws per chain of λ̂ of every layer and head, once per model (0: not measured), over `llc_rows` rows.
    `dtype`: "bfloat16" computes influence in it.
    """

    splits: int = 3
    bootstrap: int = 200
    damping: float = 0.1
    fit_rows: int = 2000
    queries: int = 6
    controls: int = 3
    margin: int = 48
    signature: int = 0
    signature_rows: int = 256
    edits: int = 0
    k95: bool = False
    llc: int = 0
    llc_rows: int = 500
    batch_size: int = 32
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"splits": 1, "bootstrap": 20, "fit_rows": 1, "queries": 1, "controls": 1, "margin": 0, "signature": 0}
        least |= {"edits": 0, "signature_rows": 50, "batch_size": 1, "seed": 0}
        least |= {"llc": 8 if self.llc else 0, "llc_rows": 2}
        low = {name: getattr(self, name) for name, bound in least.items() if getattr(self, name) < bound}
        if low or not self.damping > 0:
            told = ", ".join(f"{name} = {value} (at least {least[name]})" for name, value in low.items())
            raise ValueError(f"settings of a study out of range: {told or f'damping = {self.damping} (above 0)'}")
        if self.dtype not in (None, "float32", "bfloat16", "float64"):
            raise ValueError(f"dtype is {self.dtype!r}; give 'float32', 'bfloat16', or leave it out")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
