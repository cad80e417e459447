"""What `influence.intervene` returns: curves over depth and depths of need, with intervals; text, HTML, frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

LINES = 20
MOST_LAYERS = 9
PARTS = ("value", "cost", "unedited", "all_edited", "cost_of_all", "depth")


@dataclass(frozen=True, eq=False)
class Interventions:
    """What edits of previous tokens cost a model, by the layer from which they begin.

    `curves`: a line per task, edit, metric and layer: `task, edit, metric, layer, depth, value, cost, unedited`, with
    `_low` and `_high` of value and cost. depth = layer / n_layers: the share of the model below the edit. cost: by how
    much worse than unedited, as a share of the unedited value's size; negative where the edit helps.
    `depths`: a line per task, edit and metric: `unedited`, `all_edited` (from layer 0 on), `cost_of_all`, and `depth`,
    from which on every edit costs at most `info["share"]`; 1 means that even the last layer's edit costs more, NaN
    that editing all layers costs nothing that can be told from 0. All with `_low` and `_high`.
    `info`: mode, parallel (residuals), seeds, level, sizes.
    """

    model: str
    n_layers: int
    curves: pd.DataFrame = field(repr=False)
    depths: pd.DataFrame = field(repr=False)
    info: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    def depth(self, task: str, edit: str, metric: str | None = None) -> tuple[float, float, float]:
        """(depth, low, high) of need; the metric defaults to the task's first. KeyError names what there is."""
        rows = self.depths[(self.depths["task"] == task) & (self.depths["edit"] == edit)]
        rows = rows if metric is None else rows[rows["metric"] == metric]
        if rows.empty:
            there = sorted({f"{one.task} / {one.edit} / {one.metric}" for one in self.depths.itertuples()})
            raise KeyError(
                f"there is no {edit!r} on {task!r} ({metric or 'any metric'}); there are: {'; '.join(there)}"
            )
        one = rows.iloc[0]
        return float(one["depth"]), float(one["depth_low"]), float(one["depth_high"])

    def to_frame(self) -> pd.DataFrame:
        """The curves with the model's name and number of layers, one line per task, edit, metric and layer."""
        return self.curves.assign(model=self.model, n_layers=self.n_layers, mode=self.info["mode"])

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; NaN becomes null."""
        frames = {name: _records(getattr(self, name)) for name in ("curves", "depths")}
        plain = {"model": self.model, "n_layers": self.n_layers, "notes": list(self.notes)}
        return {**plain, "info": _plain(dict(self.info)), **frames}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Interventions:
        """The result that `to_dict` was made of."""
        curves, depths = (pd.DataFrame(found[name]) for name in ("curves", "depths"))
        for frame in (curves, depths):
            for name in {f"{part}{end}" for part in PARTS for end in ("", "_low", "_high")} & set(frame.columns):
                frame[name] = frame[name].astype(float)
        return cls(found["model"], found["n_layers"], curves, depths, found["info"], tuple(found["notes"]))

    def __str__(self) -> str:
        head = ["task", "metric", "edit", "unedited", "all edited", f"within {self.info['share']:.0%} from depth"]
        rows = [
            [
                one["task"],
                one["metric"],
                one["edit"],
                *(told(one, name) for name in ("unedited", "all_edited", "depth")),
            ]
            for one in self.depths.to_dict("records")
        ]
        most = LINES - 4 - len(self.notes)
        more = [f"… {len(rows) - most} more in .depths"] if len(rows) > most else []
        lines = [self._title(), *_aligned([head, *rows[:most]]), *more]
        lines.append("depth k / layers: below layer k the model is as it was; –: undefined")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)][:LINES])

    __repr__ = __str__

    def _title(self) -> str:
        kind = "all tokens but the last at every step" if self.info["mode"] == "paper" else "the prompt's tokens, once"
        return f"edits of {kind} (mode {self.info['mode']!r}) in {self.model}, {self.n_layers} layers"

    def wide(self, metric: str | None = None) -> pd.DataFrame:
        """A line per task, metric and edit, a column per depth: the values (of one metric, or of all)."""
        rows = self.curves if metric is None else self.curves[self.curves["metric"] == metric]
        frame = rows.pivot_table(
            index=["task", "metric", "edit", "unedited"], columns="layer", values="value", sort=False
        )
        return frame.reset_index()

    def _repr_html_(self) -> str:
        parts = [f"<p>{escape(self._title())}</p>"]
        for frame in (self.depths[["task", "metric", "edit", "questions"]].assign(
            **{name.replace("_", " "): [told(one, name) for one in self.depths.to_dict("records")]
               for name in ("unedited", "all_edited", "depth")}), self.wide()):  # fmt: skip
            parts.append(frame.to_html(index=False, border=0, float_format="{:.3f}".format))
        return "".join(parts) + "".join(f"<p>{escape(note)}</p>" for note in self.notes)


def told(line: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """value [low, high] of a line, a dash where it is undefined."""
    value, low, high = (line[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 100:
        digits = 0
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _aligned(rows: list[list[str]]) -> list[str]:
    clean = [["".join(c if c.isprintable() else " " for c in cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in clean]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value if isinstance(value, str | int | bool | None) else str(value)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]


def joined(results: Sequence[Interventions]) -> Interventions:
    """The results of several tasks on one model, made with the same settings, as one.

    Raises ValueError without results, and for results of different models or modes.
    """
    if not results:
        raise ValueError("no results came; give at least one of influence.intervene")
    first = results[0]
    for one in results:
        if (one.model, one.n_layers, one.info["mode"]) != (first.model, first.n_layers, first.info["mode"]):
            raise ValueError(
                f"{one.model} (mode {one.info['mode']!r}) and {first.model} (mode {first.info['mode']!r}) cannot be "
                "joined; join tasks of one model and mode, and take to_frame() of each for several"
            )
    frames = [pd.concat([getattr(one, name) for one in results], ignore_index=True) for name in ("curves", "depths")]
    info = {**first.info}
    for name in ("questions", "about"):
        info[name] = {key: value for one in results for key, value in one.info[name].items()}
    return Interventions(first.model, first.n_layers, frames[0], frames[1], info, notes_of(frames[1], info))


def notes_of(depths: pd.DataFrame, info: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be known to read a table of depths."""
    notes = []
    if info["parallel"] and "skip" in set(depths["edit"]):
        notes.append(
            "attention and MLP read the same stream (parallel residuals): the MLP never saw the attention that skip "
            "leaves out"
        )
    if len(undefined := depths[depths["depth"].isna()]):
        names = [
            f"{task} {metric} ({', '.join(part['edit'])})"
            for (task, metric), part in undefined.groupby(["task", "metric"], sort=False)
        ]
        notes.append(f"no depth where editing all layers costs nothing that can be told from 0: {'; '.join(names)}")
    fewer = depths[depths["questions"] < depths["task"].map(lambda name: info["questions"][name]["all"])]
    if len(fewer):
        told = ", ".join(dict.fromkeys(f"{line.task}: {line.questions}" for line in fewer.itertuples()))
        notes.append(f"swap has fewer questions, those with another of as many tokens ({told})")
    return tuple(notes)
