"""The flat tables of a run, from rows, queries and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from influence.cli.solving import Solved

if TYPE_CHECKING:
    from ekfac import EKFACSolver, Factors
    from influence.types import LM, Rows, Scores

TOLD = ("source", "fact", "form", "style")
ALTERNATIVES = ("exponential", "lognormal", "stretched_exponential")  # the fourth takes most of a second per query
EMPTY: dict[str, list[int]] = {name: [] for name in ("query", "row", "position", "token", "score", "by_layer")}


def rows(found: Rows) -> pd.DataFrame:
    """`row, text, source, n_tokens, fact, form, style`, one line per training row."""
    from influence.model.batches import columns

    ids, _, row = columns(found)
    frame = pd.DataFrame({"row": row, "text": _column(found, "text")})
    if frame["text"].isna().all():
        frame["text"] = [" ".join(map(str, tokens)) for tokens in ids]
    frame["n_tokens"] = np.array([len(tokens) for tokens in ids], np.int64)
    return frame.assign(**{name: _texts(found, name) for name in TOLD})


def queries(found: Rows, scores: Scores) -> pd.DataFrame:
    """`query, prompt, completion, log_p, n_tokens, label`, one line per query."""
    from influence.model.batches import columns

    _, masks, row = columns(found)
    frame = pd.DataFrame({"query": row, "prompt": _texts(found, "prompt"), "completion": _texts(found, "completion")})
    frame["log_p"] = scores["measurement"].sel(query=row).values.astype(np.float64)
    frame["n_tokens"] = np.array([int(mask.sum()) for mask in masks], np.int64)
    return frame.assign(label=_texts(found, "label"), fact=_texts(found, "fact"))


def top_rows(scores: Scores, found: Rows, k: int) -> pd.DataFrame:
    """The k rows for and against each query, by score in nats and by score over row norm."""
    from influence.analysis.top import top

    both = [top(scores, found, k=k, ranking=ranking) for ranking in ("nats", "normalised")]
    return pd.concat(both, ignore_index=True)


def tokens(
    lm: LM, found: Rows, asked: Rows, solver: EKFACSolver | Solved, best: pd.DataFrame, options: dict[str, Any]
) -> pd.DataFrame:
    """`query, row, position, token, score, by_layer` for the rows of `best`: which tokens carry each row's score."""
    from influence.attribution.score import score
    from influence.model.batches import columns

    row, query = columns(found)[2], columns(asked)[2]
    where = {int(one): place for place, one in enumerate(row)}
    parts = []
    for number, one in enumerate(query):  # alone: queries share few of their top rows
        wanted = best.loc[best["query"] == one, "row"].unique()
        if len(wanted):
            few = found.select(sorted(where[int(row)] for row in wanted))
            alone = asked.select([number])
            own = solver.of(number) if isinstance(solver, Solved) else solver
            scores = score(lm, few, alone, own, per=("layer", "token"), n=len(found), progress=False, **options)
            parts += _token_lines(lm, few, int(one), scores)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(EMPTY)


def _token_lines(lm: LM, few: Rows, query: int, scores: Scores) -> list[pd.DataFrame]:
    from influence.data.words import words
    from influence.model.batches import columns

    ids, _, row = columns(few)
    tokenizer = words(lm).tokenizer
    values = scores.sel(query=query).transpose("row", "token", "layer").values.astype(np.float64)
    lines = []
    for one, tokens, part in zip(row, ids, values, strict=True):
        part = part[: len(tokens)]
        line = {"query": query, "row": one, "position": np.arange(len(tokens))}
        line["token"] = token_texts(tokenizer, tokens.tolist())
        lines.append(pd.DataFrame({**line, "score": part.sum(1), "by_layer": list(part)}))
    return lines


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """Each token's own text; the ids themselves where there is no tokenizer.

    A token that is part of a character shows as a replacement mark; the space that a word piece stands for is kept.
    """
    if tokenizer is None:
        return [str(one) for one in ids]
    texts = [tokenizer.decode([one], clean_up_tokenization_spaces=False) for one in ids]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    return [
        f" {text}" if str(piece).startswith("▁") and not text.startswith(" ") else text
        for text, piece in zip(texts, pieces, strict=True)
    ]


def blocks(lm: LM, factors: Factors, damping: float) -> pd.DataFrame:
    """`block, layer, kind, d_out, d_in, bias, parameters, mean_eigenvalue, damping` (absolute), one line per block."""
    import ekfac

    lam = ekfac.solver(factors, damping).lam
    return pd.DataFrame(
        {
            "block": one.name,
            "layer": -1 if one.layer is None else one.layer,
            "kind": one.kind,
            "d_out": one.d_out,
            "d_in": one.d_in,
            "bias": one.bias,
            "parameters": one.size,
            "mean_eigenvalue": factors[one.name].mean,
            "damping": float("nan") if (absolute := lam[one.name]) is None else absolute,
        }
        for one in lm.blocks
    )


def _column(found: Rows, name: str) -> list[Any]:
    if name not in found.column_names:
        return [None] * len(found)
    plain = found.select_columns([name]).with_format("arrow")[:]
    return list(plain.column(name).to_pylist())


def _texts(found: Rows, name: str) -> pd.Series:
    return pd.Series([None if one is None else str(one) for one in _column(found, name)], dtype=object)
