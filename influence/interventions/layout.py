"""Questions as batches: which sequences run, which of their tokens are edited, where predictions are read.

Mode "paper": every scored token is a sequence of its own, its prefix, of which all tokens but the last are edited, as
in generation without a cache. Mode "prompt": one sequence per question, of whose prompt all tokens but the last are
edited, as in generation with a cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NO_PARTNER = -1


@dataclass(frozen=True, eq=False)
class Question:
    """A question's tokens (t), the places (m) of its scored tokens, and its row's id."""

    ids: np.ndarray
    scored: np.ndarray
    row: int

    @property
    def prompt(self) -> int:
        """Tokens before the first that is scored."""
        return int(self.scored[0])


@dataclass(frozen=True, eq=False)
class Layout:
    """A batch of sequences: ids (R t); `places` and `target` (R m), padded where `counts` (R) are fewer.

    `question` (R) is the question of each sequence, by its place among all; `keys` (R 2) the row's id and the number of
    the step; `prompt` (R) the length of its prompt, `length` (R) its tokens.
    """

    ids: Tensor
    places: Tensor
    target: Tensor
    counts: np.ndarray
    question: np.ndarray
    keys: np.ndarray
    prompt: Tensor
    length: Tensor
    previous: Tensor

    def tokens(self, name: str) -> Tensor:
        """(R t) which tokens "previous", "prompt" and "all" are."""
        here = torch.arange(self.ids.shape[1], device=self.ids.device)
        if name == "all":
            return here < self.length[:, None]
        if name == "prompt":
            return here < torch.minimum(self.prompt, self.length)[:, None]
        return here < self.previous[:, None]

    def split(self, values: Tensor) -> dict[int, Tensor]:
        """values (R m v) by question, (tokens v) each: the scored tokens in their order."""
        found: dict[int, list[Tensor]] = {}
        for row, (place, count) in enumerate(zip(self.question, self.counts, strict=True)):
            found.setdefault(int(place), []).append(values[row, : int(count)])
        return {place: torch.cat(parts) for place, parts in found.items()}


def layouts(
    questions: Sequence[Question], mode: str, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[Layout]:
    """Batches of at most `batch_size` sequences (a question's sequences stay together), longest first."""
    order = sorted(range(len(questions)), key=lambda place: (-int(questions[place].scored[-1]), place))
    batch: list[int] = []
    size = 0
    for place in order:
        needs = len(questions[place].scored) if mode == "paper" else 1
        if batch and size + needs > batch_size:
            yield _layout(questions, batch, mode, device)
            batch, size = [], 0
        batch.append(place)
        size += needs
    if batch:
        yield _layout(questions, batch, mode, device)


def _layout(questions: Sequence[Question], chosen: Sequence[int], mode: str, device: torch.device | str) -> Layout:
    lines = [line for place in chosen for line in _lines(questions[place], place, mode)]
    width = max(length for _, length, *_ in lines)
    most = max(len(places) for _, _, places, *_ in lines)
    ids = np.zeros((len(lines), width), np.int64)
    places, target = np.zeros((2, len(lines), most), np.int64)
    for row, (place, length, read, *_) in enumerate(lines):
        own = questions[place].ids
        ids[row, :length] = own[:length]
        places[row, : len(read)], target[row, : len(read)] = read - 1, own[read]
    columns = np.array([[length, previous, step] for _, length, _, previous, step in lines])
    question = np.array([place for place, *_ in lines])
    prompt = np.array([questions[place].prompt for place in question])
    rows = np.array([questions[place].row for place in question])

    def put(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device)

    return Layout(
        ids=put(ids), places=put(places), target=put(target), counts=np.array([len(read) for _, _, read, *_ in lines]),
        question=question, keys=np.stack([rows, columns[:, 2]], 1), prompt=put(prompt), length=put(columns[:, 0]),
        previous=put(columns[:, 1]),
    )  # fmt: skip


def _lines(one: Question, place: int, mode: str) -> Iterator[tuple[int, int, np.ndarray, int, int]]:
    """(question, length, scored tokens read, tokens edited, step) of each sequence of a question."""
    if mode == "prompt":
        yield place, int(one.scored[-1]), one.scored, one.prompt - 1, 0
        return
    for step, end in enumerate(one.scored):
        yield place, int(end), np.array([end]), int(end) - 1, step


def partners(questions: Sequence[Question], seed: int) -> np.ndarray:
    """(n) for each question another whose prompt has as many tokens and other ids, NO_PARTNER where there is none."""
    found = np.full(len(questions), NO_PARTNER)
    lengths = np.array([one.prompt for one in questions])
    rng = np.random.default_rng(seed)
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        for place in places:
            own = questions[int(place)].ids[:length]
            for other in rng.permutation(places)[:20].tolist():
                if not np.array_equal(own, questions[other].ids[:length]):
                    found[place] = other
                    break
    return found
