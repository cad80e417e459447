"""Where documents come from: files, hub names, folders, datasets, lists; read as columns in small chunks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from influence.data.files import FILES, BadData, records

if TYPE_CHECKING:
    import datasets

    Source: TypeAlias = (
        str | os.PathLike[str] | datasets.Dataset | Iterable[str] | Iterable[Mapping[str, Any]] | Mapping[str, Any]
    )

CHUNK = 1000


class Chunk(NamedTuple):
    """Up to `CHUNK` documents: their numbers in the source, counted from 1, and their columns."""

    number: list[int]
    columns: dict[str, list[Any]]


class Documents(NamedTuple):
    """A source opened for one reading; `noun` says what `Chunk.number` counts: "line", "document", …"""

    name: str
    noun: str
    chunks: Iterator[Chunk]


def read(
    source: Source,
    needs: Sequence[str],
    *,
    split: str = "train",
    errors: str = "strict",
    paragraphs: bool = False,
    stream: bool = False,
) -> Documents:
    """Open `source`, whose documents must have the columns `needs` or else `input_ids`.

    A string or path is a file, a local dataset folder, or (where nothing of that name exists here) a dataset
    of the Hugging Face hub, "owner/name" or "owner/name:configuration". Otherwise a `datasets.Dataset`, a
    data frame, one mapping, or an iterable of strings (the only one of `needs`) or of mappings. `paragraphs`
    cuts text files at blank lines; `stream` reads a hub dataset without downloading all of it.

    Raises:
        BadData: for what cannot be read, naming the file and the line, byte or column.
        FileNotFoundError: for a missing file.
    """
    if errors not in ("strict", "replace", "ignore"):
        raise ValueError(f"errors={errors!r} is unknown; choose 'strict', 'replace' or 'ignore'")
    if isinstance(source, str | os.PathLike):
        return _named(os.fspath(source), needs, split, errors, paragraphs, stream)
    if isinstance(source, Mapping) and not _is_dataset(source):
        source = [source]
    if _is_dataset(source):
        return _dataset(_split(source, split, "the dataset"), "dataset", needs)
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        source = source.to_dict("records")
    if not isinstance(source, Iterable):
        raise TypeError(
            f"a source of documents cannot be a {type(source).__name__}; give a path, a hub name, a "
            "datasets.Dataset, a list of strings or a list of dicts"
        )
    return Documents("list", "document", _chunks(enumerate(source, 1), "the list", "document", needs))


def _named(name: str, needs: Sequence[str], split: str, errors: str, paragraphs: bool, stream: bool) -> Documents:
    if not name.strip():
        raise BadData("an empty string names no file and no dataset; to pass texts themselves, give a list of strings")
    if "\n" in name:
        raise BadData("a string names a file or a hub dataset; to pass the text itself, put it in a list: [text]")
    path = Path(name).expanduser()
    if path.is_dir():
        return _dataset(_folder(path, split), path.name, needs)
    if path.exists():
        noun, found = records(path, errors, paragraphs)
        return Documents(path.name, noun, _chunks(found, str(path), noun, needs))
    if _looks_like_a_path(name):
        raise FileNotFoundError(f"there is no file or folder {name!r} (looked for {path.absolute()})")
    return _dataset(_hub(name, split, stream), name, needs)


def _looks_like_a_path(name: str) -> bool:
    suffixes = [suffix for ending in FILES for suffix in (ending, ending + ".gz")]
    return name[0] in "./~" or name.count("/") > 1 or "\\" in name or name.lower().endswith(tuple(suffixes))


def _folder(path: Path, split: str) -> datasets.Dataset:
    import datasets

    try:
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return _split(datasets.load_from_disk(str(path)), split, str(path))
        return datasets.load_dataset(str(path), split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise BadData(f"the folder {path} could not be read as a dataset (split {split!r}): {error}") from error


def _hub(name: str, split: str, stream: bool) -> datasets.Dataset:
    import datasets

    owner, _, configuration = name.partition(":")
    try:
        return datasets.load_dataset(owner, configuration or None, split=split, streaming=stream)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise BadData(
            f"{name!r} is no file or folder here, and as a dataset of the hub (split {split!r}) it could "
            f"not be loaded: {error}"
        ) from error


def _is_dataset(source: object) -> bool:
    import datasets

    kinds = (datasets.Dataset, datasets.IterableDataset, datasets.DatasetDict, datasets.IterableDatasetDict)
    return isinstance(source, kinds)


def _split(source: Any, split: str, name: str) -> Any:
    if not isinstance(source, Mapping):
        return source
    if split not in source:
        raise BadData(f"{name} has no split {split!r}; it has: {', '.join(map(str, source))}")
    return source[split]


def _dataset(data: Any, name: str, needs: Sequence[str]) -> Documents:
    """Whole columns at a time: reading element by element is hundreds of times slower."""
    if data.column_names is not None:
        _check_columns(data.column_names, name, needs)

    def chunks() -> Iterator[Chunk]:
        start = 1
        for columns in data.with_format(None).iter(batch_size=CHUNK):
            _check_columns(columns, name, needs)
            size = len(next(iter(columns.values())))
            yield Chunk(list(range(start, start + size)), columns)
            start += size

    return Documents(name, "row", chunks())


def _check_columns(columns: Iterable[str], where: str, needs: Sequence[str]) -> None:
    columns = list(columns)
    missing = [name for name in needs if name not in columns]
    if missing and "input_ids" not in columns:
        raise BadData(
            f"{where} has no column {', '.join(map(repr, missing))}; its columns are: {', '.join(columns) or 'none'}"
        )


def _chunks(found: Iterable[tuple[int, Any]], where: str, noun: str, needs: Sequence[str]) -> Iterator[Chunk]:
    """Gather (number, string or mapping) into chunks; a column that some documents lack is None there."""
    numbers: list[int] = []
    gathered: list[Mapping[str, Any]] = []
    for number, one in found:
        gathered.append(_as_record(one, f"{where}, {noun} {number}", needs))
        numbers.append(number)
        if len(numbers) == CHUNK:
            yield Chunk(numbers, _columns(gathered))
            numbers, gathered = [], []
    if numbers:
        yield Chunk(numbers, _columns(gathered))


def _as_record(one: Any, where: str, needs: Sequence[str]) -> Mapping[str, Any]:
    if isinstance(one, str) and len(needs) == 1:
        return {needs[0]: one}
    if not isinstance(one, Mapping):
        expected = "a string or a mapping" if len(needs) == 1 else "a mapping"
        raise BadData(f"{where} is a {type(one).__name__}; expected {expected} with {', '.join(map(repr, needs))}")
    _check_columns([str(name) for name in one], where, needs)
    return one


def _columns(gathered: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for record in gathered for name in record)
    return {name: [record.get(name) for record in gathered] for name in names}
