"""Bergson's stages (2.5: K-FAC with eigenvalue correction), on a model in memory, without its disk index."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from bergson import CollectorComputer, GradientProcessor, IndexConfig, InMemoryCollector, Scorer
from bergson.config.config import HessianConfig, InversionConfig
from bergson.hessians.eigenvectors import eigendecompose_owned
from bergson.hessians.hessian_approximations import collect_hessians
from bergson.hessians.preconditioner import FactoredPreconditioner
from bergson.score.score_writer import InMemorySequenceScoreWriter
from datasets import Dataset
from jobs import Job, Stages, Tokens, data, network
from safetensors.torch import load_file
from torch import Tensor

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float64": "fp64"}


def _dataset(rows: Tokens) -> Dataset:
    lengths = rows.lengths.tolist()
    ids = [row[:length] for row, length in zip(rows.ids.tolist(), lengths, strict=True)]
    labels = [row[:length] for row, length in zip(rows.labels.tolist(), lengths, strict=True)]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": lengths})


def _groups(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


class Bergson:
    """State between the stages."""

    def __init__(self, job: Job, folder: Path):
        for logger in ("CollectorComputer", "HookCollectorBase"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        self.job, self.path = job, str(folder / "bergson")
        self.net = network(job).requires_grad_(False)
        self.net.get_input_embeddings().requires_grad_(True)
        rows, queries = data(job)
        self.rows, self.queries = _dataset(rows), _dataset(queries)
        self.index = IndexConfig(run_path=self.path, include_bias=True)
        self.index.partial_run_path.mkdir(parents=True, exist_ok=True)
        self.hessian = HessianConfig(
            method="kfac",
            ev_correction=True,
            hessian_dtype=PRECISIONS[job.dtype],
            use_dataset_labels=job.labels == "data",
        )

    def _fit(self, **more: Any) -> Any:
        return collect_hessians(
            self.net,
            self.rows,
            self.index,
            batches=_groups(self.job.rows, self.job.batch),
            hessian_cfg=self.hessian,
            path=self.path,
            **more,
        )

    def covariances(self) -> None:
        collector = self._fit()
        self.counts = dict(collector.num_positions)
        self.sums = {"A": dict(collector.A_cov_dict), "G": dict(collector.S_cov_dict)}
        self.shapes = {"A": collector.A_shapes, "G": collector.S_shapes}

    def eigenvectors(self) -> None:
        self.basis = {
            side: eigendecompose_owned(
                dict(self.sums[side]),
                self.shapes[side],
                None,
                1,
                f"{self.path}/{side}",
                self.job.type,
                self.counts,
            )[0]
            for side in ("A", "G")
        }

    def lambdas(self) -> None:
        basis = (dict(self.basis["A"]), dict(self.basis["G"]))
        self._fit(ev_correction=True, num_documents=self.job.rows, eigenvectors=basis)

    def _collect(self, rows: Dataset, size: int, scorer: Scorer | None = None) -> InMemoryCollector:
        collector = InMemoryCollector(
            model=self.net.base_model,
            data=rows,
            cfg=self.index,
            processor=GradientProcessor(include_bias=True),
            scorer=scorer,
        )
        batches = _groups(len(rows), size)
        computer = CollectorComputer(model=self.net, data=rows, collector=collector, batches=batches, cfg=self.index)
        computer.run_with_collector_hooks(desc="gradients")
        return collector

    def queries_solved(self) -> None:
        device = str(self.net.device)
        lambdas = load_file(f"{self.path}/eigenvalue_correction_sharded/shard_0.safetensors", device=device)
        parts = [
            {k: v.to(device).float() for k, v in part.items()} for part in (self.basis["A"], self.basis["G"], lambdas)
        ]
        solver = FactoredPreconditioner(*parts, inversion_cfg=InversionConfig(damping_factor=0.1))
        self.solved = solver.apply(self._collect(self.queries, self.job.queries).gradients)

    def scores(self) -> dict[str, Tensor]:
        """Its sign is ours: loss gradient times loss gradient."""
        dtype = torch.float32 if self.job.dtype == "float64" else self.job.type
        writer = InMemorySequenceScoreWriter(len(self.rows), len(self.queries), dtype=torch.float32)
        scorer = Scorer(self.solved, list(self.solved), writer, torch.device(self.net.device), dtype)
        self._collect(self.rows, self.job.batch, scorer)
        return {"all_modules": torch.as_tensor(writer.scores).T.clone()}


def open_tool(job: Job, folder: Path, per_module: bool = False) -> Stages:
    """Stages of the job; `scores` returns {"all_modules": (q n)}: bergson sums over modules as it goes."""
    del per_module
    tool = Bergson(job, folder)
    return {
        "covariances": tool.covariances,
        "eigenvectors": tool.eigenvectors,
        "lambda": tool.lambdas,
        "queries": tool.queries_solved,
        "scores": tool.scores,
    }
