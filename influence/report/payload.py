"""What the page's script needs, as small as it can be: tokens once per row, scores as signed bytes."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from influence.report.read import Run, read_totals
from influence.report.words import clean

if TYPE_CHECKING:
    import numpy
    import pandas

CLIP = 0.98  # full colour from this quantile of a query's token scores on


@dataclass(frozen=True)
class Limits:
    """How much of a run goes into one page; what is left out stays in the run's tables."""

    queries: int = 60
    rows: int = 20  # per query, ranking and side
    heat: int = 12  # rows with a heat map, per query, ranking and side
    tokens: int = 1024  # tokens per heat map
    text: int = 12_000  # characters per row
    by_layer: bool = True


# tried in this order until the page is small enough
STEPS = (
    Limits(),
    Limits(by_layer=False),
    Limits(rows=10, heat=5, tokens=512, text=4000, by_layer=False),
    Limits(queries=30, rows=6, heat=3, tokens=256, text=1500, by_layer=False),
    Limits(queries=10, rows=5, heat=1, tokens=128, text=400, by_layer=False),
)


def script_json(value: Any) -> str:
    """JSON that may stand inside a <script> element: no `<`, `>`, `&`, U+2028 or U+2029 is left in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def quantise(values: numpy.ndarray) -> tuple[str, float]:
    """(base64 of int8, step): value ≈ byte · step, with an error of at most step / 2."""
    import numpy

    values = numpy.nan_to_num(numpy.asarray(values, dtype=numpy.float64))
    largest = float(numpy.abs(values).max()) if values.size else 0.0
    step = largest / 127 or 1.0
    return base64.b64encode(numpy.rint(values / step).astype(numpy.int8).tobytes()).decode("ascii"), step


def heat(run: Run, shown: dict[int, list[int]], limits: Limits) -> dict[str, Any]:
    """Heat maps of the `shown` rows: {"tokens": {row: […]}, "maps": {"query:row": …}, "clip": {query: nats}}.

    A map is {"v": bytes, "s": step} and, with `by_layer`, {"l": bytes (position layer), "ls": step,
    "n": layers}. "cut" counts the rows that had more than `limits.tokens` tokens.
    """
    table = run.tables.get("tokens")
    found: dict[str, Any] = {"tokens": {}, "maps": {}, "clip": {}, "cut": 0}
    if table is None:
        return found
    groups = dict(list(table.groupby(["query", "row"], sort=False)))
    for query, rows in shown.items():
        frames = {row: groups[query, row].sort_values("position") for row in rows if (query, row) in groups}
        if not frames:
            continue
        for row, frame in frames.items():
            found["cut"] += len(frame) > limits.tokens
            frame = frame.head(limits.tokens)
            found["tokens"].setdefault(str(row), [clean(token) for token in frame["token"]])
            found["maps"][f"{query}:{row}"] = _map(frame, limits)
        found["clip"][str(query)] = _clip(frames)
    return found


def _map(frame: pandas.DataFrame, limits: Limits) -> dict[str, Any]:
    import numpy

    values, step = quantise(frame["score"].to_numpy())
    entry: dict[str, Any] = {"v": values, "s": step}
    if limits.by_layer and "by_layer" in frame and frame["by_layer"].notna().all():
        layers = numpy.stack([numpy.asarray(one, dtype=numpy.float64) for one in frame["by_layer"]])
        if layers.ndim == 2 and layers.shape[1] > 1:
            data, layer_step = quantise(layers)
            entry |= {"l": data, "ls": layer_step, "n": int(layers.shape[1])}
    return entry


def _clip(frames: dict[int, pandas.DataFrame]) -> float:
    import numpy

    values = numpy.abs(numpy.concatenate([frame["score"].to_numpy(float) for frame in frames.values()]))
    values = values[numpy.isfinite(values) & (values > 0)]
    return float(numpy.quantile(values, CLIP)) if values.size else 0.0


def comparison(run: Run, shown: dict[int, list[int]]) -> dict[str, Any] | None:
    """For comparing queries: every shown row's score on every shown query, and Spearman's ρ over all rows.

    {"queries": [ids], "rows": [ids], "scores": [[nats to 3 digits]], "rho": [[to 2 digits]], "n": rows};
    None where the run holds no scores for them or they are too many for a page.
    """
    import numpy
    import pandas

    stored = read_totals(run)
    if stored is None or len(shown) < 2:
        return None
    queries, rows, total = stored
    place = {int(query): index for index, query in enumerate(queries)}
    column = {int(row): index for index, row in enumerate(rows)}
    asked = [query for query in shown if query in place]
    wanted = sorted({row for query in asked for row in shown[query] if row in column})
    if len(asked) < 2 or len(asked) * len(wanted) > 150_000:
        return None
    total = total[[place[query] for query in asked]].astype(numpy.float64)
    ranks = pandas.DataFrame(total).rank(axis=1).to_numpy()
    rho = numpy.atleast_2d(numpy.corrcoef(ranks)) if len(rows) > 2 else numpy.eye(len(asked))
    picked = total[:, [column[row] for row in wanted]]
    return {
        "queries": [str(query) for query in asked],
        "rows": [str(row) for row in wanted],  # as text: a script would round large numbers
        "scores": [[float(f"{value:.3g}") for value in line] for line in numpy.nan_to_num(picked)],
        "rho": [[round(float(value), 2) for value in line] for line in numpy.nan_to_num(rho)],
        "n": len(rows),
    }
