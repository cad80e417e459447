"""What the page says about the run in words: what was asked, how far to trust it, how to do it again."""

from __future__ import annotations

import shlex
from typing import Any

from influence.report import checks, interventions, llc, probing, sparse
from influence.report.figures import EKFAC
from influence.report.read import Run
from influence.report.words import clean, count, is_missing, number, percent, plural, seconds, shorten


def first(*values: Any) -> Any:
    """The first value that is not missing or empty, or None."""
    return next((value for value in values if not is_missing(value) and value != ""), None)


def model_name(run: Run) -> str:
    """The model as the settings name it; of a path only its last two parts."""
    return _short(first(run.section("facts").get("model"), run.section("settings").get("model"))) or "the model"


def data_name(run: Run) -> str:
    """Where the rows came from, shortened in the same way; empty where they came from a live object."""
    found, settings = run.section("facts"), run.section("settings")
    name = first(*(part.get(key) for part in (found, settings) for key in ("corpus", "data")))
    return "" if str(name).startswith("<") else _short(name)


def _short(name: Any) -> str:
    """'runs/demo/model' becomes 'demo/model'; '<GPT2LMHeadModel>', a live object's type, loses its brackets."""
    text = clean(name)
    if text.startswith("<") and text.endswith(">") and text[1:-1].isidentifier():
        return text[1:-1]
    return "/".join(text.rstrip("/").split("/")[-2:])


def row_count(run: Run) -> int | None:
    table = run.tables.get("rows")
    found = first(run.section("facts").get("n_rows"), None if table is None else len(table))
    return None if found is None else int(found)


def asked(run: Run) -> str:
    """One sentence: the question that the run answers."""
    if "queries" not in run.tables:
        found = (
            (probing.has_probes, probing.asked),
            (interventions.has_edits, interventions.asked),
            (llc.has_coefficients, llc.asked),
            (sparse.has_sparse, sparse.asked),
        )
        question = next((asks for has, asks in found if has(run)), sparse.asked)
        return question(run, shorten(model_name(run), 80))
    rows, source = row_count(run), shorten(data_name(run), 80)
    which = "Which training rows" if rows is None else f"Which of {plural(rows, 'training row')}"
    amount = len(run.tables["queries"])
    made = "this completion" if amount == 1 else f"these {count(amount)} completions"
    return f"{which}{f' from {source}' if source else ''} made {shorten(model_name(run), 80)} say {made}?"


def facts(run: Run) -> list[tuple[str, str]]:
    """The short line under the title: name and value."""
    found, tracked = run.section("facts"), run.section("tracked")
    parameters = first(found.get("parameters"), found.get("n_parameters"))
    lines = [
        (
            "Model",
            shorten(model_name(run), 60) + (f" · {count(parameters)} parameters" if parameters else ""),
        ),
        ("Layers", count(found["n_layers"]) if _only_probes(run) and "n_layers" in found else ""),
        ("Concepts", count(len(run.tables["probe_concepts"])) if probing.has_probes(run) else ""),
        ("Tasks", count(len(run.tables["intervene_tasks"])) if interventions.has_edits(run) else ""),
        ("Features", count(len(run.tables["sparse_features"])) if sparse.has_sparse(run) else ""),
        ("Parts", count(run.tables["llc"]["part"].nunique()) if llc.has_coefficients(run) else ""),
        ("Training rows", count(row_count(run)) if row_count(run) is not None else ""),
        ("Tokens", count(found["n_tokens"]) if "n_tokens" in found else ""),
        ("Queries", "" if _only_probes(run) else count(len(run.tables["queries"]))),
        ("Share tracked", f"{percent(tracked['of_all'])} of all parameters" if "of_all" in tracked else ""),
        ("Time", seconds(total) if (total := sum(stage["seconds"] for stage in timings(run))) else ""),
    ]
    return [(name, value) for name, value in lines if value]


def trust(run: Run) -> list[dict[str, str]]:
    """How far the answers can be trusted, as {"head", "text", "level"}; level is "good", "note" or "bad"."""
    probes = [*probing.trust(run), *sparse.trust(run), *interventions.trust(run), *llc.trust(run)]
    if _only_probes(run):
        return probes
    return [checks.badge(run), _damping(run), _factors(run), _tracked(run), _baselines(run), _seeds(run), *probes]


def _only_probes(run: Run) -> bool:
    return "queries" not in run.tables


def _value(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else clean(value)


def _damping(run: Run) -> dict[str, str]:
    damping = first(run.section("facts").get("damping"), run.section("settings").get("damping"))
    if damping is None:
        return {"head": "Damping", "text": "not recorded in this run.", "level": "bad"}
    if isinstance(damping, (int, float)):
        text = f"{damping:g} × each block's mean eigenvalue (absolute values in the table of blocks)."
    else:
        text = f"{clean(damping)} (absolute values per block stand in the table of blocks)."
    return {"head": "Damping", "text": text, "level": "good"}


def _factors(run: Run) -> dict[str, str]:
    found = run.section("facts")
    rows, fitted = (
        row_count(run),
        first(found.get("factor_rows"), found.get("n_factor_rows"), found.get("n_rows")),
    )
    if fitted is None:
        return {
            "head": "Factors",
            "text": "the number of rows they were fitted on is not recorded.",
            "level": "bad",
        }
    which = f"all {plural(int(fitted), 'row')}" if fitted == rows else f"{count(fitted)} of {count(rows)} rows"
    labels = {
        "sampled": ", with labels drawn from the model itself (the true Fisher)",
        "data": ", with the data's own labels (the empirical Fisher)",
    }.get(str(found.get("labels")), "")
    return {"head": "Factors", "text": f"fitted on {which}{labels}.", "level": "good"}


def _tracked(run: Run) -> dict[str, str]:
    found = run.section("tracked")
    if "of_all" not in found:
        return {"head": "Share tracked", "text": "not recorded in this run.", "level": "bad"}
    selected: Any = found.get("of_selected")
    text = f"{percent(found['of_all'])} of all parameters"
    if not is_missing(selected):
        text += f", {percent(selected)} of the linear maps selected. Influence through the rest is not counted"
    names = [clean(name) for name in found.get("untracked") or ()]
    if names:
        text += f" ({shorten(', '.join(names), 120)})"
    low = not is_missing(selected) and float(selected) < 0.9
    return {"head": "Share tracked", "text": text + ".", "level": "bad" if low else "good"}


def _baselines(run: Run) -> dict[str, str]:
    table = run.tables.get("retrieval")
    if table is None or not len(table):
        text = "this run has no rows with known answers, so no baseline was compared."
        return {"head": "Baselines", "text": text, "level": "note"}
    largest = table["size"].iloc[-1] if "parameters" not in table else table.loc[table["parameters"].idxmax(), "size"]
    table = table[table["size"] == largest].sort_values("mrr", ascending=False)
    ours = table[[bool(EKFAC.search(str(method))) for method in table["method"]]]
    others = table.drop(ours.index)
    said = "; ".join(
        f"{clean(row['method'])} {row['mrr']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        for part in (ours, others)
        for row in part.head(1).to_dict("records")
    )
    better = len(ours) > 0 and (not len(others) or ours["mrr"].iloc[0] > others["mrr"].iloc[0])
    text = f"planted rows found at {clean(largest)}, mean reciprocal rank: {said}."
    return {"head": "Baselines", "text": text, "level": "good" if better else "bad"}


def _seeds(run: Run) -> dict[str, str]:
    found = first(run.manifest.get("seed_agreement"), run.section("facts").get("seed_agreement"))
    if found is None:
        return {
            "head": "Seeds",
            "text": "one only; agreement between seeds was not measured.",
            "level": "note",
        }
    return {"head": "Seeds", "text": f"agreement between seeds: {_value(found)}.", "level": "good"}


def timings(run: Run) -> list[dict[str, Any]]:
    """Seconds per stage, summed over every call of the command, in the order in which stages first ended."""
    total: dict[str, float] = {}
    for entry in run.log:
        spent = entry.get("seconds")
        if (
            isinstance(spent, (int, float))
            and not isinstance(spent, bool)
            and spent == spent
            and entry.get("event") != "start"
        ):
            stage = clean(entry.get("stage", "?"))
            total[stage] = total.get(stage, 0.0) + float(spent)
    largest = max(total.values(), default=0.0) or 1.0
    return [{"stage": stage, "seconds": spent, "share": spent / largest} for stage, spent in total.items()]


def command(run: Run) -> str:
    """The command that repeats the run: the stored one, the one for its config.toml, or one from the settings."""
    settings = run.section("settings")
    stored = first(run.manifest.get("command"), run.section("facts").get("command"), settings.get("command"))
    if isinstance(stored, list):
        return shlex.join(clean(part) for part in stored)
    if isinstance(stored, str) and stored.startswith("influence "):
        return clean(stored)
    if stored is None and (run.folder / "config.toml").is_file():
        return "influence run --config config.toml"
    return shlex.join(["influence", clean(stored) if isinstance(stored, str) else "run", *_flags(settings)])


def _flags(settings: dict[str, Any]) -> list[str]:
    words = []
    for name, value in settings.items():
        if name == "command" or is_missing(value) or isinstance(value, dict):
            continue
        flag = clean(name).replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [
                word for one in (value if isinstance(value, list) else [value]) for word in (f"--{flag}", clean(one))
            ]
    return words
