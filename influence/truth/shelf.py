"""Finished retrainings in a folder: each written whole, recognised by what it was asked for, checked when read."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from influence.model.checkpoint import claim, only_writer, write_json
from influence.store import disk
from influence.store.errors import writing


class Shelf(NamedTuple):
    """A folder whose `settings.json` says what everything in it has in common."""

    folder: Path

    def numbers(self, name: str) -> list[float] | None:
        """What `put_numbers` kept under `name`, or None: nothing there, or (with a warning) damaged."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text())
            values = [float(value) for value in found["values"]]
            if found["sha256"] != _digest(values):
                raise ValueError("its checksum does not fit")
            return values
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path} is damaged ({error}); it is computed again")
            return None

    def put_numbers(self, name: str, values: list[float]) -> None:
        """Keep finite numbers under `name`."""
        with only_writer(self.folder):
            write_json(self.folder / f"{name}.json", {"values": values, "sha256": _digest(values)})

    def tensors(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """What `put_tensors` kept for `key`, or None: nothing there, or (with a warning) damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self._path(key)
        told = path.with_suffix(".json")
        if not (path.exists() and told.exists()):
            return None
        try:
            if disk.measure(path) != json.loads(told.read_text()):
                raise ValueError("its checksum does not fit")
            return load(path.read_bytes())
        except (OSError, SafetensorError, ValueError) as error:
            warnings.warn(f"{path} is damaged ({error}); it is computed again")
            return None

    def put_tensors(self, key: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors for `key`: one safetensors file, and its checksum written last."""
        from safetensors.torch import save

        path = self._path(key)
        with only_writer(self.folder), writing(path):
            path.with_suffix(".json").unlink(missing_ok=True)
            disk.replace(path, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))
            write_json(path.with_suffix(".json"), disk.measure(path))

    def _path(self, key: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"stack-{digest[:16]}.safetensors"


def open_shelf(folder: str | Path | None, settings: Mapping[str, Any]) -> Shelf | None:
    """The shelf in `folder` (None without one).

    Raises OtherSettings, with the difference, where the folder holds something else, and Busy while it is written.
    """
    if folder is None:
        return None
    with only_writer(Path(folder)):
        claim(Path(folder), settings)
    return Shelf(Path(folder))


def _digest(values: list[float]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
