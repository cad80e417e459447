"""What is measured of an edited model: a number per question, and how they become one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Measure: TypeAlias = Callable[[Tensor, Mapping[str, Any]], float]
BETTER = ("higher", "lower")


@dataclass(frozen=True)
class Metric:
    """A metric: `measure(logits (m v), row)` of a question's m scored tokens, averaged over questions.

    `row` is the question's row of the task with `targets` (m), the ids of its scored tokens. With `by_token` questions
    count by their scored tokens; `finish` turns the average into what is shown. `better`: "higher" or "lower".
    """

    name: str
    measure: Measure
    better: str = "higher"
    by_token: bool = False
    finish: Callable[[np.ndarray], np.ndarray] | None = None

    def finished(self, mean: np.ndarray) -> np.ndarray:
        return mean if self.finish is None else self.finish(mean)


def _exact(logits: Tensor, row: Mapping[str, Any]) -> float:
    return float(bool((logits.argmax(-1) == row["targets"]).all()))


def _log_p(logits: Tensor, row: Mapping[str, Any]) -> float:
    return float(logits.log_softmax(-1).gather(-1, row["targets"][:, None]).sum())


def _nats(logits: Tensor, row: Mapping[str, Any]) -> float:
    return -_log_p(logits, row) / len(row["targets"])


EXACT = Metric("exact match", _exact)
LOG_P = Metric("log p", _log_p)
PERPLEXITY = Metric("perplexity", _nats, better="lower", by_token=True, finish=np.exp)
KNOWN = {one.name: one for one in (EXACT, LOG_P, PERPLEXITY)}


def metric_of(given: Any, better: str = "higher") -> Metric:
    """A metric by its name ("exact match", "log p", "perplexity"), a `Metric`, or a function (logits, row) -> number.

    Raises ValueError for anything else.
    """
    if isinstance(given, Metric):
        return given
    if better not in BETTER:
        raise ValueError(f"better={better!r}; give 'higher' or 'lower'")
    if isinstance(given, str) and given in KNOWN:
        return KNOWN[given]
    if callable(given):
        return Metric(getattr(given, "__name__", type(given).__name__).strip("<>"), given, better)
    raise ValueError(
        f"metric={given!r}; give {', '.join(KNOWN)}, or a function (logits (m v), row) -> number, where row has the "
        "task's columns and the ids of the scored tokens as targets"
    )


def measured(metric: Metric, logits: Tensor, row: Mapping[str, Any]) -> float:
    """One number. Raises ValueError, with the metric's name, for what is no finite number."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    try:
        value = float(metric.measure(wide, row))
    except TypeError as error:
        raise ValueError(f"the metric {metric.name!r} must take (logits, row) and return a number: {error}") from error
    if not np.isfinite(value):
        raise ValueError(f"the metric {metric.name!r} gave {value} for the row {row.get('row')}; it must be finite")
    return value
