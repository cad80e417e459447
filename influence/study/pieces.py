"""Finished parts of a study on disk: folders of small tables, whole or absent, checked when they are read."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from influence.store import disk
from influence.store.errors import StoreError, writing

SUMS = "checksums.json"


def slug(number: int, name: str) -> str:
    """A folder's name for the concept `name`, the `number`-th of a study; it cannot lead anywhere else."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:60]
    return f"{number:03d}-{plain or 'concept'}"


def save(folder: Path, frames: Mapping[str, pd.DataFrame], about: Mapping[str, Any] | None = None) -> None:
    """Write frames as parquet with checksums and a `about.json`. Raises WriteFailed where the disk refuses."""

    def writer(place: Path) -> None:
        place.mkdir()
        for name, frame in frames.items():
            frame.to_parquet(place / f"{name}.parquet", index=False)
        (place / "about.json").write_text(json.dumps(dict(about or {}), sort_keys=True))
        sums = {path.name: disk.measure(path)["sha256"] for path in sorted(place.iterdir())}
        (place / SUMS).write_text(json.dumps(sums, sort_keys=True))

    with writing(folder):
        disk.make(folder, writer)


def whole(folder: Path) -> bool:
    """Whether the piece is there and its bytes are what was written; damage is told, and the piece is made again."""
    if not folder.is_dir():
        return False
    try:
        expected = json.loads((folder / SUMS).read_text())
        for name, digest in expected.items():
            if disk.measure(disk.inside(folder, name))["sha256"] != digest:
                raise ValueError(f"{name} is not what was saved")
        return True
    except (OSError, ValueError, TypeError, AttributeError, StoreError) as error:
        warnings.warn(f"the part of a study in {folder} is damaged ({error}); it is measured again", stacklevel=2)
        return False


def frames(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a piece by name."""
    return {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def about(folder: Path) -> dict[str, Any]:
    """What was saved beside the tables."""
    found: dict[str, Any] = json.loads((folder / "about.json").read_text())
    return found
