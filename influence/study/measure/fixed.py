"""Linear probes of a concept that are held fixed, beside probes of random labels and random directions.

A probe's weights are those of a split by group, and the items whose margin it measures are test statements of that
split: it has seen neither them nor others of their group. So a margin says what the concept's direction says of an
item, not what the probe remembers of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.data.files import BadData
from influence.data.words import words
from influence.probing.activations import activations
from influence.probing.controls import control_task
from influence.probing.inputs import inputs
from influence.probing.measure import measured, settled
from influence.probing.question import TEST, TRAIN, VALIDATION, Question, question
from influence.probing.solve import logistic
from influence.study.measure.depths import STRENGTHS

if TYPE_CHECKING:
    from influence.study.concepts import Concept
    from influence.types import LM

Ints = NDArray[np.int64]
SPLITS = 6  # in which three of four groups are test statements at least once
TRIES = 100
TOLERANCE = 1e-7  # nats: a direction to measure along, not a probability to compare


@dataclass(frozen=True, eq=False)
class Probes:
    """k probes of n items in s splits: the true one, control tasks, random directions, as many of these as of those.

    `weights[layer]` (s k c d) of c classes (for two ∓w/2); layers at which nothing varies are not there. `labels` (k n)
    are those towards which each one's margin is signed, `split` (n) is one in which the item is a test statement, −1
    where there is none. `ids` are the items' tokens, `group` (n) their groups.
    """

    weights: dict[int, Tensor]
    labels: Ints
    split: Ints
    group: Ints
    ids: list[np.ndarray]

    def directions(self, layer: int, places: Ints) -> Tensor:
        """(k p d) float64: the margin of item p under probe k is its product with h."""
        found = []
        for k, labels in enumerate(self.labels):
            weight = self.weights[layer][self.split[places], k]
            own = weight[torch.arange(len(places)), torch.from_numpy(labels[places])]
            found.append(own - (weight.sum(1) - own) / (weight.shape[1] - 1))
        return torch.stack(found)

    def queries(self, items: int, seed: int) -> Ints:
        """Places of at most `items` test items, drawn by `seed`: classes in turn, groups not drawn before first."""
        left = list(np.random.default_rng([seed, 51]).permutation(np.flatnonzero(self.split >= 0)))
        classes, used = np.zeros(self.labels.max() + 1), np.zeros(self.group.max() + 1)
        found: list[int] = []
        while left and len(found) < items:
            place = min(left, key=lambda one: (used[self.group[one]], classes[self.labels[0, one]]))
            left.remove(place)
            found.append(place)
            used[self.group[place]] += 1
            classes[self.labels[0, place]] += 1
        return np.sort(np.array(found, np.int64))


def fixed_probes(
    lm: LM, concept: Concept, layers: Sequence[int], *, draws: int = 3, seed: int = 0, batch_size: int = 32
) -> Probes:
    """Logistic probes of the items at the last token of `layers`, `draws` control tasks and `draws` random directions.

    A control task has labels drawn at random for each group, in the proportions of the true ones. All have the strength
    that tells the true labels best on the validation statements of their layer's splits.

    Raises:
        BadData: for items that cannot be probed.
    """
    ask = question(concept.items, seeds=SPLITS, bootstrap=0, controls=(), seed=seed)
    context = words(lm).context
    limit = None if context is None else context - 1  # the margin stands at the last token, after which one is added
    states = activations(
        lm, list(ask.texts), layers=list(layers), batch_size=batch_size, max_length=limit, progress=False
    )
    own = np.stack([ask.y, *(_control_labels(ask, seed + 1_000_003 * draw) for draw in range(draws))])
    weights = {}
    for place, layer in enumerate(states.layers["resid_post"]):
        x, varies = settled(states.values["resid_post"][place])
        if varies:
            weights[layer] = _weights(x, ask, own, np.random.default_rng([seed, 52, layer]))
    tested = ask.split == TEST
    split = np.where(tested.any(0), tested.argmax(0), -1)
    labels = np.concatenate([own, np.tile(ask.y, (draws, 1))])
    return Probes(weights, labels, split, ask.group, inputs(lm, list(ask.texts), max_length=limit).ids)


def _control_labels(ask: Question, seed: int) -> Ints:
    """Random labels by group, of which every split's training statements have every class."""
    for number in range(TRIES):
        found = control_task(ask.texts, ask.y, seed=seed + number, keys=list(ask.group))
        if all(len(np.unique(found[part == TRAIN])) == len(ask.classes) for part in ask.split):
            return found
    raise BadData(f"its {ask.groups} groups are too few for random labels of {len(ask.classes)} classes in every split")


def _weights(x: Tensor, ask: Question, labels: Ints, rng: np.random.Generator) -> Tensor:
    """(s k c d) of the probes of `labels` (p n) on x (n d), and of as many random directions as there are controls."""
    steps, classes = sorted(STRENGTHS), len(ask.classes)
    made = logistic(x[None], labels, ask.split == TRAIN, steps, classes=classes, standardize=True, tol=TOLERANCE)
    valid = measured("auc", made.layer(0, x)[0], ask.y, (ask.split == VALIDATION)[:, None])
    found = made.weights[0, :, :, int(valid.mean(0).argmax())].movedim(0, 1)  # (s p k d)
    drawn = torch.from_numpy(rng.standard_normal((len(labels) - 1, *found.shape[2:])))
    norm = found[:, :1].norm(dim=3, keepdim=True) / drawn.norm(dim=2, keepdim=True)
    both = torch.cat([found, drawn * norm], 1)
    return torch.cat([-both, both], 2) / 2 if classes == 2 else both
