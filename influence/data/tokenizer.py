"""A small byte-level BPE tokenizer, trained on the fly and saved as any tokenizer of the hub is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from influence.data.world import World

END = "<|endoftext|>"


def train_tokenizer(
    texts: Sequence[str],
    folder: str | Path | None = None,
    *,
    vocab: int = 2048,
    weights: Sequence[int] | None = None,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of `vocab` entries on `texts` and save it in `folder` (if given).

    `weights` says how many times each text counts. One special token, `<|endoftext|>` (id 0), is start, end
    and padding, and stands before every text that is tokenised with special tokens. Any text can be encoded
    and decoded without loss. The result depends on texts, vocab and weights alone.
    Raises ValueError for no text, weights of another length, or a vocabulary below 257 entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    _check(texts, vocab, weights)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(_repeated(texts, weights), trainer)
    raw.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, raw.token_to_id(END))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=END, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )
    if folder is not None:
        tokenizer.save_pretrained(str(folder))
    return tokenizer


def world_tokenizer(
    world: World, folder: str | Path | None = None, *, vocab: int = 2048, fact_weight: int = 8
) -> PreTrainedTokenizerFast:
    """The tokenizer of an embedded world: its fact rows count `fact_weight` times, prose once."""
    weights = [fact_weight if document["fact"] else 1 for document in world.documents]
    return train_tokenizer([document["text"] for document in world.documents], folder, vocab=vocab, weights=weights)


def _check(texts: Sequence[str], vocab: int, weights: Sequence[int] | None) -> None:
    if not texts:
        raise ValueError("There is no text to train a tokenizer on. Give at least one.")
    if vocab < 257:
        raise ValueError(
            f"A byte-level vocabulary has 256 bytes and the end token, at least 257 entries; got {vocab=}."
        )
    if weights is not None and len(weights) != len(texts):
        raise ValueError(f"{len(texts)} texts came with {len(weights)} weights; give one weight for each text.")


def _repeated(texts: Iterable[str], weights: Sequence[int] | None) -> Iterator[str]:
    for number, text in enumerate(texts):
        for _ in range(1 if weights is None else weights[number]):
            yield text
