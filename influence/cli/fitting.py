"""Factors part by part: what is summed stays summed when the process is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from influence.store import Run

if TYPE_CHECKING:
    import torch

    import ekfac
    from influence.types import LM, Rows

ROWS = 16_384  # rows between two savings
State = TypeVar("State")


def fitted(run: Run, lm: LM, rows: Rows, options: dict[str, Any]) -> ekfac.Factors:
    """What `fit_ekfac(lm, rows, **options)` gives, with its sums saved after every part of the rows.

    Sums of parts are added, so the last digits differ from those of one pass; they do not depend on kills.
    """
    import ekfac
    from ekfac import covariance, eigenvalues
    from influence.attribution import fit
    from influence.attribution.passes import compute_dtype, device_of, shapes

    if len(rows) <= ROWS:
        return fit.fit_ekfac(lm, rows, **options)
    measure = fit.measure_of(options["labels"], options["seed"])
    chosen = fit.some_rows(rows, options["covariance_rows"], options["seed"])
    shared = {"batch_size": options["batch_size"], "dtype": compute_dtype(options["dtype"])}
    shared["progress"] = options["progress"]
    device = device_of(lm)

    def covariances(part: Rows) -> covariance.CovarianceState:
        return fit.fit_covariance(lm, part, measure, splits=options["splits"], **shared)

    first = _summed(run, "covariance", chosen, covariances, covariance.merge, covariance.Covariance, device)
    bases = ekfac.eigenbasis(first, shapes(lm))

    def corrected(part: Rows) -> eigenvalues.EigenvaluesState:
        return fit.fit_eigenvalues(lm, part, measure, bases, **shared)

    second = _summed(run, "eigenvalues", rows, corrected, eigenvalues.merge, eigenvalues.Eigenvalues, device)
    return ekfac.factors(bases, second, fit.how(rows, **options))


def _summed(
    run: Run,
    name: str,
    rows: Rows,
    compute: Callable[[Rows], dict[str, State]],
    merge: Callable[[dict[str, State], dict[str, State]], dict[str, State]],
    kind: Callable[..., State],
    device: torch.device,
) -> dict[str, State]:
    """The state of all rows, from the last saved sum on."""
    piece = f"parts/{name}.safetensors"
    path = run.piece(piece)
    done, total = (0, None) if path is None else _read(path, kind, device)
    while done < len(rows):
        stop = min(done + ROWS, len(rows))
        part = compute(rows.select(range(done, stop)))
        total, done = part if total is None else merge(total, part), stop
        run.write(piece, lambda temporary, total=total, done=done: _write(total, done, temporary))  # type: ignore[misc]
        run.log("factors", "part", what=name, rows=done, of=len(rows))
    assert total is not None
    return total


def _write(state: Mapping[str, Any], done: int, path: Path) -> None:
    from safetensors.torch import save_file
    from torch import Tensor

    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name, one in state.items():
        values = {field.name: getattr(one, field.name) for field in fields(one)}
        tensors |= {f"{name}/{key}": value.cpu() for key, value in values.items() if isinstance(value, Tensor)}
        numbers[name] = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
    save_file(tensors, path, {"rows": str(done), "numbers": json.dumps(numbers)})


def _read(path: Path, kind: Callable[..., State], device: torch.device) -> tuple[int, dict[str, State]]:
    from safetensors import safe_open

    with safe_open(str(path), "pt", device=str(device)) as file:
        told = file.metadata()
        found: dict[str, dict[str, Any]] = json.loads(told["numbers"])
        for key in file.keys():  # noqa: SIM118 - not a mapping
            name, _, part = key.rpartition("/")
            found[name][part] = file.get_tensor(key)
    return int(told["rows"]), {name: kind(**values) for name, values in found.items()}
