"""Scores part by part: what is scored stays scored when the process is killed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from influence.store import Run

if TYPE_CHECKING:
    import xarray

    from ekfac import EKFACSolver
    from influence.types import LM, Rows, Scores, Solver

ROWS = 4096  # rows between two savings; more with many queries, whose gradients every part takes anew
CHUNK = 65_536
COORDS = ("row", "row_norm", "query", "measurement", "layer")


def scored(
    run: Run, lm: LM, rows: Rows, queries: Rows, solver: Solver, norms: EKFACSolver, options: dict[str, Any]
) -> Scores:
    """All scores (query, row, layer) with row norms by `norms`, each part read back or computed and saved."""
    import xarray

    from influence.attribution.score import score

    size = max(ROWS, 32 * len(queries))
    starts = range(0, len(rows), size)
    found = []
    for number, start in enumerate(starts):
        name = _name(number)
        path = run.piece(name)
        if path is None:
            some = rows.select(range(start, min(start + size, len(rows))))
            part = score(lm, some, queries, solver, per="layer", row_norm=norms, n=len(rows), **options)
            if len(starts) > 1:
                run.write(name, lambda temporary, part=part: _save(part, temporary))  # type: ignore[misc]
                run.log("scores", "part", number=number, of=len(starts))
        else:
            part = _load(path)
        found.append(part)
    return xarray.concat(found, "row", combine_attrs="override") if len(found) > 1 else found[0]


def forget(run: Run, *starts: str) -> None:
    """Drop the parts whose names start so, once the whole is there."""
    for name in run.manifest["pieces"]:
        if name.startswith(starts):
            run.drop(name)
    with contextlib.suppress(OSError):  # not empty yet, or not there
        (run.root / "parts").rmdir()


def to_zarr(scores: Scores, path: Path) -> None:
    """A zarr group with the variable `score`; the same scores give the same bytes."""
    q, n, width = scores.shape
    chunks = (min(q, 1), min(n, CHUNK), width)
    scores.to_dataset(name="score").to_zarr(
        path, mode="w", consolidated=False, zarr_format=3, encoding={"score": {"chunks": chunks}}
    )


def from_zarr(path: Path) -> Scores:
    """Scores as `to_zarr` wrote them, in memory."""
    import xarray

    with xarray.open_zarr(path, consolidated=False, chunks=None) as group:
        found: xarray.DataArray = group["score"].load()
    return found


def _name(number: int) -> str:
    return f"parts/scores-{number:05d}.safetensors"


def _save(part: Scores, path: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(part[name].values) for name in COORDS}
    save_file({"score": np.ascontiguousarray(part.values), **arrays}, path, {"attrs": json.dumps(part.attrs)})


def _load(path: Path) -> Scores:
    import xarray
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in ("score", *COORDS)}
        attrs = json.loads(file.metadata()["attrs"])
    along = {"row_norm": "row", "measurement": "query"}
    coords = {name: (along.get(name, name), arrays[name]) for name in COORDS}
    return xarray.DataArray(arrays["score"], coords, ("query", "row", "layer"), name="score", attrs=attrs)
