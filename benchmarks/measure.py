"""One tool in a process of its own: `python measure.py TOOL FOLDER`, run by speed.py and agreement.py.

Reads FOLDER/job.json; writes FOLDER/TOOL.json (times, peak memory) or FOLDER/TOOL.safetensors (scores by module).
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jobs import Job, Stages, plain_pass, seconds

TOOLS = ("ours", "kronfluence", "bergson")
GROWING = ("covariances", "lambda", "scores")
MISSING = 3  # exit status: this tool is not installed here


def open_tool(name: str, job: Job, folder: Path, per_module: bool = False) -> Stages:
    """The stages of a tool by name; exits with MISSING where its package is not installed."""
    try:
        module = importlib.import_module(f"tools.with_{name}")
    except ModuleNotFoundError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(MISSING) from error
    return module.open_tool(job, folder, per_module)


def peak(device: str) -> float:
    """Highest memory so far, in MiB: resident memory of the process, or memory allocated on the accelerator."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return torch.cuda.max_memory_allocated() / 2**20


def resident(device: str) -> float:
    """Memory in use now, in MiB."""
    if device != "cpu":
        return torch.cuda.memory_allocated() / 2**20
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() / 2**20


def times(job: Job, stages: Stages, repeats: int) -> dict[str, list[float]]:
    """Seconds of every stage and of a plain pass before each that grows with the rows; the first round is warm-up."""
    plain = plain_pass(job)
    found: dict[str, list[float]] = {"plain": [], **{name: [] for name in stages}}
    for repeat in range(repeats + 1):
        steps: list[tuple[str, Callable[[], Any]]] = []
        for name, call in stages.items():
            steps += ([("plain", plain)] if name in GROWING else []) + [(name, call)]
        for name, call in steps:
            gc.collect()
            spent = seconds(call, job.device)
            if repeat:
                found[name].append(spent)
    return found


def memory(job: Job, stages: Stages) -> dict[str, Any]:
    """Peak of all stages once, in MiB, how far that is above what the open model took, and the peak up to each."""
    gc.collect()
    before = resident(job.device)
    reached = {}
    for name, call in stages.items():
        call()
        reached[name] = peak(job.device)
    return {"peak": peak(job.device), "above_start": peak(job.device) - before, "up_to": reached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--what", choices=("times", "memory", "scores"), default="times")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    job = Job.read(given.folder / "job.json")
    with tempfile.TemporaryDirectory() as scratch:
        stages = open_tool(given.tool, job, Path(scratch), per_module=given.what == "scores")
        if given.what == "scores":
            save_scores(given.folder / f"{given.tool}.safetensors", stages)
            return
        found = times(job, stages, given.repeats) if given.what == "times" else memory(job, stages)
    (given.folder / f"{given.tool}.json").write_text(json.dumps({"torch": torch.__version__, given.what: found}))


def save_scores(path: Path, stages: Stages) -> None:
    from safetensors.torch import save_file

    for call in stages.values():
        result = call()
    save_file({name: score.double().contiguous() for name, score in result.items()}, path)


if __name__ == "__main__":
    main()
