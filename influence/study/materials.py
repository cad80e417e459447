"""What a study works on: the models of its ladder, their corpus, and the concepts that are asked about."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from influence.data.corpus import corpus
from influence.data.files import BadData
from influence.data.world import World, world
from influence.model.batches import columns
from influence.model.peek import tokenizer_of
from influence.store import disk
from influence.study.concepts import next_word_concepts, skip_reason, user_concepts, world_concepts
from influence.study.opened import Ladder
from influence.study.opening import open_ladder
from influence.study.tables import settings_of

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.study.spec import Spec
    from influence.types import Rows

log = logging.getLogger("influence")


@dataclass(frozen=True, eq=False)
class Materials:
    """A ladder, the line of each model and step to be measured by the name of its task, rows, and concepts.

    `skipped` holds what the corpus does not allow, with reasons; `told` says which models there are; `digest` and
    `rows_digest` what the concepts and rows are.
    """

    ladder: Ladder
    lines: dict[str, dict[str, Any]]
    rows: Rows
    concepts: tuple[Concept, ...]
    skipped: tuple[dict[str, Any], ...]
    told: list[list[Any]]
    digest: str
    rows_digest: str

    def models(self) -> pd.DataFrame:
        """The table `models`: a line for each model and step, without folders, which depend on the machine."""
        names = ["model", "size", "parameters", "n_layers", "seed", "step", "loss", "untrained"]
        return pd.DataFrame([{name: line[name] for name in names} for line in self.lines.values()])

    def table(self) -> pd.DataFrame:
        """The table `concepts`."""
        lines = []
        for one in self.concepts:
            line: dict[str, Any] = {"concept": one.name, "kind": one.kind, "expected": one.expected, "about": one.about}
            classes = one.items.features["label"]
            count = getattr(classes, "num_classes", None) or len(set(one.items["label"]))
            line |= {"items": len(one.items), "classes": count, "groups": len(set(one.items["group"]))}
            line |= {"queries": len(one.queries), "bearing_rows": int(one.bearing.sum())}
            lines.append(line)
        return pd.DataFrame(lines)


def materials(spec: Spec) -> Materials:
    """Open everything that a study needs, and check it, before anything is measured.

    Raises BadData where no concept is left or the corpus is missing, BadLadder for what makes no ladder.
    """
    ladder = spec.ladder if isinstance(spec.ladder, Ladder) else open_ladder(spec.ladder, steps=spec.steps or None)
    lines = _lines(ladder, spec)
    tokenizer = _tokenizer(ladder, next(iter(lines.values())))
    rows = _rows(ladder, spec, tokenizer)
    found, skipped = _concepts(ladder, rows, spec, tokenizer)
    if not found:
        why = "; ".join(f"{one['concept']}: {one['why']}" for one in skipped) or "none were asked for"
        raise BadData(f"no concept is left to ask about ({why}); give concepts that stand in this corpus (concept=)")
    told = [[task, line["parameters"], line["n_layers"], _identity(line)] for task, line in lines.items()]
    return Materials(ladder, lines, rows, tuple(found), tuple(skipped), told, digest(found), _digest_rows(rows))


def _lines(ladder: Ladder, spec: Spec) -> dict[str, dict[str, Any]]:
    """The lines to be measured by task: trained models first, of these the largest, so that processes end together."""
    frame = ladder.models
    wanted = spec.names(list(dict.fromkeys(frame["model"])), spec.models, "model")
    frame = frame[frame["model"].isin(wanted)]
    last = frame.groupby("model")["step"].transform("max")
    keep = frame["step"].isin(spec.steps) if spec.steps else frame["step"] == last
    keep = (keep & ~frame["untrained"]) | (frame["untrained"] & spec.untrained)
    frame = frame[keep].sort_values(["untrained", "parameters", "model", "step"], ascending=[True, False, True, True])
    if frame.empty:
        raise BadData("no trained model is left; give steps that the ladder has, or other models")
    return {f"{line['model']}@{line['step']}": line for line in frame.to_dict("records")}


def _identity(line: Mapping[str, Any]) -> str:
    """What a checkpoint is: the digest of its folder, or its revision on the hub ("" where none is named)."""
    folder = Path(line["folder"])
    if folder.is_dir():
        return str(disk.measure(folder)["sha256"])
    return str(line["revision"]) if isinstance(line.get("revision"), str) else ""


def _tokenizer(ladder: Ladder, line: Mapping[str, Any]) -> Any:
    revision = line.get("revision")
    return tokenizer_of(line["folder"], revision if isinstance(revision, str) else None)


def _rows(ladder: Ladder, spec: Spec, tokenizer: Any) -> Rows:
    if spec.data is not None:
        return corpus(spec.data, tokenizer, length=spec.length, pack=spec.pack, text_column=spec.text_column)
    if ladder.folder is None:
        raise BadData('these models were not trained here; give the corpus they were trained on (data = "FILE")')
    return ladder.rows(tokenizer)


def _concepts(ladder: Ladder, rows: Rows, spec: Spec, tokenizer: Any) -> tuple[list[Concept], list[dict[str, Any]]]:
    """Built-in concepts by the patterns asked for and one's own, and those the corpus does not allow."""
    how = {"queries": spec.measured.queries, "controls": spec.measured.controls, "seed": spec.measured.seed}
    drawn = _world(ladder, spec)
    every: list[Concept] = []
    if spec.concepts:
        every = next_word_concepts(rows, tokenizer, **how) if drawn is None else world_concepts(drawn, rows, **how)
    wanted = spec.names([one.name for one in every], spec.concepts, "concept") if every else []
    found, skipped = [one for one in every if one.name in wanted], []
    for description in spec.concept:
        [one] = user_concepts([description], rows, tokenizer, **how)
        why = skip_reason(one)
        if why is None:
            found.append(one)
            continue
        log.warning("the concept %s is left out: %s", one.name, why)
        skipped.append({"model": "", "step": -1, "concept": one.name, "part": "concept", "why": why})
    if twice := sorted({one.name for one in found if [two.name for two in found].count(one.name) > 1}):
        raise BadData(f"concepts with one name: {', '.join(twice)}; give each its own")
    return found, skipped


def _world(ladder: Ladder, spec: Spec) -> World | None:
    """The embedded world that the models learned, or None."""
    if spec.world is not None:
        return world(**spec.world)
    if spec.data is not None or ladder.folder is None:
        return None
    return ladder.world() if settings_of(ladder.folder)["corpus"].get("world") else None


def digest(concepts: Sequence[Concept]) -> str:
    """SHA-256 over everything that is asked."""
    found = hashlib.sha256()
    for one in concepts:
        told = [one.name, one.kind, one.expected, one.queries, one.controls]
        told += [list(one.items["text"]), [str(x) for x in one.items["label"]], [str(x) for x in one.items["group"]]]
        found.update(json.dumps(told, sort_keys=True).encode())
        found.update(np.packbits(one.bearing).tobytes() + np.asarray(one.stratum, np.int64).tobytes())
    return found.hexdigest()


def _digest_rows(rows: Rows) -> str:
    found = hashlib.sha256()
    for part in columns(rows)[:2]:
        for value in part:
            one = np.asarray(value, np.int32)
            found.update(np.int64(len(one)).tobytes() + one.tobytes())
    return found.hexdigest()
