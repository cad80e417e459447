"""A tokenizer and what its model can take: encoding in batches, and the checks that every row passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from influence.data.files import BadData

_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


@dataclass(frozen=True)
class Words:
    """A tokenizer with its model's limits; `vocab` and `context` are None where no model says them.

    `start` and `end` are the tokens that the tokenizer itself puts around a text.
    """

    tokenizer: Any
    vocab: int | None
    context: int | None
    start: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def separator(self) -> int | None:
        """The end-of-text token to put between documents; None where there is none or each starts with it."""
        eos = None if self.tokenizer is None else self.tokenizer.eos_token_id
        return None if eos is None or eos in self.start else int(eos)


def words(lm: Any) -> Words:
    """The tokenizer and limits of an `LM`, or of a bare tokenizer (then without limits).

    Raises BadData where the vocabulary has more entries than the model's embedding has rows.
    """
    net = getattr(lm, "net", None)
    tokenizer = lm if net is None else lm.tokenizer
    if net is None and not callable(tokenizer):
        raise TypeError(
            f"expected an LM (influence.load) or a tokenizer of transformers, got a {type(lm).__name__}; a "
            "tokenizer of the tokenizers library becomes one by PreTrainedTokenizerFast(tokenizer_object=...)"
        )
    vocab, context = (None, None) if net is None else (_vocab(net), _context(net))
    if tokenizer is None:
        return Words(None, vocab, context, (), ())
    _check_vocabulary(tokenizer, vocab)
    return Words(tokenizer, vocab, context, *_around(tokenizer))


def _around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What stands before and after a text: read off a text, since a template need not be symmetric."""
    found = tokenizer(["a"], return_special_tokens_mask=True, verbose=False)
    ids, special = found["input_ids"][0], found["special_tokens_mask"][0]
    plain = [place for place, flag in enumerate(special) if not flag]
    if not plain:
        cut = len(ids) - 1 if ids and ids[-1] == tokenizer.eos_token_id and ids[0] != ids[-1] else len(ids)
        return tuple(ids[:cut]), tuple(ids[cut:])
    return tuple(ids[: plain[0]]), tuple(ids[plain[-1] + 1 :])


def _vocab(net: Any) -> int | None:
    try:
        embedding = net.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(embedding, "weight", None)
    return None if weight is None else int(weight.shape[0])


def _context(net: Any) -> int | None:
    config = getattr(net, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    found = [getattr(config, name, None) for name in _CONTEXT]
    sizes = [size for size in found if isinstance(size, int) and size > 0]
    return min(sizes) if sizes else None


def _check_vocabulary(tokenizer: Any, vocab: int | None) -> None:
    """Added tokens beyond the embedding (a pad token, often) do no harm until a text contains them."""
    if vocab is None or len(tokenizer) <= vocab:
        return
    added = set(getattr(tokenizer, "added_tokens_decoder", {}))
    beyond = sorted(set(tokenizer.get_vocab().values()) - added - set(range(vocab)))
    if beyond:
        raise BadData(
            f"the tokenizer has {len(beyond)} tokens with ids from {beyond[0]} to {beyond[-1]}, but the "
            f"model's embedding has only {vocab} rows (ids 0 to {vocab - 1}); use the tokenizer that the "
            "model was trained with"
        )


def encode(words: Words, texts: Sequence[str], where: Sequence[str], **options: Any) -> Any:
    """The tokenizer's output for a batch of texts; `where` names each text in errors."""
    if words.tokenizer is None:
        raise BadData("the model was loaded without a tokenizer; load it with one, or give rows that have input_ids")
    for text, place in zip(texts, where, strict=True):
        if not isinstance(text, str):
            raise BadData(f"{place} is a {type(text).__name__} where a text is expected")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadData(f"{place} is no valid text: character {error.start} is half of a UTF-16 pair") from error
    return words.tokenizer(
        list(texts), padding=False, truncation=False, return_attention_mask=False, verbose=False, **options
    )


def flatten(ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of many texts end to end (int32) and their lengths (int64)."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths


def check_ids(words: Words, ids: np.ndarray) -> None:
    """Raise BadData for ids that the model's embedding does not have."""
    if words.vocab is None or ids.size == 0 or (ids.max() < words.vocab and ids.min() >= 0):
        return
    bad = np.unique(ids[(ids >= words.vocab) | (ids < 0)])
    shown = ", ".join(map(str, bad[:5])) + (", …" if bad.size > 5 else "")
    raise BadData(
        f"token ids {shown} occur, but the model's embedding has {words.vocab} rows (ids 0 to "
        f"{words.vocab - 1}); use the tokenizer that the model was trained with"
    )


def check_long(words: Words, lengths: np.ndarray, names: Sequence[str], advice: str) -> None:
    """Raise BadData for rows longer than the model's context."""
    if words.context is not None and (long := np.flatnonzero(lengths > words.context)).size:
        raise BadData(
            f"{long.size} row(s) are longer than the model's context of {words.context} tokens, among them "
            f"{names[long[0]]} with {lengths[long[0]]}; {advice}"
        )


def check_short(lengths: np.ndarray, names: Sequence[str]) -> None:
    """Raise BadData for rows of fewer than two tokens."""
    if (short := np.flatnonzero(lengths < 2)).size:
        shown = ", ".join(names[place] for place in short[:5]) + (", …" if short.size > 5 else "")
        raise BadData(
            f"{short.size} row(s) have fewer than two tokens, so nothing in them is predicted: {shown}; "
            "leave them out, or join texts with pack=True"
        )


def decode(words: Words, ids: Sequence[Sequence[int]]) -> list[str]:
    """Texts of token rows; a leading start token is not shown, every other token is."""
    cut = [list(row[1:] if row[0] in words.start[:1] else row) for row in ids]
    backend = getattr(words.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return list(backend.decode_batch(cut, skip_special_tokens=False))
    return list(words.tokenizer.batch_decode(cut, skip_special_tokens=False, clean_up_tokenization_spaces=False))
