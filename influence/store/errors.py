"""What can be wrong with a run's directory, each as a type, and how a disk's refusal becomes one of them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (
    *_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO,
)  # fmt: skip


class StoreError(Exception):
    """Something about a run's directory; the message says what came, what was expected and what to do."""


class OtherSettings(StoreError, ValueError):
    """The directory holds a run that was asked for something else."""


class NotARun(StoreError, ValueError):
    """The directory is no run, or its manifest cannot be trusted."""


class Busy(StoreError):
    """Another process holds the run."""


class WriteFailed(StoreError, OSError):
    """The directory cannot be written: full, read-only, not a directory, not ours."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a disk's refusal while `path` is written into WriteFailed; anything else passes through."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        code = _refusal(error, path)
        if code is None:
            raise
        advice = "free some space" if code in _FULL else "give a directory that can be written"
        failed = WriteFailed(f"cannot write {path}: {os.strerror(code)}; {advice}; finished pieces are kept")
        failed.errno = code
        raise failed from error


def _refusal(error: Exception, path: Path) -> int | None:
    """The errno of a write that the disk refused, or None for an error of another kind."""
    if not isinstance(error, OSError):
        told = re.search(r"os error (\d+)", str(error))  # how writers built in Rust say it
        return int(told[1]) if told else None
    gone = error.errno == errno.ENOENT and str(error.filename or "").startswith(str(path.parent))
    return error.errno if error.errno in _REFUSED or gone else None
