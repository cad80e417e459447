"""The section of k-sparse probes: features, their best neurons with contexts, rotated bases, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from influence.report.chart import Build
from influence.report.neurons import axis_name, cost_dots, k_curve, layer_curve, rotation_curve
from influence.report.read import Run
from influence.report.words import clean, closed, count, fixed, is_missing, number, percent, plural

if TYPE_CHECKING:
    import pandas

NEEDED = ("sparse_features", "sparse_curves", "sparse_neurons")
MOST_NEURONS = 10
INF = float("inf")


def has_sparse(run: Run) -> bool:
    return all(name in run.tables for name in NEEDED)


def section(run: Run) -> dict[str, Any] | None:
    """What the template shows; None for a run without k-sparse probes."""
    if not has_sparse(run):
        return None
    lines = run.tables["sparse_features"].to_dict("records")
    return {
        "metric": axis_name(lines[0]["metric"]) if lines else "",
        "first": int(lines[0]["first"]) if lines else 1,
        "lines": [_line(one) for one in lines],
        "blocks": [_block(run, place, one) for place, one in enumerate(lines)],
        "ablation": _ablation(run),
    }


def _line(one: dict[str, Any]) -> dict[str, Any]:
    texts = {name: clean(one[name]) for name in ("feature", "about", "note")}
    numbers = {name: value for name, value in one.items() if not isinstance(value, str)}
    return {"shuffled": None, **numbers, **texts, "k95_said": _k95(one)}


def _block(run: Run, place: int, one: dict[str, Any]) -> dict[str, Any]:
    neurons = _of(run, "sparse_neurons", one)
    return {
        "id": f"feature-{place}",
        "name": clean(one["feature"]),
        "about": clean(one["about"]),
        "size": f"{plural(int(one['items']), 'item')}, {percent(one['share'], 0)} with it, "
        f"in {plural(int(one['groups']), 'group')}",
        "neurons": [] if neurons is None else [_neuron(line) for line in neurons.head(MOST_NEURONS).to_dict("records")],
        "contexts": _contexts(run, one, neurons),
        "rotation": _records(_of(run, "sparse_rotation", one)),
        "layers": _records(_of(run, "sparse_layers", one)),
    }


def _neuron(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "sign": "−" if line.get("sign") == "-" else clean(line.get("sign"))}


def _contexts(run: Run, one: dict[str, Any], neurons: pandas.DataFrame | None) -> list[dict[str, Any]]:
    """The neurons that are shown, each with the tokens that excite it most, and whether those have the feature."""
    found = _of(run, "sparse_contexts", one)
    if found is None:
        return []
    negative = set() if neurons is None else {
        (line["layer"], line["neuron"]) for line in neurons.to_dict("records") if line.get("sign") == "-"
    }  # fmt: skip
    shown = []
    for (layer, neuron), part in found.groupby(["layer", "neuron"], sort=False):
        lines = [
            {"value": line["value"], "label": int(line["label"]),
             **{name: closed(clean(line[name])).replace("\n", "\u21b5") for name in ("before", "token", "after")}}
            for line in part.to_dict("records")
        ]  # fmt: skip
        low = (layer, neuron) in negative
        shown.append({"layer": int(layer), "neuron": int(neuron), "low": low, "lines": lines})
    return shown


def _ablation(run: Run) -> list[dict[str, Any]]:
    table = run.tables.get("sparse_ablation")
    if table is None:
        return []
    return [
        {**line, "feature": clean(line["feature"]), "values": clean(line["values"]), "texts": clean(line["texts"]),
         "neurons": ", ".join(clean(one) for one in line["neurons"])}
        for line in table.to_dict("records")
    ]  # fmt: skip


def _records(table: pandas.DataFrame | None) -> list[dict[str, Any]]:
    return [] if table is None else [{**line, "note": clean(line.get("note"))} for line in table.to_dict("records")]


def _of(run: Run, name: str, one: dict[str, Any]) -> pandas.DataFrame | None:
    table = run.tables.get(name)
    if table is None or not len(table):
        return None
    rows = table[table["feature"] == one["feature"]]
    return rows if len(rows) else None


def _k95(one: dict[str, Any]) -> str:
    if is_missing(one["k95"]):
        return "undefined"
    low, middle, high = (_count(one[name]) for name in ("k95_low", "k95", "k95_high"))
    return f"{middle} ({low} to {high})"


def _count(k: float) -> str:
    return "more than tried" if k == INF else f"{k:.3g}"


def sparse_figures(run: Run) -> Iterator[tuple[str, Build, str]]:
    """(name, what builds the chart, what it says in words)."""
    if not has_sparse(run):
        return
    for place, one in enumerate(run.tables["sparse_features"].to_dict("records")):
        curves, metric = _of(run, "sparse_curves", one), one["metric"]
        if curves is not None and curves["k"].notna().any():
            yield f"k-{place}", partial(k_curve, curves, metric), _curve_words(curves, one)
        layers, turned = _of(run, "sparse_layers", one), _of(run, "sparse_rotation", one)
        if layers is not None and len(layers) > 1:
            said = "; ".join(
                f"depth {fixed(line['depth'])}: {fixed(line['first_value'])} and {fixed(line['dense'])}"
                for line in layers.head(12).to_dict("records")
            )
            yield f"k-layers-{place}", partial(layer_curve, layers, metric), f"{_one(one)} and all neurons. {said}."
        if turned is not None:
            yield f"k-rotated-{place}", partial(rotation_curve, turned, metric), _turned_words(turned, one)
    costs = run.tables.get("sparse_ablation")
    if costs is not None and (costs["values"] == "zero").any():
        part = costs[costs["values"] == "zero"]
        yield "k-cost", partial(cost_dots, part), _cost_words(part)


def _one(one: dict[str, Any]) -> str:
    return f"{axis_name(one['metric'])} for {clean(one['feature'])}: k = {int(one['first'])}"


def _curve_words(curves: pandas.DataFrame, one: dict[str, Any]) -> str:
    best = curves[curves["series"] == "best"].sort_values("k")
    said = ", ".join(f"{fixed(line['value'])} with {count(line['k'])}" for line in best.to_dict("records"))
    what = f"{axis_name(one['metric'])} for {clean(one['feature'])}"
    return f"{what} by neurons: {said}; {fixed(one['dense'])} with all."


def _turned_words(turned: pandas.DataFrame, one: dict[str, Any]) -> str:
    said = ", ".join(
        f"{fixed(line['neurons'])} against {fixed(line['rotated'])} at k = {count(line['k'])}"
        for line in turned.to_dict("records")
    )
    return f"Neurons against directions of random bases for {clean(one['feature'])}: {said}."


def _cost_words(part: pandas.DataFrame) -> str:
    said = "; ".join(
        f"{clean(line['feature'])}, texts {'with' if line['texts'] == 'concept' else 'without'} it "
        f"{number(line['nats'], 2, True)} nats, random {number(line['random'], 2, True)}"
        for line in part.head(30).to_dict("records")
    )
    return f"Rise of the loss when the neurons are set to zero: {said}."


def asked(run: Run, model: str) -> str:
    """The question of a run of k-sparse probes alone."""
    names = run.tables["sparse_features"]["feature"].tolist()
    which = clean(names[0]) if len(names) == 1 else f"each of {count(len(names))} features"
    return f"How few neurons of {model} tell {which}?"


def trust(run: Run) -> list[dict[str, str]]:
    """How far the neurons can be trusted, as the page's list has it."""
    if not has_sparse(run):
        return []
    text = "chosen on training items, ranked on validation, shown on test items; documents stay together."
    items = [{"head": "Neurons", "text": text, "level": "good"}]
    table = run.tables["sparse_features"]
    if "shuffled" in table and table["shuffled"].notna().any():
        text = f"with shuffled labels one neuron gets at most {fixed(table['shuffled'].max())}."
        items.append({"head": "Shuffled labels", "text": text, "level": "good"})
    else:
        items.append({"head": "Shuffled labels", "text": "not run.", "level": "note"})
    turned = run.tables.get("sparse_rotation")
    if turned is None or not len(turned):
        return [*items, {"head": "Rotated bases", "text": "not run.", "level": "note"}]
    first = turned[turned["k"] == turned["k"].min()]
    above = int((first["low"] > 0).sum())
    text = f"one neuron beats one direction of a random basis for {above} of {len(first)} features."
    return [*items, {"head": "Rotated bases", "text": text, "level": "good" if above else "note"}]
