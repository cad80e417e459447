"""Tiny tokenizers of several kinds, trained or listed here."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "A quick brown fox jumps over the lazy dog; the dog does not mind.",
    "Numbers like 1234 and 5678, naïve café, 東京 and 🙂 are text as well.",
]
BOS, EOS, UNK = "<s>", "</s>", "<unk>"


def _wrap(raw: Tokenizer, template: str | None = None) -> PreTrainedTokenizerFast:
    if template:
        specials = [(token, raw.token_to_id(token)) for token in (BOS, EOS) if token in template]
        raw.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    names = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False, **names)


def byte_bpe(template: str | None = None, *, whole: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE; `whole` lets tokens cross spaces, and leaves spaces out of its offsets."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not whole)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[BOS, EOS, UNK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(TEXT * 3, trainer)
    if whole:
        raw.post_processor = processors.ByteLevel(trim_offsets=True)
    return _wrap(raw, template)


def metaspace(template: str | None = None) -> PreTrainedTokenizerFast:
    """Unigram with ▁ for spaces, as in SentencePiece."""
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.NFKC()
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=[BOS, EOS, UNK], unk_token=UNK, show_progress=False
    )
    raw.train_from_iterator(TEXT * 3, trainer)
    return _wrap(raw, template)


def word_level(template: str | None = None) -> PreTrainedTokenizerFast:
    """One token per word or sign."""
    raw = Tokenizer(models.WordLevel(unk_token=UNK))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.train_from_iterator(TEXT, trainers.WordLevelTrainer(special_tokens=[BOS, EOS, UNK]))
    return _wrap(raw, template)


def characters() -> PreTrainedTokenizerFast:
    """One token per character and no special tokens at all."""
    raw = Tokenizer(models.WordLevel({letter: k for k, letter in enumerate(sorted(set("".join(TEXT)) | {"\n"}))}))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)


TEMPLATES = (None, f"{BOS} $A", f"{BOS} $A {EOS}", f"$A {EOS}")
