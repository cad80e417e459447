"""How a model of a ladder is trained: pieces of a batch, bfloat16, a world, rows held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import influence
from influence.data.files import BadData
from influence.data.material import material, world_material
from influence.data.world import world
from influence.model.plan import TokenRows, plain_rows
from influence.model.sizes import Size, neox
from influence.model.step import gradient, mean_loss, pieces
from influence.model.train import initial, train
from influence.store import OtherSettings

TEXTS = [
    f"{name} has {number} {what}."
    for name in ("Ada", "Ben", "Carl")
    for number in range(12)
    for what in ("cows", "hens")
]


@pytest.fixture(scope="module")
def some() -> tuple[object, TokenRows]:
    made = material(TEXTS, vocab=280, length=12, pack=False)
    return neox(Size(2, 16, 1e-2, heads=2), 280), plain_rows(made.rows)


def test_pieces_of_a_batch_add_up_to_its_gradient(some) -> None:  # type: ignore[no-untyped-def]
    config, rows = some
    found = {}
    for count in (1, 3, 100):
        net = initial(config, 0).double()
        parts = pieces(rows, np.arange(10), count, torch.device("cpu"))
        assert len(parts) == min(count, 10)
        found[count] = gradient(net, parts), torch.cat([p.grad.flatten() for p in net.parameters()])
    for count in (3, 100):
        assert found[count][0] == pytest.approx(found[1][0], rel=1e-12)
        torch.testing.assert_close(found[count][1], found[1][1], rtol=1e-9, atol=1e-12)
    assert mean_loss(
        net, rows._replace(ids=rows.ids[:10], masks=rows.masks[:10]), torch.device("cpu")
    ) == pytest.approx(found[1][0], rel=1e-9)
    assert net.training


def test_bfloat16_keeps_float32_weights_and_learns_alike(some, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config, rows = some
    asked = {"lr": 1e-2, "steps": 12, "batch_tokens": 64, "warmup": 2, "checkpoints": 0, "progress": False}
    wide = train(tmp_path / "wide", config, rows, **asked)
    half = train(tmp_path / "half", config, rows, **asked, compute_dtype="bfloat16")
    assert half.losses != wide.losses
    np.testing.assert_allclose(half.losses, wide.losses, rtol=0.02)
    lm = influence.load(half.final)
    assert {p.dtype for p in lm.net.parameters()} == {torch.float32}
    with pytest.raises(OtherSettings, match="compute_dtype: 'bfloat16' there"):
        train(tmp_path / "half", config, rows, **asked)
    assert "compute_dtype" not in json.loads((tmp_path / "wide" / "settings.json").read_text())


def test_a_world_is_trained_on_whole_and_asked_in_other_words() -> None:
    drawn = world(3, persons=4, countries=2, facts_each=3, prose=6)
    made = world_material(drawn, vocab=400)
    assert made.rows["text"] == [one["text"] for one in drawn.documents]
    facts = [one for one in made.held_out if one["form"] == "held-out"]
    assert [one["fact"] for one in facts] == [fact.id for fact in drawn.facts]
    assert not set(made.held_out["text"]) & set(made.rows["text"])
    asked = {q["fact"]: q["prompt"] + q["completion"] for q in drawn.questions if q["phrasing"] == "held-out"}
    assert all(one["text"] == asked[one["fact"]] + "." for one in facts)
    assert made.held_out["row"][0] == len(drawn.documents)


def test_equal_rows_stand_on_one_side() -> None:
    texts = [f"row {k % 15} of them" for k in range(60)]
    made = material(texts, vocab=280, pack=False, held_out=0.2)
    assert len(set(made.held_out["text"])) == 3 and len(made.held_out) == 12 and len(made.rows) == 48
    assert not set(made.held_out["text"]) & set(made.rows["text"])
    other = material(texts, vocab=280, pack=False, held_out=0.2, seed=1)
    assert set(other.held_out["text"]) != set(made.held_out["text"])
    with pytest.raises(BadData, match="read only once"):
        material(iter(texts))
