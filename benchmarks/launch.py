"""Start measure.py for one tool in one Python, one thread, seeing a GPU only where it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from jobs import Job

HERE = Path(__file__).resolve().parent
MISSING = 3


def run_tool(python: str, tool: str, folder: Path, *options: str) -> bool:
    """Run one tool to its end; False where it is not installed, its log is shown where it fails.

    Raises:
        SystemExit: where the tool fails.
    """
    job = Job.read(folder / "job.json")
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    if job.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [python, str(HERE / "measure.py"), tool, str(folder), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == MISSING:
        print(f"{tool}: not installed in {Path(python).name}, left out", file=sys.stderr)
        return False
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        raise SystemExit(f"{tool} failed with status {done.returncode}; its log is above")
    return True
