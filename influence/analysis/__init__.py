"""What scores say: tables, top rows, layers, tails, retrieval. Everything here needs stored scores, no model."""

from influence.analysis.layers import centroid, layers, thirds
from influence.analysis.table import table
from influence.analysis.top import top

__all__ = [
    "centroid",
    "layers",
    "table",
    "thirds",
    "top",
]
