"""Documents and questions of the embedded world as token rows, one document per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from influence.data.corpus import corpus
from influence.data.files import BadData
from influence.data.queries import queries

if TYPE_CHECKING:
    from influence.data.world import World
    from influence.types import Rows


def world_rows(world: World, tokenizer: Any, *, length: int = 128) -> Rows:
    """The world's documents as Rows, one document per row, `row` its index in `world.documents`.

    Columns: `input_ids, loss_mask, row, source, text` and `fact, form, style`. `tokenizer` may be an LM too.
    With `influence.data.tokenizer` every row starts with the start token, so that its first word is predicted
    too. Rows longer than `length` tokens are cut, with a warning; raises BadData where that would cut a fact.
    """
    rows = corpus([dict(document) for document in world.documents], tokenizer, length=length, pack=False)
    for ids, fact, form, row in zip(rows["input_ids"], rows["fact"], rows["form"], rows["row"], strict=True):
        if fact and len(ids) >= length:
            raise BadData(
                f"row {row} ({fact}, {form}) has {length} tokens or more, so its fact may be cut off; raise "
                "length, or use a tokenizer trained on the world (influence.data.tokenizer)"
            )
    return rows


def world_queries(world: World, tokenizer: Any, *, phrasing: str | None = "held-out") -> Rows:
    """The world's questions as query Rows, of which only the object's tokens are scored.

    `phrasing` is "held-out", "canonical" or None for both. Columns: `input_ids, loss_mask, row` (the index in
    `world.questions`), `prompt, completion, label` (relation and phrasing), `fact, relation, phrasing`, and
    `relevant` (the ids of the rows to be found). Raises ValueError for an unknown phrasing.
    """
    known = sorted({question["phrasing"] for question in world.questions})
    if phrasing is not None and phrasing not in known:
        raise ValueError(f"Unknown phrasing {phrasing!r}; choose from {', '.join(known)}, or None for all.")
    asked = [
        {**question, "row": number, "label": f"{question['relation']}, {question['phrasing']}"}
        for number, question in enumerate(world.questions)
        if phrasing in (None, question["phrasing"])
    ]
    return queries(asked, tokenizer)
