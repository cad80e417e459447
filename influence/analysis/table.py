"""Scores as a data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from influence.types import Scores


def table(scores: Scores) -> pd.DataFrame:
    """One line per score: a column for every dimension and coordinate, and `score` in the scores' own units.

    Any dimensions are accepted. Tokens beyond the end of their row (NaN along `token`) are left out; the
    frame's `attrs` are the scores'.
    """
    frame = scores.rename("score").to_dataframe().reset_index()
    if "token" in scores.dims:
        frame = frame.dropna(subset=["score"]).reset_index(drop=True)
    order = [*map(str, scores.dims), *(str(name) for name in scores.coords if name not in scores.dims), "score"]
    frame = frame[order]
    frame.attrs = dict(scores.attrs)
    return frame
