"""Retraining without rows: the ladder's own bytes where none is left out, arms of equal size, resumption, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import influence
from influence.data.files import BadData
from influence.model.sizes import Size
from influence.store import OtherSettings
from influence.study.hypotheses.margin import shifts
from influence.study.measure import removal
from influence.study.measure.removal import arms, matched, removal_table
from influence.study.opening import Ladder, open_ladder

TEXTS = [f"{name} has {number} cows." for name in ("Ada", "Ben", "Carl") for number in range(14)]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    root = tmp_path_factory.mktemp("removal") / "ladder"
    influence.ladder(
        root, data=TEXTS, sizes={"a": Size(1, 8, 1e-2, heads=2), "b": Size(2, 8, 1e-2, heads=2)}, seeds=1, tokens=400,
        batch_tokens=32, checkpoints=1, vocab=280, length=8, processes=1, progress=False,
    )  # fmt: skip
    return open_ladder(root)


def rows_of(ladder: Ladder) -> int:
    return len(ladder.rows(ladder.load("a-s0")))


def concepts_of(n: int) -> list[Any]:
    at = np.arange(n)
    return [
        SimpleNamespace(name=f"concept {k}", bearing=at % 3 == k, stratum=np.where(at % 6 < 5, at % 2, -1))
        for k in (0, 1)
    ]


class Asked:
    """A ranking and a measurement that count how often they are asked."""

    def __init__(self, concepts: list[Any]) -> None:
        self.concepts, self.ranked, self.measured = concepts, [], 0

    def ranking(self, name: str, lm: Any) -> dict[str, np.ndarray]:
        self.ranked.append((name, lm.n_layers))
        return {one.name: np.flatnonzero(one.bearing)[::-1] for one in self.concepts}

    def measure(self, lm: Any) -> pd.DataFrame:
        self.measured += 1
        size = float(sum(p.detach().double().abs().sum() for p in lm.net.parameters()))
        names = [one.name for one in self.concepts]
        return pd.DataFrame({"concept": [*names, "another"], "d50": [size, np.nan, 1.0], "recall": 0.5, "more": 1})


def table(ladder: Ladder, asked: Asked, out: Path, **changed: Any) -> pd.DataFrame:
    settings = {"sizes": ["a", "b"], "seeds": [0], "k": 4, "out": out, "at_once": 1, "progress": False} | changed
    return removal_table(ladder, asked.concepts, asked.ranking, asked.measure, **settings)


def weights(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("at_once", [1, 2])
def test_nothing_left_out_gives_the_bytes_of_the_ladder(ladder: Ladder, tmp_path: Path, at_once: int) -> None:
    plan = removal._plan(ladder, concepts_of(rows_of(ladder)), ["b"], [0], 1, tmp_path, 0, "cpu", at_once, False)
    removal._train(plan, [("b-s0-top", np.zeros(0, np.int64)), ("b-s0-random", np.array([3]))])
    assert weights(tmp_path / "models" / "b-s0-top") == weights(ladder.folder / "models" / "b-s0")
    assert weights(tmp_path / "models" / "b-s0-random") != weights(ladder.folder / "models" / "b-s0")


def test_the_table_and_going_on(ladder: Ladder, tmp_path: Path) -> None:
    asked = Asked(concepts_of(rows_of(ladder)))
    found = table(ladder, asked, tmp_path)
    assert asked.ranked == [("a-s0", 1), ("b-s0", 2)] and asked.measured == 6
    keys = ["size", "seed", "concept", "arm"]
    assert len(found) == 8 and not found.duplicated(keys).any() and (found["k"] == 4).all()
    assert (found["removed"] == 8).all(), "both arms lose as many rows"
    known = found[found["concept"] == "concept 0"].set_index(["size", "arm"])
    for size in ("a", "b"):
        at_first, top, random = (known.at[(size, arm), when] for arm, when in
                                 (("top", "d50_before"), ("top", "d50_after"), ("random", "d50_after")))  # fmt: skip
        lm = ladder.load(f"{size}-s0")
        assert at_first == asked.measure(lm)["d50"][0] == known.at[(size, "random"), "d50_before"]
        assert len({at_first, top, random}) == 3
    assert found.loc[found["concept"] == "concept 1", "d50_after"].isna().all()
    assert len(shifts(found)) == 2, "the table is what the test of quantity 5 reads"

    again = Asked(asked.concepts)
    shutil.rmtree(tmp_path / "models" / "a-s0-top")
    shutil.rmtree(tmp_path / "measured" / "a-s0-top")
    pd.testing.assert_frame_equal(table(ladder, again, tmp_path), found)
    assert again.ranked == [] and again.measured == 1
    more = table(ladder, again, tmp_path, seeds=[0, 4], sizes=["a"])
    assert again.ranked == [("a-s4", 1)] and again.measured == 4
    assert (tmp_path / "models" / "a-s4" / "final").is_dir() and not (ladder.folder / "models" / "a-s4").exists()
    pd.testing.assert_frame_equal(more[more["seed"] == 0], found[found["size"] == "a"])
    with pytest.raises(OtherSettings, match="k: 4 there, 5 asked for"):
        table(ladder, again, tmp_path, k=5)


def test_arms_take_as_many_rows_of_every_concept_from_the_same_strata() -> None:
    rng = np.random.default_rng(0)
    n = 400
    tags = [SimpleNamespace(name=f"{k}", bearing=rng.random(n) < 0.4, stratum=rng.integers(-1, 5, n)) for k in range(3)]
    orders = {one.name: rng.permutation(np.flatnonzero(one.bearing)) for one in tags}
    orders["1"] = np.concatenate([orders["0"][:5], orders["1"][~np.isin(orders["1"], orders["0"][:5])]])
    found = arms(tags, orders, 20, np.random.default_rng(1))
    top, random = found["top"], found["random"]
    assert len(top) == len(random) == len(np.unique(random)) <= 60
    assert set(top) == set().union(*(orders[one.name][:20] for one in tags))
    again = arms(tags, orders, 20, np.random.default_rng(1))
    assert np.array_equal(again["random"], random)
    rows = orders["0"][:20]
    mine = matched(tags[0], rows, rows, rng)
    assert tags[0].bearing[mine].all() and not np.isin(mine, rows).any() and len(np.unique(mine)) == 20
    same = tags[0].stratum[rows] >= 0
    assert (np.sort(tags[0].stratum[mine][: same.sum()]) == np.sort(tags[0].stratum[rows][same])).all()
    drawn = [arms(tags[:1], orders, 20, np.random.default_rng(seed))["random"] for seed in range(200)]
    counts = np.array([rows[0] in one for one in drawn])
    assert 0.02 < counts.mean() < 0.5, "a top row may be drawn too: the arms differ by the ranking alone"


def test_what_cannot_be(ladder: Ladder, tmp_path: Path) -> None:
    n = rows_of(ladder)
    asked = Asked(concepts_of(n))
    for changed, said in (
        ({"sizes": ["c"]}, "no sizes c; it has a, b"),
        ({"sizes": []}, "at least one of each"),
        ({"k": 0}, "at least one of each"),
    ):
        with pytest.raises(ValueError, match=said):
            table(ladder, asked, tmp_path / "a", **changed)
    with pytest.raises(ValueError, match="not trained here"):
        table(Ladder(ladder.models), asked, tmp_path / "b")
    with pytest.raises(ValueError, match="tags 5 rows"):
        table(ladder, Asked([SimpleNamespace(name="x", bearing=np.ones(5, bool), stratum=np.zeros(5))]), tmp_path / "c")
    with pytest.raises(ValueError, match="give 99 different rows"):
        table(ladder, asked, tmp_path / "d", k=99)
    assert not (tmp_path / "d" / "removed" / "a-s0.json").exists()
    few = Asked([SimpleNamespace(name="few", bearing=np.arange(n) < 2, stratum=np.zeros(n, int))])
    few.ranking = lambda name, lm: {"few": np.arange(5)}  # type: ignore[method-assign]
    with pytest.raises(BadData, match="has 2 bearing rows"):
        table(ladder, few, tmp_path / "e")
    other = Asked(asked.concepts)
    other.ranking = lambda name, lm: {}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="lacks concept 0, concept 1"):
        table(ladder, other, tmp_path / "f")
    other = Asked(asked.concepts)
    other.measure = lambda lm: pd.DataFrame({"concept": ["concept 0"], "d50": 0.5, "recall": 1.0})  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="one line for each of concept 0, concept 1"):
        table(ladder, other, tmp_path / "g", sizes=["a"])
