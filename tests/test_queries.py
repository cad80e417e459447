"""Queries: the completion, and nothing else, is scored, whatever the tokenizer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_corpus import model
from tokenizers_tiny import BOS, EOS, TEMPLATES, byte_bpe, metaspace, word_level

from influence.data import BadData, queries

BPE, WHOLE = byte_bpe(), byte_bpe(whole=True)
PAIR = {"prompt": "The capital of France is", "completion": " Paris"}
KINDS = [byte_bpe, metaspace, word_level]


def one(tokenizer: Any, prompt: str, completion: str) -> tuple[list[str], list[str]]:
    """Pieces before the completion, and its own."""
    row = queries([{"prompt": prompt, "completion": completion}], tokenizer)[0]
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    first = row["loss_mask"].index(1)
    assert row["loss_mask"] == [0] * first + [1] * (len(pieces) - first)
    return pieces[:first], pieces[first:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_start_token_kept_and_end_token_left_out(kind: Any, template: str | None) -> None:
    tokenizer = kind(template)
    before, after = one(tokenizer, **PAIR)
    assert (before[0] == BOS) == (template is not None and BOS in template)
    assert after[-1] != EOS and EOS not in before
    assert "".join(after).strip("Ġ▁") == "Paris"
    assert "".join(before).replace(BOS, "").replace("Ġ", "").replace("▁", "") == "ThecapitalofFranceis"


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_ends_in_a_space_gives_the_same_completion(kind: Any) -> None:
    tokenizer = kind()
    before, after = one(tokenizer, "The capital of France is ", "Paris")
    assert "".join(after).strip("Ġ▁") == "Paris"
    assert "".join(before).rstrip("Ġ▁").endswith("is")


def test_a_token_that_straddles_the_boundary_is_completion() -> None:
    words = word_level()
    assert one(words, "The capital of France is Pa", "ris") == (
        ["The", "capital", "of", "France", "is"],
        ["Paris"],
    )
    assert BPE.tokenize(" dog") == ["Ġdog"], "the tokenizer should know this word"
    assert one(BPE, "The lazy d", "og") == (BPE.tokenize("The lazy"), ["Ġdog"])


def test_a_trimmed_space_at_a_token_s_end_counts() -> None:
    """A tokenizer whose tokens cross spaces reports "of " as if it ended before its space."""
    text = "The capital of Italy"
    found = WHOLE(text, return_offsets_mapping=True)
    pieces = WHOLE.convert_ids_to_tokens(found["input_ids"])
    places = [k for k, piece in enumerate(pieces) if len(piece) > 1 and piece.endswith("Ġ")]
    assert places, "the tokenizer should have a token that ends in a space"
    place = places[-1]
    end = found["offset_mapping"][place][1]
    assert text[end] == " "
    before, after = one(WHOLE, text[:end], text[end:])
    assert before == pieces[:place] and after == pieces[place:]
    assert one(WHOLE, text[: end + 1], text[end + 1 :])[0] == pieces[: place + 1]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(prompt=st.text(min_size=1, max_size=30), completion=st.text(min_size=1, max_size=30))
def test_bytes_of_the_completion_are_all_scored(prompt: str, completion: str) -> None:
    tokenizer = _WITH_START
    row = queries([{"prompt": prompt, "completion": completion}], tokenizer)[0]
    scored = [token for token, flag in zip(row["input_ids"], row["loss_mask"], strict=True) if flag]
    rest = row["input_ids"][: len(row["input_ids"]) - len(scored)]
    assert row["input_ids"] == tokenizer(prompt + completion)["input_ids"]
    assert _size(tokenizer, scored) >= len(completion.encode())
    assert _size(tokenizer, rest[1:]) <= len(prompt.encode())
    assert _size(tokenizer, scored[1:]) < len(completion.encode())


_WITH_START = byte_bpe(f"{BOS} $A")


def _size(tokenizer: Any, ids: list[int]) -> int:
    """Bytes of these tokens: each letter of a byte-level piece is one."""
    return sum(map(len, tokenizer.convert_ids_to_tokens(ids)))


def test_tokenizers_without_offsets_split_where_the_prompt_s_tokens_end() -> None:
    class Slow:
        """The same tokenizer without offsets."""

        is_fast = False
        eos_token_id = BPE.eos_token_id

        def __call__(self, texts: list[str], **options: Any) -> Any:
            return BPE(texts, **options)

    for prompt, completion in [("The capital of France is", " Paris"), ("The lazy d", "og")]:
        pair = [{"prompt": prompt, "completion": completion}]
        assert queries(pair, Slow())[:] == queries(pair, BPE)[:]


def test_columns_ids_and_labels() -> None:
    pairs = [PAIR | {"label": 1, "fact": "a"}, PAIR | {"fact": "b"}]
    rows = queries(pairs, BPE)
    assert rows.column_names == ["input_ids", "loss_mask", "row", "prompt", "completion", "label", "fact"]
    assert list(rows["row"]) == [0, 1] and list(rows["label"]) == ["1", None]
    assert list(rows["completion"]) == [" Paris"] * 2 and list(rows["fact"]) == ["a", "b"]
    assert list(queries([PAIR | {"row": 7}], BPE)["row"]) == [7]
    assert "label" not in queries(PAIR, BPE).column_names


def test_every_origin_gives_the_same_queries(tmp_path: Path) -> None:
    pairs = [PAIR, {"prompt": "The dog, ", "completion": '"NA"'}]
    expected = queries(pairs, BPE)[:]
    lines, table = tmp_path / "q.jsonl", tmp_path / "q.csv"
    lines.write_text("\n".join(map(json.dumps, pairs)), "utf-8")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(PAIR))
        writer.writeheader()
        writer.writerows(pairs)
    assert queries(lines, BPE)[:] == expected
    assert queries(str(table), BPE)[:] == expected


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"prompt": "a b", "completion": ""}, "list, document 1: the completion is empty"),
        ({"prompt": "", "completion": "Paris"}, "list, document 1: nothing stands before the first token"),
        ({"prompt": "a b"}, "no column 'completion'; its columns are: prompt"),
        ({"question": "a"}, "no column 'prompt', 'completion'; its columns are: question"),
        ({"prompt": "a", "completion": 4}, "must be strings, got str and int"),
        ({"prompt": None, "completion": "x"}, "must be strings, got NoneType and str"),
        ({"prompt": "word " * 80, "completion": "x"}, "longer than the model's context of 64"),
        ("just text", "is a str; expected a mapping"),
    ],
)
def test_bad_queries_are_named(pair: Any, message: str) -> None:
    with pytest.raises(BadData, match=message):
        queries([pair], model())


def test_other_bad_queries() -> None:
    with pytest.raises(BadData, match="holds no queries"):
        queries([], BPE)
    with pytest.raises(BadData, match="context of 3 tokens"):
        queries([PAIR], model(), max_length=3)
    with pytest.raises(BadData, match="makes no token of this completion"):
        queries([{"prompt": "The dog", "completion": "  "}], word_level())
    with pytest.raises(BadData, match="nothing stands before"):
        queries([{"prompt": "Par", "completion": "is"}], word_level())
    assert queries([{"prompt": "", "completion": "Paris"}], word_level(f"{BOS} $A"))[0]["loss_mask"] == [0, 1]
    with pytest.raises(BadData, match="only 300 rows"):
        queries([PAIR], model(vocab=300))
    with pytest.raises(FileNotFoundError):
        queries("nowhere.jsonl", BPE)
