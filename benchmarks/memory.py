"""Highest resident memory of this process while something runs, over what it held before."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Peak:
    """`mib` above the start, known after the block."""

    mib = 0.0


@contextmanager
def peak_over(every: float = 0.01) -> Iterator[Peak]:
    """Sampled every `every` seconds by a thread; freed memory that the allocator keeps counts as held before."""
    found, done = Peak(), threading.Event()
    start = _resident()

    def watch() -> None:
        while not done.wait(every):
            found.mib = max(found.mib, _resident() - start)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
