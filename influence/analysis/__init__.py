"""What scores say: tables, top rows, layers, tails, retrieval. Everything here needs stored scores, no model."""

from influence.analysis.layers import centroid, layers, thirds
from influence.analysis.retrieval import retrieval, retrieval_by_query, retrieval_difference
from influence.analysis.table import table
from influence.analysis.tails import tail, tail_points
from influence.analysis.top import top

__all__ = [
    "centroid",
    "layers",
    "retrieval",
    "retrieval_by_query",
    "retrieval_difference",
    "table",
    "tail",
    "tail_points",
    "thirds",
    "top",
]
