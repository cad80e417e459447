"""The payload of a study as the report needs it: checked, the last step of every trained model, concepts in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from influence.report.words import clean, is_missing

if TYPE_CHECKING:
    import pandas

# what each table must hold; every table but models may be missing
COLUMNS = {
    "models": ("model", "size", "parameters", "n_layers", "seed", "step"),
    "concepts": ("concept", "kind"),
    "curve": ("model", "step", "concept", "layer", "depth", "value"),
    "depth": ("model", "step", "concept", "d50", "d95"),
    "layer_mass": ("model", "step", "concept", "query", "layer", "depth", "mass"),
    "layer_tail": ("model", "step", "concept", "layer", "depth", "bearing", "exponent"),
    "tails": ("model", "step", "concept", "query", "effective_count"),
    "margin": ("model", "step", "concept", "layer", "auc"),
    "removal": ("size", "seed", "concept", "arm", "d50_before", "d50_after"),
    "signature": ("model", "step", "concept", "auc_signature", "auc_backward"),
    "llc": ("model", "step", "part", "layer", "head", "depth", "llc", "rhat"),
}
KINDS = ("answer", "lexical", "syntactic", "truth", "two-hop", "user")
CHANCE = "chance"


@dataclass(frozen=True)
class Study:
    """A study as the report shows it.

    `models`: a line per trained model (its last step), by parameters and seed. `concepts`: by kind, then by mean D50,
    undefined last; columns concept, kind, expected, about, and numbers where they were given. `tables`: those that
    there are, only lines of `models` and `concepts`, with the column size; "llc_untrained" has those of untrained ones.
    """

    models: pandas.DataFrame
    concepts: pandas.DataFrame
    tables: dict[str, pandas.DataFrame]
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    versions: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    toml: str = ""
    title: str = ""

    @property
    def sizes(self) -> list[str]:
        """Names of the sizes by parameters."""
        return list(dict.fromkeys(self.models["size"]))

    def of(self, name: str, **keys: Any) -> pandas.DataFrame | None:
        """The lines of a table that have these values; None where there is no such line."""
        found = self.tables.get(name)
        if found is None:
            return None
        for key, value in keys.items():
            found = found[found[key] == value]
        return found if len(found) else None

    def is_null(self, concept: str) -> bool:
        """Whether the concept is expected at chance, a null of the study."""
        line = self.concepts[self.concepts["concept"] == concept]
        return bool((line["expected"] == CHANCE).any())


def read_study(payload: Mapping[str, Any]) -> Study:
    """The study in `payload`; see `influence.report.study` for its keys.

    Raises:
        ValueError: for no models, an unknown key of the payload, and a table that lacks a column, naming both.
    """
    known = {"tables", "models", "concepts", "verdicts", "settings", "skipped", "versions", "facts", "command", "toml",
             "title"}  # fmt: skip
    if unknown := sorted(set(payload) - known):
        raise ValueError(f"the payload has the unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    given = dict(payload.get("tables") or {})
    given |= {name: payload[name] for name in ("models", "concepts") if payload.get(name) is not None}
    tables = {name: _checked(name, frame) for name, frame in given.items() if name in COLUMNS and frame is not None}
    if "models" not in tables or not len(tables["models"]):
        raise ValueError(f"a study's report needs the table models; it got {', '.join(given) or 'no table'}")
    every = tables.pop("models")
    models = _models(every)
    about = tables.pop("concepts", None)
    raw = _untrained(tables.get("llc"), every)
    tables = {name: _last(frame, models) for name, frame in tables.items()} | raw
    concepts = _concepts(about, tables)
    kept = {name: frame for name, frame in tables.items() if len(frame)}
    settings = dict(payload.get("settings") or {})
    if any("quantity" not in one for one in payload.get("verdicts") or ()):
        raise ValueError("a verdict has no quantity; give verdicts as mappings with the fields of the tests' records")
    return Study(
        models, concepts, kept,
        verdicts=[dict(one) for one in payload.get("verdicts") or ()],
        settings=settings,
        skipped=[dict(one) for one in payload.get("skipped") or ()],
        versions=dict(payload.get("versions") or {}),
        facts=dict(payload.get("facts") or {}),
        command=clean(payload.get("command")),
        toml=clean(payload.get("toml")),
        title=clean(payload.get("title")),
    )  # fmt: skip


def _checked(name: str, frame: pandas.DataFrame) -> pandas.DataFrame:
    lacking = [column for column in COLUMNS[name] if column not in frame]
    if lacking:
        raise ValueError(
            f"table {name} of the study lacks the columns {', '.join(lacking)}; it has {', '.join(map(str, frame))}"
        )
    plain = {key: frame[key].astype(object) for key in ("model", "concept", "size", "query") if key in frame}
    return frame.assign(**plain)


def _models(table: pandas.DataFrame) -> pandas.DataFrame:
    """The last step of every trained model."""
    trained = table[~table["untrained"].astype(bool)] if "untrained" in table else table
    if not len(trained):
        raise ValueError("the table models has no trained model; a study's report needs at least one")
    last = trained.sort_values("step", kind="stable").groupby("model", sort=False).tail(1)
    return last.sort_values(["parameters", "size", "seed"], kind="stable").reset_index(drop=True)


def _untrained(frame: pandas.DataFrame | None, models: pandas.DataFrame) -> dict[str, pandas.DataFrame]:
    """The lines of the untrained models, as the table llc_untrained."""
    if frame is None or "untrained" not in models:
        return {}
    return {"llc_untrained": _last(frame, models[models["untrained"].astype(bool)])}


def _last(frame: pandas.DataFrame, models: pandas.DataFrame) -> pandas.DataFrame:
    """The lines of these models at their step, with size and seed."""
    if "model" not in frame:
        return frame[frame["size"].isin(set(models["size"]))].reset_index(drop=True)
    extra = [name for name in ("size", "seed") if name in frame]
    return frame.drop(columns=extra).merge(models[["model", "step", "size", "seed"]], on=["model", "step"])


def _concepts(about: pandas.DataFrame | None, tables: Mapping[str, pandas.DataFrame]) -> pandas.DataFrame:
    """Every concept that any table names, by kind and D50."""
    import pandas

    named = pandas.Index(pandas.unique(pandas.concat([pandas.Series([], dtype=object),
                         *(frame["concept"] for frame in tables.values() if "concept" in frame)])))  # fmt: skip
    if about is None:
        about = pandas.DataFrame({"concept": named, "kind": "not stated"})
    lost = [name for name in named if name not in set(about["concept"])]
    if lost:
        about = pandas.concat([about, pandas.DataFrame({"concept": lost, "kind": "not stated"})], ignore_index=True)
    about = about.drop_duplicates("concept").copy()
    for name in ("expected", "about"):
        about[name] = about[name].fillna("") if name in about else ""
    d50 = tables["depth"].groupby("concept")["d50"].mean() if "depth" in tables else pandas.Series(dtype=float)
    about["d50"] = about["concept"].map(d50).astype(float)
    about["place"] = [KINDS.index(kind) if kind in KINDS else len(KINDS) for kind in about["kind"]]
    return about.sort_values(["place", "kind", "d50", "concept"], kind="stable").reset_index(drop=True)


def first_of(line: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these values that is there, or None."""
    return next((line[name] for name in names if not is_missing(line.get(name))), None)
