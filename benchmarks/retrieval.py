"""Retrieval of planted facts on worlds that nothing was tuned on, also along the training run.

    python benchmarks/retrieval.py [--seeds 1 2 3] [--size d128] [--out DIR] [--json PATH]

Per seed another world, tokenizer and model; up to 60 facts that it recalls in the held-out phrasing. Mean reciprocal
rank of the rows that state the fact, with intervals over queries, by EK-FAC of the final model, by its sum over
log-spaced checkpoints (`influence.predictive`), and by gradient cosine. Trainings are kept in DIR.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import ekfac
import influence
from influence.analysis.retrieval import retrieval_by_query, retrieval_difference
from influence.attribution.rank import ranked_values
from influence.attribution.trajectory import spaced
from influence.data.tokenizer import world_tokenizer
from influence.data.world import world, world_queries, world_rows
from influence.model.recall import recall
from influence.model.sizes import SIZES, neox
from influence.model.together import Job, train_together
from influence.types import Rows, Scores

BATCH = 64


def methods(model: Any, rows: Rows, queries: Rows, count: int) -> dict[str, Scores]:
    """Rankings (query, row) by name, the first the recommended one."""
    options = {"batch_size": BATCH, "progress": False}
    lm = influence.load(model.final)
    factors = influence.fit_ekfac(lm, rows, **options)
    scores = influence.score(lm, rows, queries, ekfac.solver(factors, 0.1), per="sequence", row_norm=True, **options)
    plain = ekfac.solver(ekfac.identity({block.name: block.shape for block in lm.blocks}), 0.0)
    products = influence.score(lm, rows, queries, plain, per="sequence", row_norm=True, **options)
    chosen = [model.checkpoints[step] for step in spaced(model.checkpoints, count)]
    return {
        "EK-FAC, normalised": ranked_values(scores, normalize="row"),
        "EK-FAC, nats": ranked_values(scores),
        "gradient cosine": ranked_values(products, normalize="row"),
        f"predictive over {len(chosen)}, normalised": influence.predictive(
            chosen, rows, queries, normalize="row", **options
        ),
        f"predictive over {len(chosen)}": influence.predictive(chosen, rows, queries, **options),
    }


def one_seed(seed: int, size: str, out: Path, most: int, count: int) -> pd.DataFrame:
    drawn = world(seed)
    folder = out / f"seed{seed}"
    tokenizer = world_tokenizer(drawn, folder / "tokenizer")
    rows = world_rows(drawn, tokenizer)
    job = Job(folder / size, neox(size, len(tokenizer)), {"seed": seed, **SIZES[size].options})
    (model,) = train_together([job], rows, folder / "tokenizer", progress=True)
    lm = influence.load(model.final)
    questions = world_queries(drawn, lm)
    known = np.flatnonzero(recall(lm, questions))
    queries = questions.select(np.sort(np.random.default_rng(seed).permutation(known)[:most]))
    relevant = np.stack([np.isin(np.asarray(rows["row"]), wanted) for wanted in queries["relevant"]])
    lines, first = [], None
    for name, scores in methods(model, rows, queries, count).items():
        each = retrieval_by_query(scores, relevant, rows=rows)
        first = each if first is None else first
        lead = retrieval_difference(first, each, seed=seed).set_index("metric").loc["mrr"]
        lines.append(
            {"seed": seed, "method": name, "queries": len(queries), "recalled": len(known), "mrr": each["mrr"].mean(),
             "lead": lead["difference"], "lead low": lead["low"], "lead high": lead["high"]}
        )  # fmt: skip
    return pd.DataFrame(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--size", default="d128", choices=list(SIZES))
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/retrieval"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    tables = []
    for seed in asked.seeds:
        tables.append(one_seed(seed, asked.size, asked.out, asked.queries, asked.checkpoints))
        print(tables[-1].round(3).to_string(index=False), flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(pd.concat(tables).to_dict("records"), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
