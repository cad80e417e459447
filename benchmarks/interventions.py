"""What edits of previous tokens cost models of growing size, by depth, beside what probes read of the same facts.

    python benchmarks/interventions.py LADDER [--out FOLDER] [--sizes d32 d64] [--limit 200] [--seeds 3] [--no-probes]
    python benchmarks/interventions.py NAME=FOLDER … --world persons=40 facts_each=6     # any models of one world

LADDER is the folder of a ladder of the embedded world (`influence ladder`); or models by size, seeds as more folders of
the same name. For every model: recall and two-hop questions of the world and the perplexity of held-out text, under
every edit from every layer on (`influence.intervene`, mode "paper"); and `influence.probe` on the answers to the same
questions and on the truth of the same facts, for D50. One file per model is kept in --out, so that a second call goes
on. The table has, per size, task and edit, the depth of need of every seed and over them; the figure a curve per size.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import influence
from influence.data.generated import generated
from influence.data.world import World, world
from influence.interventions import tasks
from influence.interventions.result import Interventions
from influence.probing.result import Probing
from influence.types import LM

EDITS = ("noise", "freeze", "shuffle", "skip", "swap")
PROBED = {"answer": "world-answer", "truth": "world-truth"}
SHOWN = {"recall": "exact match", "two-hop": "log p", "second hop": "exact match", "perplexity": "perplexity"}
KEPT = ("task", "edit", "metric", "depth", "value", "value_low", "value_high", "unedited")
COLOURS = ("#bcd3e8", "#8fb3d4", "#5f90bd", "#3a6ea5", "#244f85", "#12305c")


def models(asked: argparse.Namespace) -> tuple[list[dict[str, str]], World, Any]:
    """(size, seed and folder of each model), their world, and held-out text: a function of the opened model."""
    if "=" not in asked.models[0]:
        ladder = influence.open_ladder(asked.models[0])
        lines = ladder.final.sort_values(["parameters", "seed"]).to_dict("records")
        found = [{"size": one["size"], "seed": str(one["seed"]), "folder": str(one["folder"])} for one in lines]
        return found, ladder.world(), lambda lm: prose(ladder.rows(lm, "held_out"))
    drawn = world(**{key: int(value) for key, value in (one.split("=") for one in asked.world)})
    pairs = [one.split("=", 1) for one in asked.models]
    sizes = [size for size, _ in pairs]
    found = [
        {"size": size, "seed": str(sizes[:place].count(size)), "folder": folder}
        for place, (size, folder) in enumerate(pairs)
    ]
    texts = [one["text"] for one in drawn.documents if one["form"] == "prose"]  # trained on, where nothing was held out
    return found, drawn, lambda lm: texts


def prose(rows: Any) -> Any:
    """The held-out rows that carry no fact."""
    forms = rows["form"] if "form" in rows.column_names else [""] * len(rows)
    return rows.select([place for place, form in enumerate(forms) if form in ("", "prose")])


def measured(lm: LM, drawn: World, text: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """Edits on the three tasks, and probes of the same facts."""
    own = [
        tasks.recall(drawn, lm, limit=asked.limit),
        tasks.two_hop(drawn, lm, limit=asked.limit),
        tasks.second_hop(drawn, lm, limit=asked.limit),
        tasks.perplexity(text, lm, limit=max(asked.limit // 4, 10)),
    ]
    settings = {"seeds": asked.seeds, "bootstrap": asked.bootstrap, "batch_size": 128, "progress": False}
    found: dict[str, Any] = {"edits": influence.intervene(lm, own, edits=asked.edits, **settings).to_dict()}
    for name, source in PROBED.items() if asked.probes else ():
        statements = generated(source, world=drawn)
        probed = influence.probe(
            lm, statements, name=name, controls=("tfidf", "untrained"), bootstrap=asked.bootstrap, progress=False
        )
        found[name] = probed.to_dict()
    return found


def table(found: dict[tuple[str, str], dict[str, Any]]) -> pd.DataFrame:
    """A line per size, task and edit: unedited, all edited, depth of need per seed and over seeds, D50 beside it."""
    lines = []
    for size in dict.fromkeys(size for size, _ in found):
        seeds = {seed: one for (name, seed), one in found.items() if name == size}
        results = {seed: Interventions.from_dict(one["edits"]) for seed, one in seeds.items()}
        d50 = {name: spread([depth_of(one, name) for one in seeds.values()]) for name in PROBED}
        first = next(iter(results.values()))
        for task, edit, metric in first.depths[["task", "edit", "metric"]].itertuples(index=False):
            rows = [row_of(one.depths, task, edit, metric) for one in results.values()]
            line = {"size": size, "layers": first.n_layers, "task": task, "metric": metric, "edit": edit}
            for name in ("unedited", "all_edited", "depth"):
                line[name] = spread([row[name] for row in rows])
            line["intervals"] = "; ".join(interval(row) for row in rows)
            lines.append(line | {f"D50 {name}": told for name, told in d50.items()})
    return pd.DataFrame(lines)


def row_of(depths: pd.DataFrame, task: str, edit: str, metric: str) -> dict[str, Any]:
    part = depths[(depths["task"] == task) & (depths["edit"] == edit) & (depths["metric"] == metric)]
    found: dict[str, Any] = part.iloc[0].to_dict()
    return found


def depth_of(one: dict[str, Any], name: str) -> float:
    return Probing.from_dict(one[name]).depth("D50")[0] if name in one else float("nan")


def interval(row: dict[str, Any]) -> str:
    return "–" if np.isnan(row["depth"]) else f"{row['depth']:.2f} [{row['depth_low']:.2f}, {row['depth_high']:.2f}]"


def spread(values: list[float]) -> str:
    """Mean and range over seeds, and how many were defined where not all were."""
    there = [value for value in values if value is not None and np.isfinite(value)]
    if not there:
        return "–"
    told = f"{np.mean(there):.2f}" + (f" ({min(there):.2f} – {max(there):.2f})" if len(there) > 1 else "")
    return told if len(there) == len(values) else f"{told}, {len(there)} of {len(values)}"


def figure(found: dict[tuple[str, str], dict[str, Any]], path: Path) -> None:
    """Edits in columns, tasks in rows, a curve per size: mean over seeds, band from the least to the largest bound."""
    import altair as alt

    frames = []
    for (size, seed), one in found.items():
        result = Interventions.from_dict(one["edits"])
        ends = result.depths.assign(depth=1.0, value=result.depths["unedited"])  # where nothing is edited
        ends["value_low"], ends["value_high"] = ends["unedited_low"], ends["unedited_high"]
        curves = pd.concat([result.curves, ends[[*KEPT]]], ignore_index=True)
        frames.append(curves[curves["metric"] == curves["task"].map(SHOWN)].assign(size=size, seed=seed))
    keys = ["task", "edit", "size", "depth"]
    frame = pd.concat(frames, ignore_index=True).groupby(keys, sort=False).agg(
        value=("value", "mean"), low=("value_low", "min"), high=("value_high", "max"), unedited=("unedited", "mean")
    ).reset_index()  # fmt: skip
    sizes = list(dict.fromkeys(size for size, _ in found))
    scale = alt.Scale(domain=sizes, range=list(COLOURS[-len(sizes) :]))
    rows = []
    for task, name in SHOWN.items():
        panels = []
        for edit in dict.fromkeys(frame["edit"]):
            part = frame[(frame["task"] == task) & (frame["edit"] == edit)]
            base = alt.Chart(part).encode(
                x=alt.X("depth:Q", title="depth below the edit", scale=alt.Scale(domain=[0, 1])),
                color=alt.Color("size:N", scale=scale, legend=alt.Legend(title=None, symbolOpacity=1)),
            )
            span = alt.Scale(type="log", nice=False) if name == "perplexity" else alt.Scale(zero=False)
            y = alt.Y("value:Q", title=f"{task}: {name}", scale=span)
            low = alt.Y("low:Q", title=f"{task}: {name}", scale=span)
            band = base.mark_area(opacity=0.12).encode(y=low, y2="high:Q")
            line = base.mark_line(point={"size": 16}).encode(y=y)
            level = base.mark_rule(strokeDash=[2, 2], opacity=0.5).encode(
                y="unedited:Q", x=alt.value(0), x2=alt.value(170)
            )
            panels.append(alt.layer(band, level, line).properties(width=170, height=120, title=edit))
        rows.append(alt.hconcat(*panels).resolve_scale(y="shared"))
    whole = alt.vconcat(*rows).configure_view(stroke=None).configure_axis(grid=False).properties(background="white")
    whole.save(str(path), **({"ppi": 96} if path.suffix == ".png" else {}))


def markdown(frame: pd.DataFrame) -> str:
    names = list(frame.columns)
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in frame.itertuples(index=False))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--world", nargs="*", default=[])
    parser.add_argument("--sizes", nargs="*", help="only these")
    parser.add_argument("--only-seeds", nargs="*", help="only these seeds of the ladder")
    parser.add_argument("--edits", nargs="+", default=list(EDITS))
    parser.add_argument("--limit", type=int, default=200, help="questions per task")
    parser.add_argument("--seeds", type=int, default=3, help="draws of noise, shuffle and swap")
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--no-probes", dest="probes", action="store_false")
    parser.add_argument("--out", type=Path, default=Path("runs/interventions"))
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    lines, drawn, text_of = models(asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in lines:
        if asked.sizes and one["size"] not in asked.sizes or asked.only_seeds and one["seed"] not in asked.only_seeds:
            continue
        path = asked.out / f"{one['size']}-s{one['seed']}.json"
        if not path.exists():
            lm = influence.load(one["folder"], device="cpu")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of rows that are cut
                told = json.dumps(measured(lm, drawn, text_of(lm), asked), allow_nan=False)
            path.write_text(told, encoding="utf-8")
        found[one["size"], one["seed"]] = json.loads(path.read_text(encoding="utf-8"))
        print(f"{one['size']} seed {one['seed']}: {path}", flush=True)
    frame = table(found)
    print(markdown(frame[frame["metric"] == frame["task"].map(SHOWN)].drop(columns="metric")))
    frame.to_csv(asked.out / "table.csv", index=False)
    if asked.figure:
        figure(found, asked.figure)


if __name__ == "__main__":
    main()
