"""A run's directory: atomic, resumable, verified results. Begin with `open_run`; read with `read_manifest`."""

from influence.store.errors import Busy, NotARun, OtherSettings, StoreError, WriteFailed
from influence.store.manifest import read_log, read_manifest
from influence.store.run import Run, open_run

__all__ = [
    "Busy",
    "NotARun",
    "OtherSettings",
    "Run",
    "StoreError",
    "WriteFailed",
    "open_run",
    "read_log",
    "read_manifest",
]
