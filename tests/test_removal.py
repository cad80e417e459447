"""Removal and retraining on models trained for a moment; the arithmetic of what is removed and what is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influence.truth import removal as module
from influence.truth.removal import METHODS, drops, removal


def test_first_places_of_all_queries_come_first_and_each_once() -> None:
    values = np.array([[5.0, 1, 4, 0, 0], [0, 9, 8, 0, 7]])
    assert module._best(values, 5).tolist() == [0, 1, 2, 4, 3]
    assert module._best(values, 3).tolist() == [0, 1, 2]


def test_drops_are_differences_to_random_rows_with_an_interval_over_seeds() -> None:
    lines = [
        {"seed": seed, "method": method, "canonical": value}
        for seed, values in enumerate([(1.0, 0.2, 0.8, 0.9), (1.0, 0.4, 0.7, 0.8)])
        for method, value in zip(("none removed", *METHODS), values, strict=True)
    ]
    found = drops(pd.DataFrame(lines)).set_index("method")
    assert found.loc["EK-FAC, normalised", "drop"] == pytest.approx(0.55)
    assert found.loc["BM25", "drop"] == pytest.approx(0.1)
    assert found.loc["BM25", "low"] == pytest.approx(0.1, abs=1e-9)  # both seeds lose the same
    assert found.loc["EK-FAC, normalised", "low"] < 0.55 < found.loc["EK-FAC, normalised", "high"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    from influence.data import world as rooms
    from influence.model import recall, sizes

    drawn = rooms.world(0, persons=3, countries=1, facts_each=3, prose=4)
    monkeypatch.setattr(rooms, "world", lambda seed: drawn)
    monkeypatch.setattr(sizes, "SIZES", {"s": sizes.SIZES["d32"]._replace(layers=1, width=16)})
    monkeypatch.setattr(recall, "recall", lambda lm, questions: np.ones(len(questions), bool))


def test_each_method_removes_as_many_rows_and_finished_trainings_stay(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"size": "s", "seeds": (3,), "k": 2, "queries": 3, "progress": False}
    settings["options"] = {"tokens": 600}
    table = removal(tmp_path, **settings)
    assert table["method"].tolist() == ["none removed", *METHODS]
    assert table["removed"].iloc[0] == 0 and table["removed"].iloc[1:].nunique() == 1
    assert 2 <= table["removed"].iloc[1] <= 6
    assert (table[["canonical", "held_out", "others"]] == 1).all(axis=None)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("influence.attribution.fit.fit_ekfac", fail)
    pd.testing.assert_frame_equal(removal(tmp_path, **settings), table)


@pytest.mark.parametrize("change", [{"k": 0}, {"seeds": ()}, {"queries": 0}, {"size": "huge"}])
def test_bad_settings(small: None, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        removal(tmp_path, **{"size": "s", "progress": False, **change})
