"""Do three programs agree? One deterministic case, per block against kronfluence, by rank against bergson.

    python benchmarks/agreement.py [--peer-python PATH] [--json PATH]

The case: a GPT-NeoX of two layers in float64, rows of different lengths with prompts that are not scored, labels
from the data (the empirical Fisher). The conversions:

scale      ours is ∇f·(G + λI)⁻¹·∇log p in nats after division by n, G a mean over sequences of the outer products of
           gradients of summed losses. Kronfluence divides its sums of squares by the number of sequences as well and
           leaves 1/n out, so `raw=True` is compared: ours = n × nats.
sign       kronfluence takes the gradient of a training row's LOSS, ours of its log p: ours = −theirs, for f = log p on
           both sides. Bergson takes the loss on both sides, so its sign is ours.
damping    kronfluence's `damping_factor=None` and bergson's `damping_factor=0.1` are 0.1 × the mean of Λ per module,
           our damping=0.1.
positions  covariances count the positions before a row's last scored token: kronfluence's attention mask. (It masks
           inputs only; output gradients are zero elsewhere already.) Bergson counts all positions but each row's last,
           the same wherever the last token is scored, as here.
biases     kronfluence always appends the constant 1; bergson with `include_bias=True`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs import Job, data, network
from launch import run_tool

CASE = Job(
    layers=2, width=16, heads=2, vocab=61, length=24, rows=96, batch=8, queries=6, ragged=True,
    labels="data", dtype="float64",
)  # fmt: skip
TOLERANCE = 1e-9


def compare(folder: Path) -> dict[str, Any]:
    """Largest relative difference per block with kronfluence, rank correlation and difference with bergson."""
    from safetensors.torch import load_file

    ours = load_file(folder / "ours.safetensors")
    total = sum(ours.values())
    report: dict[str, Any] = {"case": asdict(CASE)}
    if (folder / "kronfluence.safetensors").exists():
        theirs = load_file(folder / "kronfluence.safetensors")
        if set(theirs) != set(ours):
            raise SystemExit(f"different modules: {sorted(set(theirs) ^ set(ours))}")
        report["kronfluence"] = {name: relative(ours[name], -theirs[name]) for name in ours}
        report["kronfluence_rank"] = rank_correlation(total, -sum(theirs.values()))
    if (folder / "bergson.safetensors").exists():
        theirs = load_file(folder / "bergson.safetensors")["all_modules"]
        report["bergson"] = relative(total, theirs)
        report["bergson_rank"] = rank_correlation(total, theirs)
    return report


def relative(ours: Any, theirs: Any) -> float:
    """Largest difference over the largest score."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def rank_correlation(ours: Any, theirs: Any) -> float:
    """Spearman's correlation over the rows, smallest over the queries."""
    from scipy.stats import spearmanr

    pairs = zip(ours.numpy(), theirs.numpy(), strict=True)
    return min(float(spearmanr(mine, other).statistic) for mine, other in pairs)


def show(report: dict[str, Any]) -> bool:
    """Print the comparison; True where every block agrees."""
    agreed = True
    if "kronfluence" in report:
        print(f"{'block':48} largest relative difference to kronfluence")
        for name, difference in report["kronfluence"].items():
            fine = difference <= TOLERANCE
            agreed &= fine
            print(f"{name:48} {difference:.1e}{'' if fine else f'   above {TOLERANCE:g}'}")
        print(f"rank correlation with kronfluence, smallest over queries: {report['kronfluence_rank']:.6f}")
    else:
        agreed = False
        print("kronfluence is not installed here: pip install 'influence[peers]', or give --peer-python")
    if "bergson" in report:
        print(f"rank correlation with bergson, smallest over queries: {report['bergson_rank']:.6f}")
        print(f"largest relative difference to bergson (it solves in float32): {report['bergson']:.1e}")
    else:
        print("bergson is not installed here")
    return agreed


def record(folder: Path, path: Path) -> None:
    """Keep the case and kronfluence's scores in one small file, from which the test suite checks agreement."""
    from safetensors.torch import load_file, save_file

    rows, queries = data(CASE)
    kept = {f"weights/{name}": value.float() for name, value in network(CASE).state_dict().items()}
    for name, part in (("rows", rows), ("queries", queries)):
        kept |= {f"{name}/ids": part.ids, f"{name}/scored": part.scored, f"{name}/lengths": part.lengths}
    kept |= {f"scores/{name}": value for name, value in load_file(folder / "kronfluence.safetensors").items()}
    save_file({name: value.contiguous() for name, value in kept.items()}, path, {"peer": "kronfluence 1.0.1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has kronfluence and bergson")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--record", type=Path, help="keep the case and kronfluence's scores for the test suite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        CASE.save(folder / "job.json")
        for tool, python in (
            ("ours", sys.executable),
            ("kronfluence", given.peer_python),
            ("bergson", given.peer_python),
        ):
            run_tool(python, tool, folder, "--what", "scores")
        report = compare(folder)
        if given.record:
            record(folder, given.record)
    agreed = show(report)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))
    raise SystemExit(0 if agreed else 1)


if __name__ == "__main__":
    main()
