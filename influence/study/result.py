"""A study on disk, opened: its tables, verdicts, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from influence.study.hypotheses import Verdict, read, verdict_table, verdicts
from influence.study.hypotheses.cells import KEYS

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLES = ("models", "concepts", "curve", *(name for name in KEYS if name not in ("models", "concepts")))


class BadStudy(ValueError):
    """A folder that holds no study, or one that has nothing to test yet."""


@dataclass(frozen=True, eq=False)
class Study:
    """What a study found.

    `tables` by name (their columns: `influence.study.hypotheses.cells`), `verdicts` on the six quantities, `skipped`
    (model, step, concept, part, why) with everything that could not be measured, `settings` as asked for.
    """

    folder: Path
    tables: Mapping[str, pd.DataFrame] = field(repr=False)
    verdicts: tuple[Verdict, ...] = field(repr=False)
    skipped: tuple[Mapping[str, Any], ...] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    remarks: tuple[str, ...] = ()

    @property
    def verdict_table(self) -> pd.DataFrame:
        """A line for each of the six quantities."""
        return verdict_table(self.verdicts)

    def __str__(self) -> str:
        models, concepts = self.tables["models"], self.tables["concepts"]
        trained = models[~models["untrained"]]
        head = (
            f"study of {trained['model'].nunique()} models ({trained['size'].nunique()} sizes × "
            f"{trained['seed'].nunique()} seeds) and {len(concepts)} concepts"
        )
        lines = [head, *(f"{v.quantity} {v.name}: {v.decision}. {v.words}" for v in self.verdicts)]
        if self.skipped:
            lines.append(f"left out: {len(self.skipped)} parts, see .skipped")
        return "\n".join([*lines, *self.remarks])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return str(self.verdict_table[["name", "effect", "low", "high", "p_adjusted", "decision", "words"]].to_html())


def open_study(folder: str | Path) -> Study:
    """Open the study in a folder; the verdicts are made anew from its tables, which are written when all is measured.

    Raises BadStudy for a folder without a study, and where no model is measured yet.
    """
    root = Path(folder).expanduser()
    if not (root / "settings.json").is_file() or not (root / "tables" / "models.parquet").is_file():
        raise BadStudy(f"{root} holds no study with tables; `influence study … --out {root}` makes one")
    tables = {path.stem: pd.read_parquet(path) for path in sorted((root / "tables").glob("*.parquet"))}
    settings = json.loads((root / "settings.json").read_text())
    skipped = json.loads((root / "skipped.json").read_text())
    return Study(root, tables, judged(tables, settings), tuple(skipped), settings, tuple(remarks(tables)))


def judged(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """The verdicts on a study's tables, with untrained models, where there are any, as controls of 4 and 6."""
    raw = None
    if bool(tables["models"]["untrained"].any()):
        raw = read(tables, untrained=True)
    found = verdicts(
        read(tables), permutations=int(settings["permutations"]), seed=int(settings["seed"]), untrained=raw
    )
    return tuple(found)


def of_trained(frame: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table that are not of untrained models (of which some models have one too)."""
    keys = ["model", "step"]
    return frame.merge(models.loc[~models["untrained"], keys], on=keys)


def remarks(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What a reader should know of models and concepts beside the verdicts."""
    found: list[str] = []
    models, depth = tables["models"], tables.get("depth")
    if models["size"].nunique() == 1:
        found.append(f"one size only ({models['size'].iloc[0]}): questions about scale are not asked")
    if depth is not None and len(depth):
        known = of_trained(depth, models).groupby("concept", sort=False)["d50"].apply(lambda d: d.notna().any())
        never = [str(name) for name, one in known.items() if not one]
        if never:
            found.append(f"known to no model (no probe above its control): {', '.join(never)}")
    return found


def joined(parts: Sequence[tuple[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """Lines of many cells by table, in the order of TABLES."""
    grouped: dict[str, list[pd.DataFrame]] = {}
    for name, frame in parts:
        grouped.setdefault(name, []).append(frame)
    order = sorted(grouped, key=lambda name: (TABLES.index(name) if name in TABLES else len(TABLES), name))
    return {name: pd.concat(grouped[name], ignore_index=True) for name in order}
