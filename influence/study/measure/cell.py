"""All measurements of one model: every concept's pieces, made where they are not there yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import ekfac
from influence.data.files import BadData
from influence.interventions.edits import BadEdit
from influence.study import pieces
from influence.study.concepts import mastery
from influence.study.measure import asked, spread
from influence.study.measure.depths import depth_frames, probed
from influence.study.measure.margin import margin_table
from influence.study.measure.need import need_table
from influence.study.measure.settings import Settings
from influence.study.measure.signature import signature_table

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.types import LM, Rows, Solver

log = logging.getLogger("influence")
Frames = Mapping[str, pd.DataFrame]
OPTIONAL = ("margin", "signature", "edits", "k95")
AS_CONTROL = ("signature", "k95")  # what untrained models are a control of, beside depth and influence


@dataclass
class Model:
    """One model of a study at work: its folder of pieces, and what is made once for all its concepts."""

    name: str
    folder: Path
    lm: LM
    rows: Rows
    settings: Settings
    progress: bool = True
    untrained: bool = False
    _solver: list[Solver] = field(default_factory=list)

    @property
    def solver(self) -> Solver:
        """EK-FAC of this model, fitted when it is first needed."""
        if not self._solver:
            factors = asked.factors_of(self.lm, self.rows, self.settings, self.progress)
            self._solver.append(ekfac.solver(factors, damping=self.settings.damping))
        return self._solver[0]


def measure(model: Model, concepts: Sequence[Concept], told: Callable[[str], object]) -> None:
    """Make every piece of a model that is not whole: NUMBER-CONCEPT/{probe,influence,margin,signature,edits,k95}.

    What a concept does not allow is kept as the piece's `skipped`, with the reason. `told` is called with a word after
    each piece, for progress.
    """
    places = {one.name: model.folder / pieces.slug(number, one.name) for number, one in enumerate(concepts)}
    for one in concepts:
        _piece(places[one.name] / "probe", told, lambda one=one: _probe(model, one))  # type: ignore[misc]
    for part in asked.together(model.lm, concepts):
        _influences(model, part, places, told)
    makers = dict(zip(OPTIONAL, (_margin, _signature, _edits, _k95), strict=True))
    for name in parts(model.settings, model.untrained)[2:]:
        for one in concepts:
            _piece(places[one.name] / name, told, lambda one=one, make=makers[name]: make(model, one))  # type: ignore[misc]


def parts(settings: Settings, untrained: bool) -> list[str]:
    """What is measured of a model and concept; of untrained models only what they are a control of."""
    wanted = [name for name in OPTIONAL if getattr(settings, name)]
    return ["probe", "influence", *(name for name in wanted if name in AS_CONTROL or not untrained)]


def complete(folder: Path, concepts: Sequence[Concept], names: Sequence[str]) -> bool:
    """Whether every piece of a model is there and whole, so that the model need not be opened."""
    places = (folder / pieces.slug(number, one.name) / name for number, one in enumerate(concepts) for name in names)
    return all(pieces.whole(place) for place in places)


def _piece(folder: Path, told: Callable[[str], object], make: Callable[[], Frames]) -> None:
    """Make and keep a piece, or the reason why it cannot be."""
    if not pieces.whole(folder):
        try:
            pieces.save(folder, make())
        except (BadData, Unmeasured) as why:
            pieces.save(folder, {}, {"skipped": str(why)})
    told(f"{folder.parent.name[4:]}: {folder.name}")


class Unmeasured(ValueError):
    """A concept that does not allow a measurement in this model; the message is the reason."""


def _probe(model: Model, concept: Concept) -> Frames:
    found = depth_frames(probed(model.lm, concept, model.settings))
    recall, loss = mastery(model.lm, concept, model.settings.batch_size)
    found["depth"] = found["depth"].assign(recall=recall, query_loss=loss)
    return found


def _influences(
    model: Model, part: Sequence[Concept], places: Mapping[str, Path], told: Callable[[str], object]
) -> None:
    """The influence of concepts that are scored in one pass; all again where one of them is missing."""
    folders = [places[one.name] / "influence" for one in part]
    if not all(pieces.whole(folder) for folder in folders):
        scored = asked.asked(model.lm, model.rows, model.solver, part, model.settings, model.progress)
        for concept, folder, (scores, control) in zip(part, folders, scored, strict=True):
            try:
                pieces.save(folder, _spread(concept, scores, control, model.settings))
            except ValueError as why:
                pieces.save(folder, {}, {"skipped": str(why)})
    for folder in folders:
        told(f"{folder.parent.name[4:]}: influence")


def _spread(concept: Concept, scores: Any, control: Any, settings: Settings) -> Frames:
    return {
        "layer_mass": spread.layer_mass(scores, control),
        "layer_tail": spread.layer_tail(scores, concept, settings.seed),
        "tails": spread.tails(scores),
    }


def _margin(model: Model, concept: Concept) -> Frames:
    settings = model.settings
    return {
        "margin": margin_table(
            model.lm, model.rows, model.solver, concept, items=settings.margin, seed=settings.seed,
            batch_size=settings.batch_size, dtype=settings.dtype,
        )
    }  # fmt: skip


def _signature(model: Model, concept: Concept) -> Frames:
    settings = model.settings
    return {
        "signature": signature_table(
            model.lm, model.rows, model.solver, concept, items=settings.signature,
            rows_used=settings.signature_rows, seed=settings.seed, batch_size=settings.batch_size, dtype=settings.dtype,
        )
    }  # fmt: skip


def _edits(model: Model, concept: Concept) -> Frames:
    try:
        return {"need": need_table(model.lm, concept, model.settings)}
    except BadEdit as why:
        raise Unmeasured(str(why)) from why


def _k95(model: Model, concept: Concept) -> Frames:
    from influence.study.measure.sparse import neurons_for_95

    return {"neurons": pd.DataFrame({"k95": [neurons_for_95(model.lm, concept, model.settings)]})}


def gathered(folder: Path, concepts: Sequence[str], keys: Mapping[str, Any]) -> Iterator[tuple[str, pd.DataFrame]]:
    """(table, lines with their keys) of all pieces of one model, in the order of concepts."""
    for number, name in enumerate(concepts):
        for place in sorted((folder / pieces.slug(number, name)).glob("*/")):
            for table, frame in pieces.frames(place).items():
                told = {**keys, "concept": name}
                yield table, pd.DataFrame({**{key: [value] * len(frame) for key, value in told.items()}, **frame})


def reasons(folder: Path, concepts: Sequence[str], keys: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What was skipped in one model: its keys, concept, part and why."""
    for number, name in enumerate(concepts):
        for place in sorted((folder / pieces.slug(number, name)).glob("*/")):
            why = pieces.about(place).get("skipped")
            if why:
                yield {**keys, "concept": name, "part": place.name, "why": why}
