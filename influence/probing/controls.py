"""What a probe must beat: controls that see no hidden state, and labels that no concept explains.

Labels for the same batched solve as the task's: `shuffled`, `control_task`. Logits (s c n k) of all n statements from
the training statements of each split: `majority`, `tfidf`, `length`, as probes' own for one layer. A further control,
the untrained model, is made in influence.model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.probing.labels import numbered
from influence.probing.solve import logistic

Ints = NDArray[np.int64]
TFIDF_STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # its vectors have norm 1, so C = 1 is a strong penalty
TRIES = 1000


def shuffled(y: Any, *, seed: int = 0) -> Ints:
    """The labels (n) in random order: the same classes, told by nothing."""
    return np.random.default_rng([seed, 1]).permutation(numbered(y))


def control_task(texts: Sequence[str], y: Any, *, seed: int = 0, keys: Sequence[Any] | None = None) -> Ints:
    """Labels (n) drawn once per word type, in the proportions of y: learnable only by memory (Hewitt & Liang 2019).

    A statement's type is its last word; where one word ends most statements, the word before it, and so on. Test
    statements whose type is in training can be told by a probe that memorises, so the task's accuracy minus this one
    (selectivity) says how much of it memory could explain.

    Args:
        keys: (n) types to use instead, the word at the probed position for one.

    Raises:
        ValueError: for lengths that differ, and where statements have fewer types than there are classes.
    """
    y = numbered(y)
    if len(texts) != len(y) or (keys is not None and len(keys) != len(y)):
        raise ValueError(f"{len(texts)} texts and {len(y)} labels came; expected one type and label per statement")
    names, code = np.unique([str(one) for one in (_types(texts) if keys is None else keys)], return_inverse=True)
    wanted = np.flatnonzero(np.bincount(y))
    if len(names) < len(wanted):
        raise ValueError(f"{len(names)} word types for {len(wanted)} classes; pass keys= with more types")
    rng = np.random.default_rng([seed, 2])
    sizes, share = np.bincount(code), np.bincount(y) / len(y)
    best, miss = None, np.inf
    for _ in range(TRIES):
        drawn = rng.choice(len(share), len(names), p=share)
        found = np.bincount(drawn, weights=sizes, minlength=len(share)) / len(y)
        if (found[wanted] > 0).all() and (now := float(np.abs(found - share).max())) < miss:
            best, miss = drawn, now
        if best is not None and miss < 0.02:
            break
    if best is None:
        raise ValueError(f"{len(names)} word types are too few to give all {len(wanted)} classes one; pass keys=")
    return np.asarray(best[code], np.int64)


def _types(texts: Sequence[str]) -> list[str]:
    words = [[word.strip(".,;:!?\"'()[]").lower() for word in text.split()] for text in texts]
    longest = max((len(one) for one in words), default=0)
    for place in range(1, longest + 1):
        here = [one[-place] if len(one) >= place else "" for one in words]
        here = [mine or "".join(one[-place - 1 : -place]) for mine, one in zip(here, words, strict=True)]
        if Counter(here).most_common(1)[0][1] <= len(texts) / 2:
            return here
    raise ValueError("more than half of the statements agree in every word, so none tells types apart; pass keys=")


def majority(y: Any, train: Any, *, classes: int | None = None) -> Tensor:
    """Logits (s 1 n k) of the class frequencies in training: constant, so they predict the commonest class."""
    y, train = numbered(y), np.atleast_2d(np.asarray(train, bool))
    classes = classes or max(int(y.max()) + 1, 2)
    counts = np.stack([np.bincount(y[one], minlength=classes) for one in train]) + 0.5
    logits = np.log(counts)
    logits = logits[:, 1:] - logits[:, :1] if classes == 2 else logits
    return torch.from_numpy(logits)[:, None, None, :].repeat(1, 1, len(y), 1)


def tfidf(
    texts: Sequence[str],
    y: Any,
    train: Any,
    *,
    strengths: Sequence[float] = TFIDF_STRENGTHS,
    words: int = 1,
) -> Tensor:
    """Logits (s c n k) of a bag of words: TF-IDF of up to `words` neighbouring words, fitted on training alone.

    Logistic regression by scikit-learn, on sparse vectors. Raises ValueError for lengths that differ and for texts
    without a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    y, train = numbered(y), np.atleast_2d(np.asarray(train, bool))
    _check(len(texts), y, train)
    found = []
    for one in train:
        vectors = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, words))
        try:
            seen = vectors.fit_transform([text for text, yes in zip(texts, one, strict=True) if yes])
        except ValueError as error:
            raise ValueError("the training texts hold no word, so there is no bag of words; leave tfidf out") from error
        everything = vectors.transform(texts)
        for strength in strengths:
            fitted = LogisticRegression(C=strength, max_iter=1000).fit(seen, y[one])
            found.append(fitted.decision_function(everything).reshape(len(texts), -1))
    return torch.from_numpy(np.stack(found)).view(len(train), len(strengths), len(texts), -1)


def length(texts: Sequence[str], y: Any, train: Any, *, strengths: Sequence[float] = (1.0,)) -> Tensor:
    """Logits (s c n k) of a probe that sees only how long a text is: words, characters, and their logarithms."""
    y, train = numbered(y), np.atleast_2d(np.asarray(train, bool))
    _check(len(texts), y, train)
    sizes = np.array([[len(text.split()), len(text)] for text in texts], float)
    x = torch.from_numpy(np.concatenate([sizes, np.log1p(sizes)], 1))[None]
    if (x == x[:, :1]).all():
        return majority(y, train).repeat(1, len(strengths), 1, 1)
    probes = logistic(x, y, train, strengths, standardize=True)
    return probes.logits(x)[0, 0]


def _check(texts: int, y: Ints, train: NDArray[np.bool_]) -> None:
    if texts != len(y) or train.shape[1] != len(y):
        raise ValueError(f"{texts} texts, {len(y)} labels, training masks {train.shape}; expected the same n")
    for number, one in enumerate(train):
        if len(np.unique(y[one])) < len(np.unique(y)):
            raise ValueError(f"training statements of split {number} lack a class; see influence.probing.splits")
