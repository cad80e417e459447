"""Prompt/completion pairs -> token rows of which only the completion is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from influence.data.build import build
from influence.data.files import BadData
from influence.data.read import Chunk, read
from influence.data.tokenised import row_ids
from influence.data.words import Words, check_ids, check_long, encode, flatten, words

if TYPE_CHECKING:
    from influence.data.read import Source
    from influence.types import Rows

_NEEDED = ("prompt", "completion")
_USED = (*_NEEDED, "input_ids", "loss_mask", "row", "label")


def queries(source: Source, lm: Any, *, max_length: int | None = None) -> Rows:
    """Query rows: log p(completion | prompt) is what they measure.

    Prompt and completion are tokenised as one text, so the tokens are those that the model met in training.
    The completion begins with the first token that reaches beyond the prompt: a token that straddles the
    boundary counts as completion. What the tokenizer puts before a text (a start token) is kept and not
    scored, what it puts after (an end token) is left out.

    Args:
        source: a list of dicts, one dict, a file (JSONL, JSON, CSV, TSV, Parquet), or whatever else
            `influence.corpus` reads, with `prompt` and `completion`.
        lm: an LM, or a bare tokenizer (then nothing is checked against a model's vocabulary and context).
        max_length: tokens a query may have; at most (and by default) the model's context.

    Returns:
        Columns `input_ids` (int32), `loss_mask` (int8), `row` (the query's id: 0, 1, 2, … unless the data has
        its own integers `row`), `prompt`, `completion`, `label` (a string, where given), and the data's other
        columns.

    Raises:
        BadData: (a ValueError) for missing keys, an empty completion, a completion whose first token has no
            token before it, queries that are too long, and tokens that the model does not have.
        FileNotFoundError: for a missing file.
    """
    tokens = words(lm)
    if max_length is not None:
        limits = [limit for limit in (max_length, tokens.context) if limit is not None]
        tokens = Words(tokens.tokenizer, tokens.vocab, min(limits), tokens.start, tokens.end)
    opened = read(source, _NEEDED)
    ids: list[list[int]] = []
    begins: list[int] = []
    columns: dict[str, list[Any]] = {}
    names: list[str] = []
    for chunk in opened.chunks:
        where = [f"{opened.name}, {opened.noun} {number}" for number in chunk.number]
        for tokens_of_one, begin in _encoded(chunk, tokens, where):
            ids.append(tokens_of_one)
            begins.append(begin)
        _extend(columns, chunk, len(names))
        names += where
    if not ids:
        raise BadData(f"{opened.name} holds no queries; give at least one prompt with a completion")
    return _rows(ids, begins, columns, names, tokens)


def _extend(columns: dict[str, list[Any]], chunk: Chunk, before: int) -> None:
    for name in chunk.columns:
        columns.setdefault(name, [None] * before)
    for name, values in columns.items():
        values += chunk.columns.get(name, [None] * len(chunk.number))


def _rows(
    ids: list[list[int]], begins: list[int], columns: dict[str, list[Any]], names: list[str], tokens: Words
) -> Rows:
    flat, lengths = flatten(ids)
    check_long(tokens, lengths, names, "shorten the prompt, or raise max_length where the model allows it")
    check_ids(tokens, flat)
    bounds = np.r_[0, np.cumsum(lengths)]
    within = np.arange(len(flat)) - np.repeat(bounds[:-1], lengths)
    mask = within >= np.repeat(np.asarray(begins), lengths)
    kept = {name: columns[name] for name in _NEEDED}
    if "label" in columns:
        kept["label"] = [None if label is None else str(label) for label in columns["label"]]
    kept |= {name: values for name, values in columns.items() if name not in _USED}
    return build(flat, bounds, mask.astype(np.int8), row_ids(columns.get("row"), len(ids)), kept)


def _encoded(chunk: Chunk, tokens: Words, where: list[str]) -> list[tuple[list[int], int]]:
    """Tokens of each query, and the place of its completion's first token."""
    prompts, completions = (chunk.columns[name] for name in _NEEDED)
    for prompt, completion, place in zip(prompts, completions, where, strict=True):
        if not isinstance(prompt, str) or not isinstance(completion, str):
            kinds = f"{type(prompt).__name__} and {type(completion).__name__}"
            raise BadData(f"{place}: prompt and completion must be strings, got {kinds}")
        if not completion:
            raise BadData(
                f"{place}: the completion is empty, so there is nothing to score; its prompt: {prompt[-60:]!r}"
            )
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    begins_at = _begins_by_offset if getattr(tokens.tokenizer, "is_fast", True) else _begins_by_prefix
    found = begins_at(tokens, prompts, texts, where)
    return [(_checked(ids, begin, at), begin) for (ids, begin), at in zip(found, where, strict=True)]


def _checked(ids: list[int], begin: int, name: str) -> list[int]:
    if begin >= len(ids):
        raise BadData(f"{name}: the tokenizer makes no token of this completion; give one with some visible text")
    if begin == 0:
        raise BadData(
            f"{name}: nothing stands before the first token of the completion, and the tokenizer adds no "
            "start token, so that token cannot be predicted; give a prompt (of at least one token of its own)"
        )
    return ids


def _begins_by_offset(
    tokens: Words, prompts: list[str], texts: list[str], where: list[str]
) -> list[tuple[list[int], int]]:
    found = encode(tokens, texts, where, return_offsets_mapping=True)
    return [
        _cut(tokens, list(ids), spans, len(prompt))
        for ids, spans, prompt in zip(found["input_ids"], found["offset_mapping"], prompts, strict=True)
    ]


def _cut(tokens: Words, ids: list[int], spans: list[tuple[int, int]], boundary: int) -> tuple[list[int], int]:
    start, stop = len(tokens.start), len(ids) - len(tokens.end)
    beyond = (place for place in range(start, stop) if spans[place][1] > boundary)
    begin = next(beyond, stop)
    # offsets leave out the spaces at a token's end, which may be where the completion begins
    if begin > start and spans[begin - 1][1] == boundary and _ends_in_space(tokens, ids[begin - 1]):
        begin -= 1
    return ids[:stop], begin


def _ends_in_space(tokens: Words, token: int) -> bool:
    piece = tokens.tokenizer.convert_ids_to_tokens(token)
    return isinstance(piece, str) and len(piece) > 1 and piece[-1] in "Ġ▁ "


def _begins_by_prefix(
    tokens: Words, prompts: list[str], texts: list[str], where: list[str]
) -> list[tuple[list[int], int]]:
    """Without offsets: the completion begins where the tokens part from those of the prompt alone."""
    stop = len(tokens.end)
    whole = [list(ids[: len(ids) - stop]) for ids in encode(tokens, texts, where)["input_ids"]]
    alone = [list(ids[: len(ids) - stop]) for ids in encode(tokens, prompts, where)["input_ids"]]
    return [
        (
            ids,
            next(
                (k for k, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b),
                min(len(ids), len(prompt)),
            ),
        )
        for ids, prompt in zip(whole, alone, strict=True)
    ]
