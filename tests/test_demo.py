"""The demo as a whole, on models that are trained for a moment only: they know nothing, so any question counts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import job_case
import numpy as np
import pandas as pd
import pytest

from influence.cli import demo, planted
from influence.cli.app import command

METHODS = {
    "EK-FAC, normalised", "EK-FAC, nats", "gradient cosine", "gradient dot", "BM25", "TF-IDF", "hidden-state cosine",
    "random",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """A world of a few facts, sizes that train in a second, and models that count as knowing all of it."""
    from influence.data import world as rooms
    from influence.model import recall, sizes

    drawn = rooms.world(0, persons=3, countries=1, facts_each=3, prose=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "world", lambda seed: drawn)
        patch.setattr(sizes, "SIZES", {"s": sizes.Size(2, 16, 1e-3), "m": sizes.Size(2, 32, 1e-3)})
        patch.setattr(recall, "recall", lambda lm, questions: np.ones(len(questions), bool))
        yield


def call(out: Path) -> planted.Demo:
    return planted.demo(out, sizes=("s", "m"), queries=5, tokens=600, study=False, progress=False)


@pytest.fixture(scope="module")
def out(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("demo")
    call(found)
    return found


def test_every_method_is_compared_at_every_size_and_nothing_twice(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    for name in ("influence.attribution.fit.fit_ekfac", "influence.attribution.score.score"):
        monkeypatch.setattr(name, fail)
    before = job_case.numbers(out / "m")
    made = call(out)
    assert job_case.numbers(out / "m") == before
    frame = made.result.table("retrieval")
    assert set(frame["method"]) == METHODS and frame["size"].tolist() == ["s"] * 8 + ["m"] * 8
    assert (frame["low"] <= frame["mrr"]).all() and (frame["mrr"] <= frame["high"]).all()
    assert frame["n_queries"].eq(5).all() and frame["parameters"].nunique() == 2
    text = str(made)
    assert "EK-FAC, normalised" in text and "report" in text and "tracked" in text and len(text.splitlines()) < 26
    assert made.result.report is not None and made.result.report.is_file()
    assert (out / "models" / "m").is_dir() and "<table" in made._repr_html_()


def test_what_is_relevant_states_the_fact_that_is_asked_for(out: Path) -> None:
    folder = out / "s" / "tables"
    asked, rows = pd.read_parquet(folder / "queries.parquet"), pd.read_parquet(folder / "rows.parquet")
    lines = pd.read_json(out / "world" / "queries-s.jsonl", lines=True).set_index("row")
    assert asked["query"].tolist() == lines.index.tolist() and asked["label"].str.contains("held-out").all()
    for query in asked["query"]:
        found = rows[rows["row"].isin(lines.loc[query, "relevant"])]
        assert len(found) and found["fact"].eq(lines.loc[query, "fact"]).all()
        assert set(found["form"]) <= {"forward", "paraphrase", "passage"}


def test_the_command_and_the_function_agree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ours, theirs = (inspect.signature(one).parameters for one in (demo.demo, planted.demo))
    assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()}
    assert command(["demo", "--out", str(tmp_path / "d"), "--queries", "0"]) == 2
    assert "at least one query" in capsys.readouterr().err
    assert command(["demo", "--out", str(tmp_path / "d"), "--sizes", "huge"]) == 2
    assert "huge" in capsys.readouterr().err
