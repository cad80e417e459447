"""This library's stages: the functions that `influence.fit_ekfac` and `influence.score` are made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from jobs import Job, Stages, Tokens, data, network
from torch import Tensor

import ekfac
import influence
from influence.attribution.fit import fit_covariance, fit_eigenvalues
from influence.attribution.score import contract, solved_queries
from influence.model.loss import log_p, sampled_log_p
from influence.types import Rows


def rows_of(rows: Tokens, first: int = 0) -> Rows:
    """Token rows without padding, with ids from `first` on."""
    lengths = rows.lengths.tolist()
    ids = [row[:length] for row, length in zip(rows.ids.tolist(), lengths, strict=True)]
    masks = [row[:length] for row, length in zip(rows.scored.long().tolist(), lengths, strict=True)]
    return Dataset.from_dict({"input_ids": ids, "loss_mask": masks, "row": range(first, first + len(ids))})


def open_tool(job: Job, folder: Path, per_module: bool = False) -> Stages:
    """Stages of the job; `scores` returns raw scores, {"all_modules": (q n)}, or by module name."""
    del folder
    lm = influence.load(network(job))
    train, queries = data(job)
    rows, asked = rows_of(train), rows_of(queries)
    measure = log_p if job.labels == "data" else sampled_log_p(job.seed)
    shapes = {block.name: block.shape for block in lm.blocks}
    kind = torch.bfloat16 if job.dtype == "bfloat16" else None
    common: dict[str, Any] = {"batch_size": job.batch, "dtype": kind, "progress": False}
    found: dict[str, Any] = {}

    some = rows.select(range(math.ceil(job.share * len(rows))))

    def covariances() -> None:
        found["A"] = fit_covariance(lm, some, measure, **common)

    def eigenvectors() -> None:
        found["Q"] = ekfac.eigenbasis(found.pop("A"), shapes)

    def lambdas() -> None:
        found["L"] = fit_eigenvalues(lm, rows, measure, found["Q"], **common)

    def queries_solved() -> None:
        solver = ekfac.solver(ekfac.factors(found["Q"], found.pop("L")), damping=0.1)
        found["V"] = solved_queries(lm, asked, solver, log_p, **common)[1]

    def scores() -> dict[str, Tensor]:
        result = contract(lm, rows, found["V"], (), **common).array(asked, 1.0, {})
        return {"all_modules": torch.from_numpy(result.values)}

    def scores_by_block() -> dict[str, Tensor]:
        solver = ekfac.solver(ekfac.factors(found["Q"], found["L"]), damping=0.1)
        result = influence.score(lm, rows, asked, solver, per="block", raw=True, **common)
        return {str(name): torch.from_numpy(result.sel(block=name).values) for name in result["block"].values}

    fit = {"covariances": covariances, "eigenvectors": eigenvectors, "lambda": lambdas}
    if per_module:
        return fit | {"scores": scores_by_block}
    return fit | {"queries": queries_solved, "scores": scores}
