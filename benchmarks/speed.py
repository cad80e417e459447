"""How long each stage takes, as a ratio to a plain forward and backward, beside kronfluence and bergson.

    python benchmarks/speed.py [--peer-python PATH] [--device cuda] [--covariance-rows 1 0.25] [--json PATH]

Every tool runs in a process of its own on one thread, and measures the plain float32 pass (with weight gradients, over
the same rows) before each of its stages, several times over; a ratio is a median over a median of the same process.
Tools take turns, `--rounds` times. Times are process times on the CPU and synchronised wall times on a GPU, without
loading, and for the peers without writing their files where that can be told apart. `total` is covariances + lambda +
scores, what grows with the rows; the eigendecomposition and the queries' gradients, which do not, stand beside it.
Peak memory comes from another run without the plain pass: of the process, and above what the open model took.
Covariances on a share of the rows, and bfloat16, are faster and not exact: the last table says how far the scores move
on a model after some training.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from fidelity import fidelity, show
from jobs import Job
from launch import run_tool

TOOLS = ("ours", "kronfluence", "bergson")
COUNTED = ("covariances", "lambda", "scores")
SHOWN = (*COUNTED, "total", "eigenvectors", "queries")
Found = dict[str, Any]


def measure(jobs: dict[str, tuple[str, str, Job]], rounds: int, repeats: int) -> dict[str, Found]:
    """Seconds by name and stage, pooled over the rounds, and the peak memory. `jobs`: name -> (tool, Python, job)."""
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            for name, (tool, python, job) in jobs.items():
                print(f"{job.dtype}: {name}, round {number + 1} of {rounds}", file=sys.stderr)
                read = one_run(Path(scratch), tool, python, job, "--repeats", str(repeats))
                if read is None:
                    continue
                one = found.setdefault(name, {"torch": read["torch"], "seconds": {}})
                for stage, values in read["times"].items():
                    one["seconds"].setdefault(stage, []).extend(values)
        for name, one in found.items():
            read = one_run(Path(scratch), *jobs[name], "--what", "memory")
            one["memory"] = read["memory"] if read else {}
            one["ratios"] = ratios(one["seconds"])
    return found


def one_run(folder: Path, tool: str, python: str, job: Job, *options: str) -> Found | None:
    """What one process measured; None where the tool is not installed."""
    job.save(folder / "job.json")
    if not run_tool(python, tool, folder, *options):
        return None
    return json.loads((folder / f"{tool}.json").read_text())


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median of every stage over the median of the plain pass, and the sum of the three that grow with the rows."""
    unit = statistics.median(seconds["plain"])
    found = {stage: statistics.median(values) / unit for stage, values in seconds.items() if stage != "plain"}
    return found | {"total": sum(found[stage] for stage in COUNTED)}


def table(results: dict[str, dict[str, Found]]) -> str:
    """One line per type and tool."""
    head = (
        f"{'':10}{'':13}" + "".join(f"{name:>13}" for name in SHOWN) + f"{'plain, s':>11}{'peak, MiB':>11}{'above':>8}"
    )
    lines = [head]
    for dtype, tools in results.items():
        for tool, one in tools.items():
            values = "".join(f"{one['ratios'][name]:13.2f}" for name in SHOWN)
            plain = statistics.median(one["seconds"]["plain"])
            memory = f"{one['memory']['peak']:11.0f}{one['memory']['above_start']:8.0f}"
            lines.append(f"{dtype:10}{tool:18}{values}{plain:11.2f}{memory}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has kronfluence and bergson")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=1, help="how often each tool gets a turn")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of every stage in one turn")
    parser.add_argument("--covariance-rows", nargs="+", type=float, default=(1.0, 0.25), help="shares; ours only")
    parser.add_argument("--fidelity", type=int, default=128, help="rows for the error of the scores; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="write every measurement here as well")
    for field in fields(Job):
        if field.type == "int":
            parser.add_argument(f"--{field.name}", type=int, default=field.default)
    return parser.parse_args()


def variants(given: argparse.Namespace, dtype: str, sizes: dict[str, int]) -> dict[str, tuple[str, str, Job]]:
    """Name -> (tool, Python, job): ours once for every share of rows, and the peers."""
    jobs = {}
    for tool in given.tools:
        job = Job(**sizes, dtype=dtype, device=given.device)
        if tool != "ours":
            jobs[tool] = (tool, given.peer_python, job)
            continue
        for share in given.covariance_rows:
            name = "ours" if share == 1 else f"ours, {share:g} rows"
            jobs[name] = (tool, sys.executable, replace(job, share=share))
    return jobs


def main() -> None:
    given = arguments()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda was asked for, but torch sees no GPU here; leave it out to measure the CPU")
    torch.set_num_threads(1)
    sizes = {field.name: getattr(given, field.name) for field in fields(Job) if field.type == "int"}
    job = Job(**sizes, device=given.device)
    report: Found = {"job": asdict(job), "machine": {"processor": platform.machine(), "gpu": gpu(given.device)}}
    report["results"] = {
        dtype: measure(variants(given, dtype, sizes), given.rounds, given.repeats) for dtype in given.dtypes
    }
    print(f"{job.rows} rows of {job.length} tokens, batch {job.batch}, {job.queries} queries, {given.device}")
    print("each stage over a plain float32 forward and backward over the same rows\n")
    print(table(report["results"]))
    if given.fidelity and "ours" in given.tools:
        report["fidelity"] = fidelity(replace(job, rows=given.fidelity), given.dtypes, given.covariance_rows)
        print(f"\nscores on {given.fidelity} rows against float32 with covariances on all of them\n")
        print(show(report["fidelity"]))
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


def gpu(device: str) -> str | None:
    return torch.cuda.get_device_name() if device == "cuda" else None


if __name__ == "__main__":
    main()
