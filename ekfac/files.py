"""Factors on disk: one safetensors file, its tensors checked by SHA-256, written under a temporary name and renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ekfac.factors import Factor, Factors

FORMAT = "ekfac-factors-1"
PARTS = ("basis_in", "basis_out", "eigenvalues", "values_in", "values_out")


class DamagedFactors(ValueError):
    """A factor file that is truncated, altered or of another kind."""


def save(fitted: Factors, path: str | Path) -> Path:
    """Write factors to one file.

    Raises:
        OSError: where the folder cannot be written; an older file of that name stays as it was.
    """
    path = Path(path)
    tensors = {
        f"{name}/{part}": getattr(one, part).detach().cpu().contiguous()
        for name, one in fitted.items()
        for part in PARTS
        if getattr(one, part) is not None
    }
    record = {
        "format": FORMAT,
        "how": fitted.how,
        "blocks": {name: {"count": one.count, "positions": one.positions} for name, one in fitted.items()},
        "sha256": checksum(tensors),
    }
    data = to_bytes(tensors, {"factors": json.dumps(record)})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return path


def load(path: str | Path, device: torch.device | str = "cpu") -> Factors:
    """Read factors and check every byte of them.

    Raises:
        FileNotFoundError: where there is no such file.
        DamagedFactors: where it is truncated, altered, or not a factor file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no factor file {path}; fit one with influence.fit_ekfac and save it there")
    try:
        with safe_open(str(path), "pt") as file:
            record = json.loads((file.metadata() or {}).get("factors", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, json.JSONDecodeError, OSError, ValueError) as error:
        raise DamagedFactors(f"{path} cannot be read as factors ({error}); delete it and fit again") from error
    if record.get("format") != FORMAT:
        raise DamagedFactors(f"{path} is not a factor file of this library; expected format {FORMAT}")
    if checksum(tensors) != record["sha256"]:
        raise DamagedFactors(f"{path} does not have the checksum it was written with; delete it and fit again")
    return Factors(
        {name: _factor(name, extra, tensors, device) for name, extra in record["blocks"].items()},
        record["how"],
    )


def _factor(name: str, extra: dict[str, Any], tensors: dict[str, Tensor], device: torch.device | str) -> Factor:
    found = {part: tensors.get(f"{name}/{part}") for part in PARTS}
    parts = {part: None if value is None else value.to(device) for part, value in found.items()}
    return Factor(count=extra["count"], positions=extra["positions"], **parts)  # type: ignore[arg-type]


def checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.ndim else value.numpy().tobytes())
    return digest.hexdigest()
