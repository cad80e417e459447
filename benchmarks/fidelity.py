"""What bfloat16 and covariances on fewer rows cost: scores of every variant against float32 on all rows."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs import Job, train
from launch import run_tool

STEPS = 40  # of training before the scores are taken


def fidelity(job: Job, dtypes: Sequence[str], shares: Sequence[float]) -> dict[str, dict[str, float]]:
    """By variant: Spearman's correlation over the rows (mean and smallest over the queries), and the relative error."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train(job, folder / "net.safetensors", STEPS)
        job = replace(job, weights=str(folder / "net.safetensors"))
        reference = scores(replace(job, dtype="float32", share=1.0), folder)
        found = {}
        for dtype in dtypes:
            for share in shares:
                if (dtype, share) == ("float32", 1.0):
                    continue
                found[label(dtype, share)] = compare(reference, scores(replace(job, dtype=dtype, share=share), folder))
    return found


def label(dtype: str, share: float) -> str:
    return f"{dtype}, covariances on {share:.0%} of the rows"


def scores(job: Job, folder: Path) -> Any:
    from safetensors.torch import load_file

    print(f"scores in {label(job.dtype, job.share)}", file=sys.stderr)
    job.save(folder / "job.json")
    run_tool(sys.executable, "ours", folder, "--what", "scores")
    return sum(load_file(folder / "ours.safetensors").values())


def compare(reference: Any, other: Any) -> dict[str, float]:
    from scipy.stats import spearmanr

    pairs = list(zip(reference.numpy(), other.numpy(), strict=True))
    ranks = [float(spearmanr(*pair).statistic) for pair in pairs]
    return {
        "rank_correlation": sum(ranks) / len(ranks),
        "smallest": min(ranks),
        "relative_error": float((reference - other).norm() / reference.norm()),
    }


def show(found: dict[str, dict[str, float]]) -> str:
    lines = [f"{'':44}{'rank correlation':>18}{'smallest':>11}{'relative error':>16}"]
    for name, one in found.items():
        lines.append(f"{name:44}{one['rank_correlation']:18.4f}{one['smallest']:11.4f}{one['relative_error']:16.2e}")
    return "\n".join(lines)
