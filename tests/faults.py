"""Counts every call that changes a disk and lets one of them kill the process or fail, to test what survives."""

import builtins
import contextlib
import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from influence.store import Run, open_run

SETTINGS = {"model": "tiny", "length": 8, "damping": 0.1}
NAMES = ("fsync", "replace", "mkdir", "unlink")


@contextlib.contextmanager
def counted(action: Callable[[int, str], None]) -> Iterator[None]:
    """Call `action(n, "before" | "after")` around the n-th open for writing, fsync, rename, mkdir and unlink."""
    count = -1

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            here = count
            action(here, "before")
            try:
                return original(*args, **kwargs)
            finally:
                action(here, "after")

        return call

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        real = wrapped(plain_open) if set(mode) & set("wxa") else plain_open
        return real(file, mode, *args, **kwargs)

    plain_open = builtins.open
    saved = {name: getattr(os, name) for name in NAMES}
    try:
        builtins.open = opening
        for name in NAMES:
            setattr(os, name, wrapped(saved[name]))
        yield
    finally:
        builtins.open = plain_open
        for name, value in saved.items():
            setattr(os, name, value)


def killing(point: int, side: str) -> Callable[[int, str], None]:
    def action(here: int, when: str) -> None:
        if (here, when) == (point, side):
            os.kill(os.getpid(), signal.SIGKILL)

    return action


def refusing(point: int, lasting: bool, code: int = errno.ENOSPC) -> Callable[[int, str], None]:
    def action(here: int, when: str) -> None:
        if when == "before" and (here == point or (lasting and here > point)):
            raise OSError(code, os.strerror(code))

    return action


def job(root: Path) -> None:
    """A small run as the commands make them: a file, a directory of files, a table rewritten, notes."""

    def folder(path: Path) -> None:
        path.mkdir()
        for k in range(2):
            with open(path / f"c{k}", "wb") as file:
                file.write(bytes([k]) * 1000)

    def ensure(run: Run, name: str, writer: Callable[[Path], object]) -> None:
        if run.piece(name) is None:
            run.write(name, writer)

    with open_run(root, SETTINGS) as run:
        run.log("job", "start")
        run.identify(rows="abc")
        ensure(run, "factors/ekfac.safetensors", lambda p: p.write_bytes(b"f" * 5000))
        run.note(n_rows=3)
        ensure(run, "scores.zarr", folder)
        run.write("tables/top.parquet", lambda p: p.write_bytes(b"t" * 100))
        run.log("job", "done")


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a run but those that hold times and process numbers."""
    skip = ("log.jsonl", ".lock")
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name not in skip]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork; what os.waitpid says about its end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def kill_everywhere(folder: Path, step: int = 1) -> dict[str, Any]:
    """Kill the job before and after every `step`-th counted call, run it again, compare with an undisturbed run."""
    seen: list[int] = []
    with counted(lambda n, when: seen.append(n)):
        job(folder / "whole")
    whole, points, wrong = contents(folder / "whole"), max(seen) + 1, []
    for point in range(0, points, step):
        for side in ("before", "after"):
            root = folder / f"{side}{point}"

            with counted(killing(point, side)):
                status = in_child(lambda root=root: job(root))  # type: ignore[misc]
            again = in_child(lambda root=root: job(root))  # type: ignore[misc]
            if not os.WIFSIGNALED(status) or again or contents(root) != whole:
                wrong.append(f"{side} call {point}: {status}, {again}")
            shutil.rmtree(root, ignore_errors=True)
    return {"points": points, "wrong": wrong}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(kill_everywhere(Path(sys.argv[1]), int(sys.argv[2]))))
