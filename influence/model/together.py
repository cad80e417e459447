"""Train several models at a time, each in a process of its own with its own few threads.

`python -m influence.model.together settings.json` is one such process: it trains what the file says and tells its
progress, and in the end its outcome, as JSON lines on its output. It stops when nobody reads them any more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from influence.model.batches import columns
from influence.model.plan import TokenRows
from influence.store.errors import Busy, OtherSettings, WriteFailed

if TYPE_CHECKING:
    from influence.model.train import Trained
    from influence.types import Rows

_RAISED = (OtherSettings, WriteFailed, Busy, ValueError, FloatingPointError, OSError, MemoryError)


class Job(NamedTuple):
    """One training: its folder, the model's configuration, and keyword settings of `influence.model.train.train`."""

    folder: Path
    config: Any
    options: dict[str, Any]
    rows: Any = None


def train_together(
    jobs: Sequence[Job],
    rows: Rows,
    tokenizer: str | Path | None = None,
    *,
    at_once: int = 2,
    threads: int = 1,
    progress: bool = True,
) -> list[Trained]:
    """Train `jobs`, `at_once` of them at a time in processes with `threads` threads each; finished ones are recognised.

    `rows` are for jobs that have none of their own, `tokenizer` is a folder. An interrupted call goes on when it is
    given again. Raises what `train` raises, after stopping the other processes; ValueError for settings out of range.
    """
    if at_once < 1 or threads < 1:
        raise ValueError(f"at_once and threads must be at least 1; got {at_once=}, {threads=}.")
    running: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(at_once) as pool:
        try:
            waiting = [
                pool.submit(
                    _one, job, rows, tokenizer, threads, Path(scratch) / str(k), k if progress else None, running
                )
                for k, job in enumerate(jobs)
            ]
            return [one.result() for one in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            raise


def _one(
    job: Job,
    rows: Rows,
    tokenizer: str | Path | None,
    threads: int,
    scratch: Path,
    place: int | None,
    running: list[subprocess.Popen[str]],
) -> Trained:
    from influence.model.train import trained_already

    own = rows if job.rows is None else job.rows
    own = own if isinstance(own, TokenRows) else TokenRows(*columns(own))
    done = trained_already(job.folder, job.config, own, tokenizer, **job.options)
    if done is not None:
        return done
    scratch.mkdir()
    _write_rows(own, scratch / "rows.safetensors")
    config = job.config if isinstance(job.config, dict) else job.config.to_dict()
    asked = {"folder": str(job.folder), "config": config, "options": job.options, "threads": threads}
    asked |= {"rows": str(scratch / "rows.safetensors"), "tokenizer": None if tokenizer is None else str(tokenizer)}
    (scratch / "settings.json").write_text(json.dumps(asked))
    outcome = _watch(_start(scratch, threads, running), scratch, Path(job.folder).name, place)
    return _trained(outcome, job)


def _start(scratch: Path, threads: int, running: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    home = str(Path(__file__).parents[2])
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    with (scratch / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "influence.model.together", str(scratch / "settings.json")],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    running.append(process)
    return process


def _watch(process: subprocess.Popen[str], scratch: Path, name: str, place: int | None) -> dict[str, Any]:
    """Show the progress of a process until it ends; its outcome."""
    from tqdm.auto import tqdm

    outcome: dict[str, Any] = {}
    assert process.stdout is not None
    with process, tqdm(desc=f"training {name}", position=place, disable=place is None, unit="step") as bar:
        for line in process.stdout:
            told = json.loads(line)
            outcome = told if "step" not in told else outcome
            if "step" in told:
                bar.total = told["steps"]
                bar.set_postfix(loss=f"{told['loss']:.2f}", refresh=False)
                bar.update(told["step"] - bar.n)
    if not outcome:
        tail = (scratch / "errors.txt").read_text()[-2000:]
        raise RuntimeError(f"the process that trained {name} ended with status {process.returncode}:\n{tail}")
    return outcome


def _trained(outcome: dict[str, Any], job: Job) -> Trained:
    from influence.model.checkpoint import step_folder
    from influence.model.train import Trained

    if "error" in outcome:
        kinds = {kind.__name__: kind for kind in _RAISED}
        raise kinds.get(outcome["error"], ValueError)(outcome["message"])
    folder = Path(job.folder)
    return Trained(
        folder, folder / "final", {step: step_folder(folder, step) for step in outcome["kept"]}, outcome["losses"]
    )


def _write_rows(rows: TokenRows, path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(
        {
            "ids": np.concatenate(rows.ids).astype(np.int32),
            "masks": np.concatenate(rows.masks).astype(np.int8),
            "lengths": np.array([len(ids) for ids in rows.ids], np.int64),
            "row": rows.row,
        },
        path,
    )


def _read_rows(path: Path) -> TokenRows:
    from safetensors.numpy import load_file

    found = load_file(path)
    cuts = np.cumsum(found["lengths"])[:-1]
    return TokenRows(np.split(found["ids"], cuts), np.split(found["masks"], cuts), found["row"])


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _tell(done: int, steps: int, loss: float) -> None:
    if done % 10 == 0 or done == steps:
        _say({"step": done, "steps": steps, "loss": loss})


def main(settings: str) -> int:
    """Train what the JSON file `settings` says: folder, config, rows, tokenizer, threads, options."""
    import torch

    from influence.model.train import train

    asked = json.loads(Path(settings).read_text())
    torch.set_num_threads(asked["threads"])
    rows = _read_rows(Path(asked["rows"]))
    options = {**asked["options"], "progress": _tell}
    try:
        done = train(asked["folder"], asked["config"], rows, asked["tokenizer"], **options)
    except BrokenPipeError:
        return 1
    except _RAISED as error:
        _say({"error": type(error).__name__, "message": str(error)})
        return 1
    _say({"kept": list(done.checkpoints), "losses": done.losses})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
