"""Text to token rows with stable ids: corpora, queries, tokenizers and the embedded world."""

from influence.data.corpus import corpus
from influence.data.files import BadData
from influence.data.queries import queries

__all__ = ["BadData", "corpus", "queries"]
