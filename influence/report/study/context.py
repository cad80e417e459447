"""What the template of a study's page fills in: plain dictionaries, texts cleaned, numbers as they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from influence.report.study import local, methods, trends, verdicts
from influence.report.study.cells import centroids, metric_of
from influence.report.study.maps import map_names, metric_name
from influence.report.study.read import CHANCE, Study, first_of
from influence.report.words import clean, count, is_missing, plural

if TYPE_CHECKING:
    import pandas

Figures = Mapping[str, list[str]]
SHOWN = 300  # lines of what was skipped
# column of a concept's numbers -> its name; those that no table has are left out
NUMBERS = {
    "d50": "D50",
    "d95": "D95",
    "excess": "excess of the probe",
    "centroid": "centroid",
    "tfidf": "bag of words",
    "recall": "recall",
    "query_loss": "query loss, nats",
    "effective_count": "effective count",
    "k95": "k95",
}
KIND_WORDS = {
    "answer": "the answer to a question, read at the prompt's end",
    "lexical": "which word stands or comes next",
    "syntactic": "how a sentence is built",
    "truth": "whether a statement is true",
    "two-hop": "an answer over two facts",
    "user": "given by the user",
}


def context(study: Study, inside: Figures) -> dict[str, Any]:
    """Everything the template needs."""
    told = verdicts.lines(study)
    summary = verdicts.summary(study)
    more = {
        "models": study.models, "concepts": study.concepts, "verdicts": study.verdicts, "skipped": study.skipped,
        "versions": study.versions, "facts": study.facts,
    }  # fmt: skip
    return {
        "title": study.title or "Influence and depth across scales",
        "summary": summary,
        "facts": list(_facts(study)),
        "remarks": [clean(one) for one in study.facts.get("remarks") or ()],
        "verdicts": told,
        "signs": [(sign, kind, verdicts.SIGNS_IN_WORDS[kind]) for kind, sign in verdicts.STATES.items()
                  if any(one["state"] == kind for one in told)],
        "kinds": _kinds(study, inside),
        "metric": metric_name(metric_of(study)),
        "seeds": int(study.models.groupby("size")["seed"].nunique().max()) > 1,
        "sizes": [(clean(size), trends.short_count(float(part["parameters"].iloc[0])), int(part["n_layers"].iloc[0]))
                  for size, part in study.models.groupby("size", sort=False)],
        "trends": [{"name": f"scale-{one.name}", "title": one.title, "about": one.about} for one in
                   trends.trends(study)],
        "removal": _removal(study),
        "signature": _signature(study),
        "llc": local.lines(study),
        "figures": inside,
        "left_out": _skipped(study),
        "skipped_more": max(0, len(study.skipped) - SHOWN),
        "methods": methods.sections(study.settings, **more),
        "methods_text": methods.methods_text(study.settings, **more, command=study.command, toml=study.toml),
        "command": study.command,
        "toml": study.toml,
    }  # fmt: skip


def _facts(study: Study) -> Iterator[tuple[str, str]]:
    yield "models", count(len(study.models))
    parameters = study.models["parameters"].astype(float)
    least, most = trends.short_count(parameters.min()), trends.short_count(parameters.max())
    yield "parameters", least if least == most else f"{least} to {most}"
    nulls = int((study.concepts["expected"] == CHANCE).sum())
    yield "concepts", count(len(study.concepts)) + (f", {plural(nulls, 'null')} among them" if nulls else "")
    done = _done(study)
    yield "model × concept measured", f"{count(done)} of {count(len(study.models) * len(study.concepts))}"
    for name, text in study.facts.items():
        if not isinstance(text, (dict, list)) and not is_missing(text):
            yield clean(name).replace("_", " "), clean(text)


def _done(study: Study) -> int:
    """Pairs of model and concept that have a depth or an influence."""
    found: set[tuple[str, str]] = set()
    for name in ("depth", "layer_mass"):
        table = study.tables.get(name)
        if table is not None:
            found |= set(table[["model", "concept"]].itertuples(index=False, name=None))
    return len(found)


def _kinds(study: Study, inside: Figures) -> list[dict[str, Any]]:
    """Concepts by kind, each with its panels and numbers; those that were not measured at all are left out."""
    numbers, names = _numbers(study), map_names(study)
    groups: dict[str, list[dict[str, Any]]] = {}
    for place, one in enumerate(study.concepts.to_dict("records")):
        figure = names[one["concept"]]
        if figure not in inside:
            continue
        groups.setdefault(one["kind"], []).append(
            {
                "id": f"concept-{place}",
                "figure": figure,
                "name": clean(one["concept"]),
                "null": one["expected"] == CHANCE,
                "about": clean(one["about"]),
                "size": _size_words(one),
                "panels": inside[figure],
                "numbers": _table(numbers, study, one["concept"]),
            }
        )
    return [
        {"name": clean(kind), "about": KIND_WORDS.get(kind, ""), "concepts": found} for kind, found in groups.items()
    ]


def _size_words(one: Mapping[str, Any]) -> str:
    words = {"items": "statement", "queries": "query", "bearing_rows": "row"}
    told = []
    for name, word in words.items():
        if not is_missing(one.get(name)):
            amount = int(one[name])
            text = plural(amount, word) if word != "query" else f"{count(amount)} quer{'y' if amount == 1 else 'ies'}"
            told.append(text + (" that bear" + ("s" if amount == 1 else "") + " it" if name == "bearing_rows" else ""))
    return ", ".join(told)


def _numbers(study: Study) -> pandas.DataFrame:
    """A line per model and concept with those of `NUMBERS` that the tables have, D50 with its interval."""
    import pandas

    parts = []
    depth, middle, tail = study.tables.get("depth"), centroids(study), study.tables.get("tails")
    if depth is not None:
        wanted = [name for name in (*NUMBERS, "d50_low", "d50_high") if name in depth]
        parts.append(depth.set_index(["model", "concept"])[wanted])
    if middle is not None:
        parts.append(middle.set_index(["model", "concept"])[["centroid"]])
    if tail is not None:
        parts.append(tail.groupby(["model", "concept"])[["effective_count"]].mean())
    if not parts:
        return pandas.DataFrame(index=pandas.MultiIndex.from_arrays([[], []], names=["model", "concept"]))
    return pandas.concat(parts, axis=1)


def _table(numbers: pandas.DataFrame, study: Study, concept: str) -> dict[str, Any]:
    """Names of columns and a row per model for one concept."""
    names = [name for name in NUMBERS if name in numbers]
    part = numbers[numbers.index.get_level_values("concept") == concept].droplevel("concept")
    rows = []
    for model in study.models["model"]:
        if model in part.index:
            line = part.loc[model].to_dict()
            rows.append(
                {
                    "model": clean(model),
                    "values": [line[name] for name in names],
                    "low": first_of(line, ["d50_low"]),
                    "high": first_of(line, ["d50_high"]),
                }
            )
    return {"names": [NUMBERS[name] for name in names], "rows": rows, "first": bool(names) and names[0] == "d50"}


def _removal(study: Study) -> list[dict[str, Any]]:
    rows = trends.removal_rows(study)
    if rows is None:
        return []
    return [{**one, "size": clean(one["size"]), "arm": clean(one["arm"])} for one in rows.to_dict("records")]


def _signature(study: Study) -> list[dict[str, Any]]:
    """Means over concepts and seeds by size: AUCs and D50 of the signature and of the backward signal."""
    table = study.tables.get("signature")
    if table is None:
        return []
    wanted = ("auc_signature", "auc_backward", "auc_random", "d50_signature", "d50_backward")
    found = []
    for size in study.sizes:
        part = table[table["size"] == size]
        if len(part):
            means = {name: float(part[name].mean()) if name in part else None for name in wanted}
            found.append({"size": clean(size), "concepts": int(part["concept"].nunique()), **means})
    return found


def _skipped(study: Study) -> list[dict[str, str]]:
    return [
        {name: "" if is_missing(one.get(name)) else clean(one[name]) for name in ("model", "step", "concept", "part")}
        | {"why": clean(one.get("why")) or "no reason was stored"}
        for one in study.skipped[:SHOWN]
    ]
