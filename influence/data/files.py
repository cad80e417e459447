"""Text, JSON, CSV and Parquet files as numbered records; whatever is wrong is named with its line or byte."""

from __future__ import annotations

import gzip
import io
import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

LONGEST_LINE = 1 << 28
"""Bytes of one JSON line; a longer one is refused rather than read into memory."""

Numbered = Iterator[tuple[int, Any]]


class BadData(ValueError):
    """Documents or queries that cannot be read or turned into token rows."""


def records(path: Path, errors: str, paragraphs: bool) -> tuple[str, Numbered]:
    """What the numbers count ("line", "document", "row", …; "file" for a whole text), and (number, record)
    for each.

    A record of a text file is a string, any other what the file holds, mappings as a rule.
    The ending says what the file is: .txt .text .md, .jsonl .ndjson .json, .csv .tsv, .parquet; all but the
    last may be compressed (.gz). Raises BadData for other endings and, while reading, for damaged content.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    ending = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if ending not in FILES or (ending == ".parquet" and suffixes[-1] == ".gz"):
        raise BadData(f"{path} ends in {path.suffix or 'nothing'!r}; readable are {', '.join(FILES)} (.gz)")
    if not path.is_file():
        raise BadData(f"{path} is not a regular file")
    noun, reader = FILES[ending]
    noun = "file" if reader is _text and not paragraphs else noun
    return noun, reader(path, errors, paragraphs)


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _bytes(path: Path) -> bytes:
    try:
        with _open(path) as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadData(f"{path} is a damaged gzip file: {error}") from error


def decode(raw: bytes, path: Path, errors: str, offset: int = 0) -> str:
    """UTF-8 without its byte order mark; `offset` is where `raw` begins in the (unpacked) file."""
    try:
        text = raw.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise BadData(
            f"{path} is not valid UTF-8: byte 0x{raw[error.start]:02x} at byte offset {offset + error.start} "
            f"({error.reason}); convert the file, or pass errors='replace' to read such bytes as U+FFFD"
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def _text(path: Path, errors: str, paragraphs: bool) -> Numbered:
    text = decode(_bytes(path), path, errors).replace("\r\n", "\n")
    pieces = re.split(r"\n(?:[^\S\n]*\n)+", text) if paragraphs else [text]
    yield from enumerate(pieces, 1)


def _json(path: Path, errors: str, paragraphs: bool) -> Numbered:
    """An array of records, or else one record per line."""
    with _open(path) as file:
        try:
            head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise BadData(f"{path} is a damaged gzip file: {error}") from error
    if not head.startswith(b"["):
        yield from _json_lines(path, errors, paragraphs)
        return
    yield from enumerate(_parse(decode(_bytes(path), path, errors), str(path)), 1)


def _json_lines(path: Path, errors: str, paragraphs: bool) -> Numbered:
    offset = 0
    with _open(path) as file:
        for number, raw in enumerate(iter(lambda: _line(file, path), b""), 1):
            text = decode(raw, path, errors, offset)
            offset += len(raw)
            if text.strip():
                yield number, _parse(text, f"{path}, line {number}")


def _line(file: IO[bytes], path: Path) -> bytes:
    try:
        raw = file.readline(LONGEST_LINE)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadData(f"{path} is a damaged gzip file: {error}") from error
    if len(raw) == LONGEST_LINE:
        raise BadData(f"{path} has a line of more than {LONGEST_LINE} bytes; expected one JSON record per line")
    return raw


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise BadData(f"{where} is JSON nested too deeply to be a record") from error
    except ValueError as error:
        raise BadData(f"{where} is not valid JSON: {error}; it begins {text.strip()[:60]!r}") from error


def _csv(path: Path, errors: str, paragraphs: bool) -> Numbered:
    import pandas as pd

    separator = "\t" if ".tsv" in path.name.lower() else ","
    text = io.StringIO(decode(_bytes(path), path, errors), newline="")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # every field as it is written: "007" stays, and a text "NA" is no missing value
            frame = pd.read_csv(text, sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning) as error:
        raise BadData(f"{path} is not a readable CSV file with a header line: {error}") from error
    return enumerate(frame.to_dict("records"), 1)


def _parquet(path: Path, errors: str, paragraphs: bool) -> Numbered:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(1000):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except pa.ArrowException as error:
        raise BadData(f"{path} is not a readable Parquet file: {error}") from error


FILES: dict[str, tuple[str, Callable[[Path, str, bool], Numbered]]] = {
    ".txt": ("document", _text),
    ".text": ("document", _text),
    ".md": ("document", _text),
    ".jsonl": ("line", _json_lines),
    ".ndjson": ("line", _json_lines),
    ".json": ("record", _json),
    ".csv": ("row", _csv),
    ".tsv": ("row", _csv),
    ".parquet": ("row", _parquet),
}
