"""The nine sets of Jin et al. 2024 (2404.07066), from the hub or a local file, with classes, groups and templates.

The templates are in our own words and keep the statement: every text ends in the same words, so that what the last
token holds about the statement was carried there by the model. Groups keep statements about the same thing together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from influence.data.files import BadData, decode
from influence.data.labelled import check_texts, filled, labelled
from influence.data.read import read

if TYPE_CHECKING:
    import datasets

    from influence.data.read import Source

TRUTH = {"0": "false", "1": "true", "false": "false", "true": "true"}
YESNO = {"no": "no", "yes": "yes", "false": "no", "true": "yes", "0": "no", "1": "yes"}
MOOD = {"0": "negative", "1": "positive", "negative": "negative", "positive": "positive"}


class Form(NamedTuple):
    """One layout of a source: the columns of text, class and group (None: it has none)."""

    text: str
    label: str
    group: str | None = None


class PaperSet(NamedTuple):
    """A set of the paper: where the hub has it (None: nowhere known), and how its sources are read.

    `files` are the names, without endings, by which it is found in a folder. Values outside `classes` are an error,
    unless they are in `dropped`. `size` is the number of statements that the paper used.
    """

    kind: str
    hub: str | None
    split: str
    files: tuple[str, ...]
    forms: tuple[Form, ...]
    classes: Mapping[str, str]
    template: str
    size: int
    dropped: tuple[str, ...] = ()


_JUDGED = "Here is a statement. {text} Is it true or false? It is"
_ASKED = "Question: {text}\nThe answer, yes or no, is"

PAPER_SETS: dict[str, PaperSet] = {
    "strategyqa": PaperSet(
        "reasoning", "ChilleD/StrategyQA", "train", ("strategyqa", "StrategyQA_task", "strategyqa_train"),
        (Form("question", "answer", "term"), Form("question", "answer"), Form("input", "target_scores")),
        YESNO, _ASKED, 2290,
    ),
    "coinflip": PaperSet(
        "reasoning", "skrishna/coin_flip", "train", ("coin_flip", "coinflip"),
        (Form("question", "answer"), Form("inputs", "targets")), YESNO, _ASKED, 500,
    ),
    "cities": PaperSet(
        "fact", "s-nlp/geometry_cities", "dev", ("cities",),
        (Form("statement", "label", "city"), Form("claim", "label", "city")), TRUTH, _JUDGED, 1496,
    ),
    "commonclaim": PaperSet(
        "fact", None, "train", ("common_claim", "common_claim_true_false", "commonclaim"),
        (Form("statement", "label"), Form("examples", "label")), TRUTH, _JUDGED, 6000, ("neither",),
    ),
    "counterfact": PaperSet(
        "fact", "NeelNanda/counterfact-tracing", "train", ("counterfact", "counterfact_true_false"),
        (Form("statement", "label", "subject"), Form("proposition", "label", "subject"), Form("statement", "label")),
        TRUTH, _JUDGED, 4000,
    ),
    "hateeval": PaperSet(
        "emotion", "cardiffnlp/tweet_eval:hate", "train", ("hateeval", "hateval", "hateval2019_en_train"),
        (Form("text", "HS"), Form("text", "label")), {"0": "other", "1": "hateful"},
        "Comment: {text}\nIs this comment hateful, yes or no? The answer is", 6000,
    ),
    "stsa": PaperSet(
        "emotion", "SetFit/sst2", "train", ("stsa.binary", "stsa", "sst2"),
        (Form("text", "label"), Form("sentence", "label")), MOOD,
        "Review: {text}\nDid the writer like the film? The mood of the review is", 6920,
    ),
    "imdb": PaperSet(
        "emotion", "stanfordnlp/imdb", "test", ("imdb", "IMDB Dataset"),
        (Form("text", "label"), Form("review", "sentiment")), MOOD,
        "Review: {text}\nDid the writer like the film? The mood of the review is", 2000,
    ),
    "sarcasm": PaperSet(
        "emotion", "raquiba/Sarcasm_News_Headline", "train", ("sarcasm", "Sarcasm_Headlines_Dataset"),
        (Form("headline", "is_sarcastic"),), {"0": "serious", "1": "sarcastic"},
        "Headline: {text}\nIs this headline meant in earnest or as a joke? It is", 6000,
    ),
}  # fmt: skip


def paper_set(
    name: str, source: Source | None = None, *, split: str | None = None, template: str | None = None
) -> datasets.Dataset:
    """A set of the concept-depth paper as statements with classes, groups (city, subject, …) and a prompt around each.

    Args:
        name: one of `PAPER_SETS`.
        source: a file, a folder that holds the file under one of its usual names, a hub name, or loaded data; by
            default the set's place on the hub.
        split: of a dataset; default the one that the set names.
        template: in place of the set's own; "{text}" leaves the statement as it is.

    What differs from the published code: the question of StrategyQA comes without its explained answer, which gives
    the class away; statements without a clear class ("Neither" of CommonClaim) are left out.
    Raises BadData for an unknown name, a source that cannot be read or has other columns.
    """
    if name not in PAPER_SETS:
        raise BadData(f"{name!r} is no set of the paper; they are: {', '.join(PAPER_SETS)}")
    one = PAPER_SETS[name]
    if source is None and one.hub is None:
        files = " or ".join(f"{stem}.csv" for stem in one.files)
        raise BadData(
            f"no place on the hub is known for {name!r}; get its file ({files}, from the authors' repository) and "
            f"give it as the source: statements(path, like={name!r})"
        )
    rows, where = _records(one, one.hub if source is None else source, split or one.split)
    rows = [pair for row in rows for pair in _pair(row)] if rows and "target_true" in rows[0] else rows
    where = where if len(rows) == len(where) else [place for place in where for _ in range(2)]
    form = _form(name, one, rows)
    kept = [k for k, row in enumerate(rows) if _class(row[form.label]) not in one.dropped]
    rows, where = [rows[k] for k in kept], [where[k] for k in kept]
    texts = [row[form.text] for row in rows]
    check_texts(texts, where)
    return labelled(
        filled(template or one.template, {"text": texts}, name),
        [_class(row[form.label]) for row in rows],
        None if form.group is None else [row[form.group] for row in rows],
        where=where,
        classes=one.classes,
        name=name,
    )


def _records(one: PaperSet, source: Any, split: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The rows of a source, and what each is called in errors."""
    path = Path(source).expanduser() if isinstance(source, str | os.PathLike) else None
    if path is not None and path.is_dir():
        path = _inside(one, path)
        source = path
    if path is not None and path.is_file() and (special := _special(path)) is not None:
        return special, [f"{path}, record {k}" for k in range(1, len(special) + 1)]
    opened = read(source, (), split=split)
    rows: list[Mapping[str, Any]] = []
    where = []
    for chunk in opened.chunks:
        names = list(chunk.columns)
        rows += [dict(zip(names, row, strict=True)) for row in zip(*chunk.columns.values(), strict=True)]
        where += [f"{opened.name}, {opened.noun} {number}" for number in chunk.number]
    if not rows:
        raise BadData(f"{opened.name} has no rows")
    return rows, where


def _inside(one: PaperSet, folder: Path) -> Path:
    """The set's file in a folder, or the folder itself where it is a dataset of its own."""
    for stem in one.files:
        found = sorted(path for path in folder.glob(f"{stem}.*") if path.is_file())
        if found:
            return found[0]
    if any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
        return folder
    raise BadData(
        f"{folder} has none of the files {', '.join(f'{stem}.*' for stem in one.files)}; give the file itself"
    )


def _special(path: Path) -> list[Mapping[str, Any]] | None:
    """Rows of the two layouts that only the paper's own files have, or None for an ordinary file."""
    if path.suffix in (".train", ".dev", ".test"):
        lines = decode(path.read_bytes(), path, "strict").splitlines()
        parts = [line.split(" ", 1) for line in lines if line.strip()]
        bad = next((k for k, part in enumerate(parts, 1) if len(part) != 2 or not part[0].isdigit()), None)
        if bad is not None:
            raise BadData(f"{path}, line {bad}: expected a class, a space and a text, as in '1 a fine film'")
        return [{"text": text, "label": number} for number, text in parts]
    if path.suffix == ".json" and path.read_bytes()[:4096].lstrip().startswith(b"{"):
        try:
            found = json.loads(decode(path.read_bytes(), path, "strict"))
        except ValueError:
            return None  # one record per line
        rows = found.get("examples")
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise BadData(f"{path} is one JSON object without a list 'examples' of records")
        return rows
    return None


def _pair(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The true and the false statement of one record of CounterFact."""
    for target, label in (("target_true", 1), ("target_false", 0)):
        text = f"{str(row['prompt']).rstrip()} {str(row[target]).strip()}."
        yield {"statement": text, "label": label, "subject": row["subject"]}


def _form(name: str, one: PaperSet, rows: Sequence[Mapping[str, Any]]) -> Form:
    for form in one.forms:
        if all(column is None or column in rows[0] for column in form):
            return form
    known = "; ".join(", ".join(column for column in form if column is not None) for form in one.forms)
    raise BadData(f"the source of {name!r} has the columns {', '.join(rows[0])}; expected one of: {known}")


def _class(value: Any) -> Any:
    """The class as a word or number; a mapping of scores (BIG-bench) means its highest."""
    if isinstance(value, Mapping) and value:
        value = max(value, key=lambda key: value[key])
    return value.strip().lower() if isinstance(value, str) else value
