"""Corpora: every origin gives the same rows, packing loses nothing, and bad input is named."""

from __future__ import annotations

import csv
import gzip
import json
import types
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers_tiny import EOS, TEMPLATES, TEXT, byte_bpe, characters, metaspace, word_level

from influence.data import BadData, corpus

BPE = byte_bpe()


def model(vocab: int = 400, context: int | None = 64, tokenizer: Any = BPE) -> Any:
    """The parts of an LM that data looks at."""
    embedding = torch.nn.Embedding(vocab, 2)
    config = types.SimpleNamespace(max_position_embeddings=context)
    net = types.SimpleNamespace(get_input_embeddings=lambda: embedding, config=config)
    return types.SimpleNamespace(net=net, tokenizer=tokenizer)


def naive(texts: list[str], tokenizer: Any, length: int) -> list[list[int]]:
    """Packing token by token."""
    stream: list[int] = []
    eos = tokenizer.eos_token_id
    starts_with_end = False
    for number, text in enumerate(texts):
        ids = list(tokenizer(text)["input_ids"])
        if eos is not None and len(ids) > 1 and ids[-1] == eos and not text.endswith(EOS):
            ids.pop()
        if number and eos is not None and not starts_with_end:
            stream.append(eos)
        stream += ids
    rows = [stream[start : start + length] for start in range(0, len(stream), length)]
    return [row for row in rows if len(row) > 1]


@pytest.mark.parametrize("kind", [byte_bpe, metaspace, word_level])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("length", [2, 7, 64])
def test_packing_equals_a_naive_loop(kind: Any, template: str | None, length: int) -> None:
    tokenizer = kind(template)
    rows = corpus(TEXT, tokenizer, length=length)
    assert [list(row) for row in rows["input_ids"]] == naive(TEXT, tokenizer, length)
    assert rows["row"][:] == list(range(len(rows)))
    assert all(mask == [0] + [1] * (len(mask) - 1) for mask in rows["loss_mask"])
    assert rows.features["row"].dtype == "int64"


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=12), length=st.integers(2, 30))
def test_packed_rows_joined_are_the_documents_joined(texts: list[str], length: int) -> None:
    kept = [text for text in texts if text.strip()]
    stream = list(chain.from_iterable([*BPE(text)["input_ids"], BPE.eos_token_id] for text in kept))[:-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if len(stream) < 2:
            with pytest.raises(BadData):
                corpus(texts, BPE, length=length)
            return
        rows = corpus(texts, BPE, length=length)
    joined = list(chain.from_iterable(rows["input_ids"]))
    dropped = len(stream) - len(joined)
    assert joined == stream[: len(joined)] and dropped == int(len(stream) % length == 1)
    assert all(len(ids) == length for ids in rows["input_ids"][:-1])


def test_many_chunks_are_one_corpus() -> None:
    texts = [f"text {number} ends here" for number in range(2500)]
    rows = corpus(texts, BPE, length=50)
    assert list(rows["input_ids"]) == naive(texts, BPE, 50)
    assert rows[0]["source"].startswith("list:1 … list:") and rows[-1]["source"].endswith("list:2500")


def test_a_start_token_that_is_the_end_token_is_not_doubled() -> None:
    tokenizer = byte_bpe(f"{EOS} $A")
    ids = list(chain.from_iterable(corpus(["one", "two"], tokenizer, length=50)["input_ids"]))
    assert ids == tokenizer("one")["input_ids"] + tokenizer("two")["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 2


def test_a_tokenizer_without_special_tokens_packs_text_as_it_is() -> None:
    rows = corpus(TEXT, characters(), length=20)
    assert "".join(rows["text"]) == "".join(TEXT)


def _jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def _files(folder: Path) -> dict[str, Any]:
    records = [{"text": text, "fact": f"f{number}"} for number, text in enumerate(TEXT)]
    found: dict[str, Any] = {"jsonl": _jsonl(folder / "a.jsonl", records), "list": records}
    found["gz"] = folder / "b.jsonl.gz"
    found["gz"].write_bytes(gzip.compress(found["jsonl"].read_bytes(), mtime=0))
    found["json"] = folder / "c.json"
    found["json"].write_text(json.dumps(records))
    found["csv"] = folder / "d.csv"
    with found["csv"].open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["text", "fact"])
        writer.writeheader()
        writer.writerows(records)
    data = datasets.Dataset.from_list(records)
    found["parquet"] = folder / "e.parquet"
    data.to_parquet(str(found["parquet"]))
    found["dataset"], found["dict"] = data, datasets.DatasetDict(train=data)
    found["stream"] = data.to_iterable_dataset()
    found["frame"] = data.to_pandas()
    found["generator"] = (record for record in records)
    found["saved"] = folder / "saved"
    data.save_to_disk(str(found["saved"]))
    return found


@pytest.mark.parametrize("pack", [True, False])
def test_every_origin_gives_the_same_rows(tmp_path: Path, pack: bool) -> None:
    for name, source in _files(tmp_path).items():
        source = str(source) if name == "jsonl" else source
        rows = corpus(source, model(), length=60, pack=pack)
        expected = corpus(TEXT, BPE, length=60, pack=pack)
        assert list(rows["input_ids"]) == list(expected["input_ids"]), name
        assert list(rows["text"]) == list(expected["text"]), name
        if not pack:
            assert list(rows["fact"]) == ["f0", "f1", "f2"], name
            assert list(rows["text"]) == TEXT


def test_a_text_file_is_one_document_packed_and_paragraphs_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"one two\r\nthree\r\n\r\n \t\n\nfour five\n")
    packed = corpus(path, BPE, length=5)
    assert "".join(packed["text"]) == "one two\nthree\n\n \t\n\nfour five\n"
    assert set(packed["source"]) == {"book.txt"}
    single = corpus(path, BPE, pack=False)
    assert list(single["text"]) == ["one two\nthree", "four five\n"]
    assert list(single["source"]) == ["book.txt:1", "book.txt:2"]


def test_a_column_named_otherwise_and_the_data_s_own_source() -> None:
    data = [{"body": text, "source": "shelf", "year": 1900 + k} for k, text in enumerate(TEXT)]
    rows = corpus(data, BPE, pack=False, text_column="body")
    assert set(rows["source"]) == {"shelf"} and list(rows["year"]) == [1900, 1901, 1902]
    assert "body" not in rows.column_names
    assert set(corpus(data, BPE, text_column="body")["source"]) == {"shelf"}


def test_limit_reads_no_further_than_needed() -> None:
    def endless() -> Any:
        while True:
            yield TEXT[0]

    assert len(corpus(endless(), BPE, length=16, limit=40)) == 40
    assert len(corpus(endless(), BPE, pack=False, limit=3)) == 3
    whole = corpus(TEXT, BPE, length=8)
    assert corpus(TEXT, BPE, length=8, limit=3)[:] == whole[:3]


def test_cut_and_blank_documents_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="2 of 3 documents of list are longer than 30 tokens and were cut"):
        rows = corpus([TEXT[2], TEXT[2], "short"], BPE, length=30, pack=False)
    assert [len(ids) for ids in rows["input_ids"]][:2] == [30, 30]
    with pytest.warns(UserWarning, match="2 of 3 documents of list are blank"):
        assert len(corpus([TEXT[0], " \n", ""], BPE, pack=False)) == 1


def test_tokenised_rows_are_kept_and_padding_is_cut_off() -> None:
    data = datasets.Dataset.from_dict(
        {
            "input_ids": [[5, 6, 7, 8], [5, 6, 0, 0], [0, 9, 8, 7]],
            "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]],
            "labels": [[5, -100, 7, 8], [5, 6, -100, -100], [-100, 9, 8, 7]],
            "row": [30, 10, 20],
            "fact": ["a", "b", "c"],
        }
    )
    rows = corpus(data, model())
    assert list(rows["input_ids"]) == [[5, 6, 7, 8], [5, 6], [9, 8, 7]]
    assert list(rows["loss_mask"]) == [[0, 0, 1, 1], [0, 1], [0, 1, 1]]
    assert list(rows["row"]) == [30, 10, 20] and list(rows["fact"]) == ["a", "b", "c"]
    again = corpus(rows, model())
    assert again[:] == rows[:]
    without = corpus(data.select_columns(["input_ids"]), model(tokenizer=None))
    assert "text" not in without.column_names and len(without) == 3


def test_hub_names_reach_load_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(name: str, config: str | None = None, **options: Any) -> Any:
        asked.append((name, config, options))
        if name == "no/such":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'no/such' doesn't exist on the Hub")
        return datasets.Dataset.from_dict({"text": TEXT})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(corpus("owner/name:part", BPE, split="test", pack=False)) == 3
    corpus("owner/name", BPE, limit=1)
    assert asked[0] == ("owner/name", "part", {"split": "test", "streaming": False})
    assert asked[1] == ("owner/name", None, {"split": "train", "streaming": True})
    with pytest.raises(BadData, match="no/such.*no file or folder here.*doesn't exist"):
        corpus("no/such", BPE)


def _written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"abc\nd\xff\xfee", r"a\.txt is not valid UTF-8: byte 0xff at byte offset 5"),
        ("a.jsonl", b'{"text": "x y"}\n{"text": "\xc3("}\n', r"byte 0xc3 at byte offset 26"),
        ("a.jsonl", b'{"text": "one two"}\n\n{"text": oops}\n', r"a\.jsonl, line 3 is not valid JSON"),
        (
            "a.jsonl",
            b'{"text": "one two"}\n{"body": "x"}\n',
            r"line 2 has no column 'text'; its columns are: body",
        ),
        ("a.jsonl", b'{"text": "one two"}\n[1]\n', r"line 2 is a list; expected a string or a mapping"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1 is JSON nested too deeply"),
        ("a.jsonl", b'{"text": 17}\n', r"line 1 is a int where a text is expected"),
        ("a.jsonl", b'{"text": "a \\ud800 b"}\n', r"line 1 is no valid text: character 2"),
        ("a.json", b'{"text": "one"', r"line 1 is not valid JSON"),
        ("a.csv", b"body,n\nx,1\n", r"row 1 has no column 'text'; its columns are: body, n"),
        ("a.csv", b"text,n\nx,1,2\n", r"not a readable CSV"),
        ("a.csv", b"", r"not a readable CSV"),
        ("a.parquet", b"PAR1 not really", r"not a readable Parquet"),
        ("a.jsonl.gz", b"\x1f\x8b broken", r"damaged gzip"),
        ("a.txt.gz", gzip.compress(b"some text " * 99, mtime=0)[:-30], r"damaged gzip"),
        ("a.bin", b"x", r"ends in '.bin'; readable are .txt"),
        ("a.txt", b"", r"0 token\(s\) of text in all"),
        ("a.txt", b" \n\n ", r"0 token\(s\) of text in all"),
        ("a.txt", b"a", r"1 token\(s\) of text in all"),
        ("a.jsonl", b"\n\n", r"a\.jsonl holds no documents"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*are blank")
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(BadData, match=message):
        corpus(_written(tmp_path, name, content), BPE)


def test_replacing_invalid_bytes_is_a_choice(tmp_path: Path) -> None:
    path = _written(tmp_path, "a.jsonl", b'{"text": "ab\xff cd"}\n')
    assert corpus(path, BPE, errors="replace")[0]["text"] == "ab\ufffd cd"
    assert corpus(path, BPE, errors="ignore")[0]["text"] == "ab cd"
    with pytest.raises(ValueError, match="errors='loose' is unknown"):
        corpus(path, BPE, errors="loose")


def test_missing_and_unreadable_sources() -> None:
    for name in ("./nowhere.txt", "nowhere.jsonl", "/no/such/folder", "nowhere.csv.gz"):
        with pytest.raises(FileNotFoundError, match="there is no file or folder"):
            corpus(name, BPE)
    with pytest.raises(BadData, match="put it in a list"):
        corpus("first line\nsecond line", BPE)
    with pytest.raises(BadData, match="empty string"):
        corpus("", BPE)
    with pytest.raises(BadData, match="holds no documents"):
        corpus([], BPE)
    with pytest.raises(TypeError, match="cannot be a int"):
        corpus(7, BPE)
    with pytest.raises(BadData, match="no split 'train'; it has: test"):
        corpus(datasets.DatasetDict(test=datasets.Dataset.from_dict({"text": TEXT})), BPE)
    with pytest.raises(BadData, match="no column 'text'; its columns are: body"):
        corpus(datasets.Dataset.from_dict({"body": TEXT}), BPE)
    with pytest.raises(BadData, match="list, document 2 is a float"):
        corpus(["a b", 2.5], BPE)


def test_rows_that_the_model_cannot_take() -> None:
    with pytest.raises(BadData, match=r"token ids 300 occur, but the model's embedding has 300 rows"):
        corpus(datasets.Dataset.from_dict({"input_ids": [[1, 2, 300]]}), model(vocab=300, tokenizer=None))
    with pytest.raises(BadData, match=r"tokenizer has 40 tokens with ids from 300 to 339, .* only 300 rows"):
        corpus(TEXT, model(vocab=300))
    with pytest.raises(BadData, match="length=65 is more than the model's context of 64"):
        corpus(TEXT, model(), length=65)
    with pytest.raises(BadData, match="longer than the model's context of 64 tokens.*row 1 with 70"):
        corpus(datasets.Dataset.from_dict({"input_ids": [[1] * 70]}), model())
    with pytest.raises(BadData, match="fewer than two tokens.*list:2"):
        corpus(["one two", "a"], BPE, pack=False)
    with pytest.raises(ValueError, match="length is 1"):
        corpus(TEXT, BPE, length=1)
    with pytest.raises(TypeError, match="expected an LM"):
        corpus(TEXT, object())
    with pytest.raises(BadData, match="loaded without a tokenizer"):
        corpus(TEXT, model(tokenizer=None), length=8)


def test_an_added_token_beyond_the_embedding_matters_only_where_it_occurs() -> None:
    tokenizer = byte_bpe()
    tokenizer.add_tokens(["<extra>"])
    lm = model(vocab=340, tokenizer=tokenizer)
    assert len(corpus(TEXT, lm, length=32)) > 1
    with pytest.raises(BadData, match="token ids 340 occur"):
        corpus([*TEXT, "with <extra> in it"], lm, length=32)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"loss_mask": [[1, 1, 1]]}, "nothing predicts a first token"),
        ({"loss_mask": [[0, 1]]}, "3 input_ids but 2 values in loss_mask"),
        ({"loss_mask": [[0, 0, 0]]}, "has no scored token"),
        ({"attention_mask": [[1, 0, 1]]}, "zeros between ones"),
        ({"row": ["x"]}, "must hold an integer"),
    ],
)
def test_bad_tokenised_rows_are_named(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(BadData, match=message):
        corpus(datasets.Dataset.from_dict({"input_ids": [[4, 5, 6]], **columns}), BPE)


def test_ids_used_twice_are_refused() -> None:
    with pytest.raises(BadData, match="id 3 more than once"):
        corpus(datasets.Dataset.from_dict({"input_ids": [[4, 5], [6, 7]], "row": [3, 3]}), BPE)


def test_columns_of_mixed_types_are_named() -> None:
    with pytest.raises(BadData, match="column 'n' have no common type"):
        corpus([{"text": "one two", "n": 1}, {"text": "one two", "n": "x"}], BPE, pack=False)


def test_rows_survive_parquet(tmp_path: Path) -> None:
    rows = corpus(TEXT, BPE, length=16)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    again = corpus(tmp_path / "rows.parquet", BPE)
    assert again[:] == rows[:]
    assert np.array_equal(np.array(again["row"]), np.arange(len(rows)))
