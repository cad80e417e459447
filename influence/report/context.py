"""Turns a run into what the template fills in: plain dictionaries, texts cleaned, numbers as they stand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from influence.report import checks, interventions, llc, probing, sparse, trust
from influence.report.cards import RANKINGS, SIDES, Cards, facts_of_rows, sides
from influence.report.chart import Build
from influence.report.dots import trust_figures
from influence.report.figures import EKFAC, of_query, query_figures, retrieval, top_share
from influence.report.payload import Limits, comparison, heat
from influence.report.read import Run
from influence.report.svg import draw, inline
from influence.report.words import clean, closed, is_missing, shorten

if TYPE_CHECKING:
    import pandas

Drawing = Callable[[str, Build, str], str]
NO_SCORES: dict[str, Any] = {"queries": [], "data": {"queries": [], "tokens": {}, "maps": {}, "clip": {}, "texts": {}}}


def context(run: Run, limits: Limits, drawing: Drawing, progress: bool = False) -> dict[str, Any]:
    """Everything the template needs, `data` (for the script) included."""
    scored = "queries" in run.tables
    return {
        **_head(run),
        **(_scores(run, limits, drawing, progress) if scored else NO_SCORES),
        "scored": scored,
        "probing": probing.section(run),
        "probe_svg": {name: drawing(name, build, said) for name, build, said in probing.probing_figures(run)},
        "sparse": sparse.section(run),
        "sparse_svg": {name: drawing(name, build, said) for name, build, said in sparse.sparse_figures(run)},
        "edits": interventions.section(run),
        "edit_svg": {name: drawing(name, build, said) for name, build, said in interventions.edit_figures(run)},
        "llc": llc.section(run),
        "llc_svg": {name: drawing(name, build, said) for name, build, said in llc.llc_figures(run)},
        "provenance": _provenance(run),
    }


def _scores(run: Run, limits: Limits, drawing: Drawing, progress: bool) -> dict[str, Any]:
    """The part of a run of scores: queries with their rows, figures and heat maps, trust, retrieval, blocks."""
    queries = run.tables["queries"].head(limits.queries)
    shown = {int(query): _shown(run, int(query), limits.rows) for query in queries["query"]}
    maps = heat(run, {query: _shown(run, query, limits.heat) for query in shown}, limits)
    cards = Cards(run, limits, facts_of_rows(run), frozenset(maps["maps"]))
    records = tqdm(queries.to_dict("records"), "report", unit="query", delay=2, disable=not progress, leave=False)
    blocks = [_query(run, record, cards, maps["clip"], drawing) for record in records]
    return {
        "queries": blocks,
        "left_out": len(run.tables["queries"]) - len(blocks),
        "heat": {"tables": "tokens" in run.tables, "cut": maps["cut"], "tokens": limits.tokens},
        "sides": SIDES,
        "rankings": {key: name for key, name in RANKINGS.items() if any(key in one["sides"] for one in blocks)},
        "share_svg": _share(run, drawing),
        "retrieval": _retrieval(run, drawing),
        "certificate": checks.certificate(run),
        "truth": checks.truth(run),
        "trust_svg": _trust_figures(run, drawing),
        "blocks": _blocks(run),
        "data": {
            "tokens": maps["tokens"],
            "maps": maps["maps"],
            "clip": maps["clip"],
            "texts": cards.texts,
            "compare": comparison(run, shown),
            "layers": _layer_names(run),
            "queries": [{"id": str(one["id"]), "short": one["short"]} for one in blocks],
        },
    }


def _head(run: Run) -> dict[str, Any]:
    return {
        "asked": trust.asked(run),
        "model": trust.model_name(run),
        "facts": trust.facts(run),
        "trust": trust.trust(run),
        "warnings": [clean(warning) for warning in run.manifest.get("warnings") or ()],
    }


def drawer() -> Drawing:
    """Draws each chart once and keeps it, since a page that came out too large is put together again."""
    kept: dict[str, str] = {}

    def drawing(name: str, build: Build, label: str) -> str:
        if name not in kept:
            kept[name] = inline(draw(build()), name, label)
        return kept[name]

    return drawing


def _layer_names(run: Run) -> list[int]:
    return sorted(run.tables["layers"]["layer"].unique().tolist()) if "layers" in run.tables else []


def _shown(run: Run, query: int, places: int) -> list[int]:
    top = of_query(run, "top", query)
    return [] if top is None else [int(row) for row in top.loc[top["place"] <= places, "row"].unique()]


def _query(run: Run, record: dict[str, Any], cards: Cards, clip: dict[str, float], drawing: Drawing) -> dict[str, Any]:
    query = int(record["query"])
    prompt, completion = closed(clean(record["prompt"])), closed(clean(record["completion"]))
    tails, layers = of_query(run, "tails", query), of_query(run, "layers", query)
    return {
        "id": query,
        "prompt": prompt,
        "completion": completion,
        "short": closed(shorten(f"{closed(shorten(prompt, 60))} \u2192 {completion.strip()}", 96)),
        "log_p": record["log_p"],
        "n_tokens": record["n_tokens"],
        "label": clean(record.get("label")),
        "sides": sides(cards, query, trust.first(record.get("fact"), record.get("label"))),
        "clip": clip.get(str(query)),
        "figures": dict(_figures(run, query, drawing)),
        "tails": [] if tails is None else [_tail(fit) for fit in tails.to_dict("records")],
        "layers": [] if layers is None else _layer_lines(layers),
    }


def _figures(run: Run, query: int, drawing: Drawing) -> Iterator[tuple[str, str]]:
    says = {
        "layers": "Bars per layer: raising rows above zero, lowering rows below, and their signed sum.",
        "layers-absolute": "Bars per layer: absolute influence summed over rows.",
        "tail": "Log-log plot: share of raising rows at or above each score, with the fitted power laws.",
    }
    for name, build in query_figures(run, query):
        kind = name.rsplit("-", 1)[0]
        yield kind.replace("-", "_"), drawing(name, build, says[kind])


def _layer_lines(layers: pandas.DataFrame) -> list[dict[str, Any]]:
    total = float(layers["absolute"].sum()) or 1.0
    return [line | {"share": line["absolute"] / total} for line in layers.sort_values("layer").to_dict("records")]


def _tail(fit: dict[str, Any]) -> dict[str, Any]:
    fitted = not is_missing(fit["alpha_density"])
    names = ("xmin", "n_tail", "low", "high", "rows_for_half", "effective_count", "n_positive")
    rule, verdict = clean(fit["rule"]), clean(fit["verdict"]).removeprefix("not fitted: ").rstrip(".")
    if rule == "ks":
        rule = "start chosen by Kolmogorov-Smirnov"
    elif rule.startswith("top") and rule[3:].isdecimal():
        rule = f"the {rule[3:]} largest"
    return {
        **{name: fit.get(name) for name in names},
        "rule": rule,
        "density": fit["alpha_density"],
        "survival": fit["alpha_survival"],
        "top1": fit["top1_share"],
        "fitted": fitted,
        "verdict": verdict[:1].upper() + verdict[1:] if fitted else verdict or "no reason stored",
    }


def _share(run: Run, drawing: Drawing) -> str:
    tails = run.tables.get("tails")
    if tails is None or tails["query"].nunique() < 2:
        return ""
    return drawing(
        "top-share", partial(top_share, tails), "Bars: share of raising influence held by the top 1 % of rows."
    )


def _retrieval(run: Run, drawing: Drawing) -> dict[str, Any] | None:
    table = run.tables.get("retrieval")
    if table is None or not len(table):
        return None
    label = "Mean reciprocal rank with interval for each method and model size; the table has the same numbers."
    lines = [
        {
            **line,
            "method": clean(line["method"]),
            "size": clean(line["size"]),
            "ours": bool(EKFAC.search(str(line["method"]))),
        }
        for line in table.to_dict("records")
    ]
    asked = sorted({int(line["n_queries"]) for line in lines if not is_missing(line.get("n_queries"))})
    return {"svg": drawing("retrieval", partial(retrieval, table), label), "lines": lines, "n_queries": asked}


def _trust_figures(run: Run, drawing: Drawing) -> dict[str, str]:
    says = "Dots with intervals: the mean correlation of each method; the table has the same numbers."
    certificate = (
        "Per query the residual, its sampling floor and the change of the scores; the table has the same numbers."
    )
    return {
        name: drawing(name, build, certificate if name == "certificate" else says) for name, build in trust_figures(run)
    }


def _blocks(run: Run) -> list[dict[str, Any]]:
    table = run.tables.get("blocks")
    names = ("layer", "d_out", "d_in", "bias", "parameters", "mean_eigenvalue", "damping")
    return (
        []
        if table is None
        else [
            {
                "block": clean(line["block"]),
                "kind": clean(line["kind"]),
                **{name: line.get(name) for name in names},
            }
            for line in table.to_dict("records")
        ]
    )


def _provenance(run: Run) -> dict[str, Any]:
    sections = {name: list(_flat(run.section(name).items())) for name in ("settings", "facts", "versions", "hashes")}
    files = run.section("pieces")
    return {
        "command": trust.command(run),
        "sections": {name: lines for name, lines in sections.items() if lines},
        "timings": trust.timings(run),
        "pieces": [
            {"name": clean(name), "bytes": piece.get("bytes"), "sha256": clean(piece.get("sha256"))}
            for name, piece in list(files.items())[:200]
            if isinstance(piece, dict)
        ],
    }


def _flat(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, value in items:
        if isinstance(value, (dict, list)):
            yield clean(name), shorten(clean(json.dumps(value, ensure_ascii=False)), 400)
        elif not is_missing(value):
            yield clean(name), shorten(clean(value), 400)
