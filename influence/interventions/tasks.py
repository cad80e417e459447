"""What an edited model is asked: questions with exact answers, facts of the embedded world, text to predict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from influence.data.build import build
from influence.data.corpus import corpus
from influence.data.files import BadData
from influence.data.queries import queries
from influence.data.words import flatten
from influence.data.world.rows import PHRASINGS
from influence.data.world.tokens import world_queries
from influence.data.world.vocabulary import PREMISES
from influence.interventions.countries import CAPITALS
from influence.interventions.layout import Question
from influence.interventions.metrics import EXACT, LOG_P, PERPLEXITY, Metric, metric_of

if TYPE_CHECKING:
    from influence.data.world import World
    from influence.types import LM, Rows

ANSWERED = ("exact match", "log p")


@dataclass(frozen=True, eq=False)
class Task:
    """Questions and what is measured of them.

    `rows` has `input_ids, loss_mask, row` and may have `group`: rows of one group are drawn together for intervals.
    What stands before the first scored token of a row is its prompt.
    """

    name: str
    rows: Rows
    metrics: tuple[Metric, ...]
    about: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        told = ", ".join(one.name for one in self.metrics)
        return f"Task {self.name}: {len(self)} questions, {told}{f' ({self.about})' if self.about else ''}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>"

    def questions(self) -> list[Question]:
        """Tokens and scored places of every row. Raises BadData for a row that scores nothing or its first token."""
        found = []
        for ids, mask, row in zip(self.rows["input_ids"], self.rows["loss_mask"], self.rows["row"], strict=True):
            scored = np.flatnonzero(np.asarray(mask))
            if not scored.size or scored[0] == 0 or len(mask) != len(ids):
                raise BadData(
                    f"row {row} of the task {self.name!r} scores {scored.size} tokens of {len(ids)}; at least one must "
                    "be scored, and never the first"
                )
            found.append(Question(np.asarray(ids, np.int64), scored, int(row)))
        return found

    def groups(self) -> np.ndarray:
        """(n) what is drawn together: the column `group`, else each row for itself."""
        if "group" in self.rows.column_names:
            return np.asarray([str(name) for name in self.rows["group"]])
        return np.arange(len(self.rows)).astype(str)

    def weights(self, metric: Metric) -> np.ndarray:
        """(n) what each question counts in the average."""
        if metric.by_token:
            return np.array([float(np.sum(mask)) for mask in self.rows["loss_mask"]])
        return np.ones(len(self.rows))


def task(
    source: Any, lm: LM, *, name: str = "questions", metrics: Any = ANSWERED, better: str = "higher", about: str = "",
    limit: int | None = None, seed: int = 0,
) -> Task:  # fmt: skip
    """A task of prompts with completions.

    Args:
        source: whatever `influence.queries` reads: a list of {"prompt": …, "completion": …} (with "group" rows of one
            group are drawn together), a JSONL, CSV or Parquet file; or Rows that it returned.
        metrics: one or several of "exact match" (greedy decoding gives exactly the completion), "log p" (nats, of the
            whole completion), "perplexity", a `Metric`, or a function (logits (m v), row) -> number.
        better: whether a function's "higher" or "lower" numbers are better.
        limit: at most this many questions, drawn by `seed`.

    Raises BadData (a ValueError) for what cannot be read, ValueError for unknown metrics and a limit below 1.
    """
    columns = getattr(source, "column_names", ())
    rows = source if {"input_ids", "loss_mask", "row"} <= set(columns) else queries(source, lm)
    several = [metrics] if isinstance(metrics, str | Metric) or callable(metrics) else list(metrics)
    if not several:
        raise ValueError("metrics is empty; give at least one, such as 'exact match'")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    if limit is not None and len(rows) > limit:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit])
        rows = rows.select(chosen)
    return Task(name, rows, tuple(metric_of(one, better) for one in several), about)


def capitals(lm: LM, *, template: str = "The capital of {country} is", limit: int | None = None, seed: int = 0) -> Task:
    """The capitals of countries (the project's own list). Raises ValueError for a template without {country}."""
    if "{country}" not in template:
        raise ValueError(f"the template {template!r} does not contain {{country}}, where the name is put")
    asked = [
        {"prompt": template.replace("{country}", country), "completion": f" {capital}"} for country, capital in CAPITALS
    ]
    return task(asked, lm, name="capitals", about=template, limit=limit, seed=seed)


def arithmetic(lm: LM, *, n: int = 200, high: int = 50, seed: int = 0) -> Task:
    """Sums and differences of whole numbers up to `high`, "12 + 7 =" with " 19", no two alike.

    Raises ValueError for more than there are.
    """
    every = [(a, sign, b) for a in range(high + 1) for b in range(high + 1) for sign in "+-" if sign == "+" or b <= a]
    if not 0 < n <= len(every):
        raise ValueError(f"n is {n}; of numbers up to {high} there are {len(every)} sums and differences")
    chosen = [every[k] for k in np.random.default_rng(seed).permutation(len(every))[:n]]
    asked = [
        {"prompt": f"{a} {sign} {b} =", "completion": f" {a + b if sign == '+' else a - b}"} for a, sign, b in chosen
    ]
    return task(asked, lm, name="arithmetic", about=f"numbers up to {high}")


def recall(world: World, lm: LM, *, phrasing: str = "canonical", limit: int | None = None, seed: int = 0) -> Task:
    """The facts of an embedded world, asked as they were told ("canonical") or in a phrasing never told ("held-out").

    Facts of one subject are a group. Raises ValueError for another phrasing.
    """
    if phrasing not in PHRASINGS:
        raise ValueError(f"phrasing={phrasing!r}; give one of {', '.join(PHRASINGS)}")
    rows = world_queries(world, lm, phrasing=phrasing)
    rows = rows.add_column("group", [fact.split(".")[0] for fact in rows["fact"]])
    return task(rows, lm, name="recall", about=f"facts of the embedded world, {phrasing}", limit=limit, seed=seed)


def two_hop(world: World, lm: LM, *, told: bool = True, limit: int | None = None, seed: int = 0) -> Task:
    """In which country somebody was born: the birthplace is one fact, the country of the town another.

    "On the map {person} is drawn inside", which training tells of towns alone. With `told` the birthplace stands before
    it, so that only the town's country must be known; without, both. Raises BadData for a world without birthplaces or
    premises.
    """
    country = _countries(world)
    born = [fact for fact in world.facts if fact.relation.name == "birthplace" and fact.object in country]
    if not born:
        raise BadData("this world tells no birthplace in a town whose country is told; draw one with more persons")
    asked = []
    for fact in born:
        first = f"{fact.subject} was born in {fact.object}. " if told else ""
        prompt = first + _asking(1, fact.subject)
        asked.append({"prompt": prompt, "completion": f" {country[fact.object]}", "group": fact.object})
    about = "country of birth, the birthplace " + ("told" if told else "not told")
    return task(asked, lm, name="two-hop", about=about, limit=limit, seed=seed)


def second_hop(world: World, lm: LM, *, limit: int | None = None, seed: int = 0) -> Task:
    """In which country a town lies, as it was told: what two-hop questions need to be known."""
    asked = [
        {"prompt": _asking(number, town), "completion": f" {nation}", "group": town}
        for town, nation in _countries(world).items()
        for number in range(len(PREMISES))
    ]
    return task(asked, lm, name="second hop", about="country of a town, as told", limit=limit, seed=seed)


def _countries(world: World) -> dict[str, str]:
    """The country of each town, read off the rows that tell it."""
    pattern = re.compile(re.escape(PREMISES[0]).replace(r"\{s\}", "(.+)").replace(r"\{o\}", r"(.+)\."), re.IGNORECASE)
    matches = (pattern.fullmatch(one["text"]) for one in world.documents if one["form"] == "premise")
    return {match[1]: match[2] for match in matches if match}


def _asking(number: int, subject: str) -> str:
    text = PREMISES[number].replace("{s}", subject).replace("{o}", "").strip()
    return text[:1].upper() + text[1:]


def perplexity(source: Any, lm: LM, *, tokens: int = 8, length: int = 64, limit: int = 200, seed: int = 0) -> Task:
    """Perplexity of text, per token: of each row the `tokens` tokens after its middle are scored.

    Args:
        source: texts, a file, or Rows, as for `influence.corpus`; a text is a row, cut after `length` tokens.
        tokens: scored in each row. In mode "paper" each is a sequence of its own.
        limit: at most this many rows, drawn by `seed`.

    Raises BadData where no row has four tokens, ValueError for no tokens to score.
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}; score at least 1 token of each row")
    columns = getattr(source, "column_names", ())
    ready = {"input_ids", "loss_mask", "row"} <= set(columns)
    rows = source if ready else corpus(source, lm, length=length, pack=False)
    long = [place for place, ids in enumerate(rows["input_ids"]) if len(ids) >= 4]
    if not long:
        raise BadData(f"none of the {len(rows)} rows has four tokens, so none has a middle with text on both sides")
    chosen = np.sort(np.random.default_rng(seed).permutation(long)[:limit])
    rows = rows.select(chosen)
    ids = [one[:length] for one in rows["input_ids"]]
    flat, lengths = flatten(ids)
    places = [np.arange(size) - size // 2 for size in lengths]
    mask = np.concatenate([(place >= 0) & (place < tokens) for place in places]).astype(np.int8)
    halves = build(flat, np.r_[0, np.cumsum(lengths)], mask, np.asarray(rows["row"]), {})
    return Task("perplexity", halves, (PERPLEXITY,), f"{tokens} tokens after the middle of each row")


def check_tasks(tasks: Task | Sequence[Task]) -> list[Task]:
    """One task or several, with different names. Raises ValueError for none, or two of one name."""
    found = [tasks] if isinstance(tasks, Task) else list(tasks)
    if not found or not all(isinstance(one, Task) for one in found):
        raise ValueError("give at least one task: influence.interventions.tasks capitals, arithmetic, recall, task …")
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two tasks have one name: {', '.join(names)}; give names of their own (name=)")
    if any(len(one) == 0 for one in found):
        raise ValueError(f"the task {next(one.name for one in found if not len(one))!r} has no questions")
    return found


__all__ = [
    "ANSWERED", "EXACT", "LOG_P", "PERPLEXITY", "Task", "arithmetic", "capitals", "check_tasks", "perplexity", "recall",
    "second_hop", "task", "two_hop",
]  # fmt: skip
