"""Kronfluence's stages, called below its disk layer so that writing files is not counted against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jobs import Job, Stages, Tokens, data, network, summed_loss
from kronfluence import FactorArguments, ScoreArguments, Task, prepare_model
from kronfluence.factor.covariance import fit_covariance_matrices_with_loader
from kronfluence.factor.eigen import fit_lambda_matrices_with_loader, perform_eigendecomposition
from kronfluence.module.tracked_module import ModuleMode
from kronfluence.module.utils import (
    accumulate_iterations,
    prepare_modules,
    set_factors,
    set_mode,
    update_factor_args,
    update_score_args,
)
from kronfluence.score.dot_product import compute_dot_products_with_loader
from kronfluence.utils.state import State
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Batch = list[Tensor]


class LanguageTask(Task):
    """Summed loss for training rows, log p for queries."""

    def __init__(self, modules: list[str]):
        self.modules = modules

    def compute_train_loss(self, batch: Batch, model: nn.Module, sample: bool = False) -> Tensor:
        ids, labels, _ = batch
        if not sample:
            return summed_loss(model, ids, labels)
        logits = model(ids).logits[:, :-1]
        flat = logits.reshape(-1, logits.shape[-1])
        with torch.no_grad():
            drawn = torch.multinomial(flat.softmax(-1), 1).flatten()
            drawn[labels[:, 1:].reshape(-1) < 0] = -100
        return nn.functional.cross_entropy(flat, drawn, reduction="sum", ignore_index=-100)

    def compute_measurement(self, batch: Batch, model: nn.Module) -> Tensor:
        return -summed_loss(model, batch[0], batch[1])

    def get_influence_tracked_modules(self) -> list[str]:
        return self.modules

    def get_attention_mask(self, batch: Batch) -> Tensor:
        return batch[2]


def _loader(rows: Tokens, batch: int) -> DataLoader:
    return DataLoader(TensorDataset(rows.ids, rows.labels, rows.counted), batch_size=batch)


def _arguments(job: Job, per_module: bool) -> tuple[FactorArguments, ScoreArguments]:
    """Its low-precision presets for bfloat16; damping None = 0.1 × mean eigenvalue per module."""
    amp = job.type if job.dtype == "bfloat16" else None
    factor = FactorArguments(use_empirical_fisher=job.labels == "data", amp_dtype=amp)
    score = ScoreArguments(damping_factor=None, amp_dtype=amp, compute_per_module_scores=per_module)
    for name in (
        "activation_covariance_dtype",
        "gradient_covariance_dtype",
        "per_sample_gradient_dtype",
        "lambda_dtype",
    ):
        setattr(factor, name, job.type)
    for name in ("per_sample_gradient_dtype", "precondition_dtype", "score_dtype"):
        setattr(score, name, job.type)
    return factor, score


def open_tool(job: Job, folder: Path, per_module: bool = False) -> Stages:
    """Stages of the job; `scores` returns {"all_modules": (q n)}, or by module name where `per_module`."""
    del folder
    net = network(job)
    modules = [n for n, m in net.named_modules() if isinstance(m, nn.Linear) and ".layers." in n]
    task = LanguageTask(modules)
    net = prepare_model(net, task).to(job.device)
    state = State(cpu=job.device == "cpu")
    factor_args, score_args = _arguments(job, per_module)
    rows, queries = data(job)
    common: dict[str, Any] = {"model": net, "state": state, "factor_args": factor_args, "disable_tqdm": True}
    found: dict[str, Any] = {}

    def covariances() -> None:
        _, found["A"] = fit_covariance_matrices_with_loader(task=task, loader=_loader(rows, job.batch), **common)

    def eigenvectors() -> None:
        found["Q"] = perform_eigendecomposition(covariance_factors=found.pop("A"), **common)

    def lambdas() -> None:
        loader = _loader(rows, job.batch)
        _, found["L"] = fit_lambda_matrices_with_loader(task=task, loader=loader, eigen_factors=found["Q"], **common)

    def queries_solved() -> None:
        one = next(iter(_loader(queries, job.queries)))
        solve_queries(net, task, one, found["Q"] | found["L"], factor_args, score_args, state)

    def scores() -> dict[str, Tensor]:
        return compute_dot_products_with_loader(
            task=task,
            train_loader=_loader(rows, job.batch),
            score_args=score_args,
            tracked_module_names=modules,
            scaler=torch.amp.GradScaler(state.device.type, enabled=False),
            **common,
        )

    return {
        "covariances": covariances,
        "eigenvectors": eigenvectors,
        "lambda": lambdas,
        "queries": queries_solved,
        "scores": scores,
    }


def solve_queries(
    net: nn.Module,
    task: LanguageTask,
    batch: Batch,
    factors: dict[str, Any],
    factor_args: FactorArguments,
    score_args: ScoreArguments,
    state: State,
) -> None:
    """The query half of its `compute_pairwise_scores_with_loaders`, in the same order, for one batch of queries."""
    update_factor_args(model=net, factor_args=factor_args)
    update_score_args(model=net, score_args=score_args)
    mode = ModuleMode.PRECONDITION_GRADIENT
    set_mode(model=net, mode=mode, tracked_module_names=task.modules, release_memory=True)
    for name, factor in factors.items():
        set_factors(model=net, factor_name=name, factors=factor, clone=True)
    prepare_modules(model=net, tracked_module_names=task.modules, device=state.device)
    batch = [part.to(state.device) for part in batch]
    with torch.autocast(state.device.type, enabled=score_args.amp_dtype is not None, dtype=score_args.amp_dtype):
        measurement = task.compute_measurement(batch, net)
    measurement.backward()
    accumulate_iterations(model=net, tracked_module_names=task.modules)
