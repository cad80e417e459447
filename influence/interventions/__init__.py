"""Edits of hidden states from a layer on, and what they cost: does a model still need its previous tokens there?

    with influence.edit(lm, influence.interventions.freeze(3)):
        ...  # scoring or generation
    print(influence.intervene(lm, [influence.interventions.capitals(lm)]))

Source: Ben Artzy & Schwartz 2024, "Attend First, Consolidate Later" (arXiv 2409.03621).
"""

from influence.interventions.edits import Edit, freeze, noise, shuffle, skip, swap
from influence.interventions.metrics import Metric
from influence.interventions.tasks import Task, arithmetic, capitals, perplexity, recall, second_hop, task, two_hop

__all__ = [
    "Edit", "Metric", "Task", "arithmetic", "capitals", "freeze", "noise", "perplexity", "recall", "second_hop",
    "shuffle", "skip", "swap", "task", "two_hop",
]  # fmt: skip
