"""A small model with its tokenizer, corpus and queries on disk, for tests of the whole job."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

SETTINGS: dict[str, Any] = {"pack": False, "length": 48, "batch_size": 16, "top": 3, "progress": False}
NUMERIC = ("factors/", "scores.zarr/", "tables/")


@cache
def make(folder: Path) -> dict[str, str]:
    """Paths of a model, a corpus and queries in `folder`, the same bytes on every call."""
    from influence.data.tokenizer import world_tokenizer
    from influence.data.world import world
    from influence.model.sizes import Size, neox
    from influence.model.train import initial

    drawn = world(persons=3, countries=1, facts_each=3, prose=4)
    tokenizer = world_tokenizer(drawn, vocab=400)
    net = initial(neox(Size(2, 16, 1e-3), len(tokenizer), heads=2, context=64), seed=0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    net.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
    corpus.write_text("".join(json.dumps(dict(one)) + "\n" for one in drawn.documents))
    asked = [{"prompt": q["prompt"], "completion": q["completion"], "label": q["fact"]} for q in drawn.questions[:3]]
    queries.write_text("".join(json.dumps(one) + "\n" for one in asked))
    return {"model": str(folder / "model"), "data": str(corpus), "queries": str(queries)}


def numbers(folder: Path) -> dict[str, bytes]:
    """The bytes of every numeric piece of a run."""
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name.startswith(NUMERIC)}
