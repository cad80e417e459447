"""How far the scores can be trusted, in words and numbers: the solver's certificate, and what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from influence.report.read import Run
from influence.report.words import clean, count, is_missing, number, percent, plural, seconds

if TYPE_CHECKING:
    import pandas

STILL, MOVING = 0.05, 0.25  # change of the worst query's scores: settled below the first, not settled above the second
NAMES = {
    "ekfac": "EK-FAC",
    "kfac": "K-FAC",
    "diagonal": "the diagonal of the curvature",
    "identity": "no curvature at all (dot products of gradients)",
    "cg": "conjugate gradients",
    "ekfac-cg": "conjugate gradients preconditioned with EK-FAC",
    "accurate": "conjugate gradients preconditioned with EK-FAC",
    "lissa": "LiSSA (a Neumann series on mini-batches)",
    "ekfac-lissa": "LiSSA preconditioned with EK-FAC",
}
MEASURES = {
    "solve": "Certified solve",
    "pbrf": "PBRF",
    "patch": "Tail-patch",
}
MEANS = {
    "solve": "Pearson correlation over all rows with the damped solve by EK-FAC-preconditioned conjugate gradients.",
    "pbrf": "Pearson correlation over sampled rows with the proximal Bregman response: the query given a little "
    "weight, the model optimised again.",
    "patch": "Spearman correlation with the change of log p after one small gradient step on the row.",
}


def solver_of(run: Run) -> str:
    """The solver that the run was asked with; runs from before there was a choice used EK-FAC."""
    return clean(run.section("settings").get("solver") or "ekfac")


def badge(run: Run) -> dict[str, str]:
    """The line of the trust list: certified or not, and what that means."""
    table = run.tables.get("certificate")
    if table is None or not len(table):
        return _uncertified(run)
    spread = _spread(table)
    worst = spread["change"][1]
    head, level = ("Certified", "good") if not is_missing(worst) and worst <= STILL else ("Certified, moving", "note")
    if not is_missing(worst) and worst > MOVING:
        head, level = "Not settled", "bad"
    said = (
        f"{NAMES.get(solver_of(run), solver_of(run))}: residual {_two(spread['residual'])}, the scores changed by "
        f"{_two(spread['change'], percent)} over the last steps (median and worst query)."
    )
    return {"head": head, "text": said, "level": level}


def _uncertified(run: Run) -> dict[str, str]:
    name = NAMES.get(solver_of(run), solver_of(run))
    said = f"{name[:1].upper()}{name[1:]} takes no product with the curvature, so nothing certifies the solve."
    found = _line(run, "solve", "these scores")
    if found is not None:
        said += f" Checked on {_queries(found['n_queries'])}:"
        said += f" Pearson {number(found['value'], 2)} with a certified solve"
        solved = run.tables.get("truth_certificate")
        moved = solved is not None and len(solved) and _spread(solved)["change"][1] > MOVING
        said += ", which had not settled itself." if moved else "."
        return {"head": "Checked", "text": said, "level": "note"}
    said += " “influence truth RUN” measures how close the scores are; “--solver accurate” certifies every query."
    return {"head": "Not certified", "text": said, "level": "note"}


def certificate(run: Run) -> dict[str, Any] | None:
    """What the section shows of a certified run; None for a run without certificate."""
    table = run.tables.get("certificate")
    if table is None or not len(table):
        return None
    told, spread = run.section("certificate"), _spread(table)
    sampled = bool((table["floor"] > 0).any())
    lines = [
        ("Solver", _solver_said(run, told)),
        ("Damping λ", _lambda(run)),
        ("Products with the curvature", _products(told)),
        ("Time to solve", seconds(spent) if (spent := _seconds(run, "solve")) else "not recorded"),
        ("Residual, median and worst", _two(spread["residual"])),
        ("Its sampling floor", _two(spread["floor"]) if sampled else "0: measured on all rows"),
    ]
    if sampled:
        lines.append(("Residual on all rows, estimated", _two(spread["residual_all_rows"])))
    since = told.get("change_since")
    after = f" since step {count(since)}" if isinstance(since, int) else ""
    lines.append((f"Change of the scores{after}", _two(spread["change"], percent)))
    names = ("query", "residual", "floor", "residual_all_rows", "change", "change_rank")
    return {
        "lines": lines,
        "sampled": sampled,
        "verdict": _verdict(spread["change"][1]),
        "rows": [{name: line[name] for name in names} for line in table.to_dict("records")],
    }


def _verdict(worst: float) -> str:
    if is_missing(worst):
        return "The change of the scores was not followed, so the residual stands alone."
    if worst <= STILL:
        return f"Here the scores of no query moved by more than {percent(STILL, 0)}: they have settled."
    if worst <= MOVING:
        return f"Here the worst query's scores still moved by {percent(worst, 0)}: their order holds, not every digit."
    return (
        f"Here the worst query's scores still moved by {percent(worst, 0)}: ask for more steps (--solver-steps), or a "
        "larger damping."
    )


def truth(run: Run) -> dict[str, Any] | None:
    """What `influence truth` measured; None where it was not run."""
    table = run.tables.get("truth")
    if table is None or not len(table):
        return None
    told = run.section("truth")
    order = [name for name in MEASURES if (table["measure"] == name).any()]
    methods = list(dict.fromkeys(table["method"]))
    cells = {(line["measure"], line["method"]): line for line in table.to_dict("records")}
    left = told.get("left_out")
    return {
        "measures": {name: {"head": MEASURES[name], "means": MEANS[name]} for name in order},
        "lines": [{"method": clean(name), "cells": [cells.get((one, name)) for one in order]} for name in methods],
        "left_out": [(MEASURES.get(clean(name), clean(name)), clean(why)) for name, why in left.items()]
        if isinstance(left, dict)
        else [],
        "notes": _notes(run, told, table),
    }


def _notes(run: Run, told: dict[str, Any], table: pandas.DataFrame) -> list[str]:
    asked = told.get("settings")
    asked = asked if isinstance(asked, dict) else {}
    notes = [f"{_queries(table['n_queries'].max())}, chosen evenly; intervals are 95 %, from resampling the queries."]
    solved, made = run.tables.get("truth_certificate"), asked.get("products")
    if solved is not None and len(solved):
        spread = _spread(solved)
        notes.append(
            f"The certified solve took at most {count(made) if isinstance(made, int) else 'some'} products: "
            f"residual {_two(spread['residual'])}, change of its scores "
            f"{_two(spread['change'], percent)} (median and worst query)."
            + (" It has not settled itself: ask for more products." if spread["change"][1] > MOVING else "")
        )
    if (table["measure"] == "patch").any():
        notes.append(
            "Half of the tail-patch rows are those that these scores put first, the others random. A small step "
            "changes log p by about the gradients' dot product over all parameters, which favours gradient baselines."
        )
    if (table["measure"] == "pbrf").any():
        notes.append("Both PBRF and the certified solve keep the run's damping: they say nothing about retraining.")
    return notes


def _queries(amount: Any) -> str:
    return f"{count(amount)} quer{'y' if int(amount) == 1 else 'ies'}"


def _line(run: Run, measure: str, method: str) -> dict[str, Any] | None:
    table = run.tables.get("truth")
    if table is None:
        return None
    found = table[(table["measure"] == measure) & (table["method"] == method)]
    return found.iloc[0].to_dict() if len(found) and not is_missing(found.iloc[0]["value"]) else None


def _spread(table: pandas.DataFrame) -> dict[str, tuple[float, float]]:
    names = ("residual", "floor", "residual_all_rows", "change")
    return {name: (float(table[name].median()), float(table[name].max())) for name in names}


def _two(pair: tuple[float, float], show: Any = None) -> str:
    said = [number(one, 2) if show is None else show(one) for one in pair]
    return said[0] if said[0] == said[1] else f"{said[0]} and {said[1]}"


def _solver_said(run: Run, told: dict[str, Any]) -> str:
    name, steps = solver_of(run), told.get("steps")
    said = NAMES.get(name, name)
    return f"{said}, {count(steps)} steps" if isinstance(steps, int) else said


def _products(told: dict[str, Any]) -> str:
    made, rows = told.get("products"), told.get("certificate_rows")
    said = count(made) if isinstance(made, int) else "not recorded"
    if isinstance(rows, int):
        said += f"; certified on {plural(rows, 'row')}"
    return said


def _lambda(run: Run) -> str:
    damping, table = run.section("settings").get("damping"), run.tables.get("blocks")
    said = f"{damping:g} × mean eigenvalue" if isinstance(damping, (int, float)) else clean(damping) or "not recorded"
    if table is not None and "damping" in table and table["damping"].notna().any():
        said += f", {number(table['damping'].min(), 2)} to {number(table['damping'].max(), 2)} by block"
    return said


def _seconds(run: Run, stage: str) -> float:
    spent = [entry.get("seconds") for entry in run.log if entry.get("stage") == stage and entry.get("event") == "done"]
    return float(sum(one for one in spent if isinstance(one, (int, float)) and one == one))
