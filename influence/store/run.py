"""A run's directory: every piece whole or absent, checksummed, verified when read, so that a killed run goes on.

A piece (a file, or a directory such as a zarr store) is written under a temporary name beside its place, synced,
hashed and renamed; it counts only once `manifest.json`, replaced atomically and last, says so. Pieces named in the
manifest whose bytes differ from their checksum are named in a warning and taken as absent. One process at a time
holds a run; the operating system gives the lock back when that process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from influence.store import disk
from influence.store.errors import NotARun, OtherSettings, StoreError, writing
from influence.store.manifest import README, agreed, as_json, difference


def open_run(path: str | os.PathLike[str], settings: dict[str, Any] | None) -> Run:
    """Open the run at `path` for writing, or begin it there; use it in a `with` statement.

    `settings` (JSON-able) is what was asked: each must be as the run has it, and those it does not have yet (of a
    later stage) are added. None takes a run that exists, with the settings it has.
    Raises OtherSettings with the differences, NotARun, Busy or WriteFailed.
    """
    root = Path(path).expanduser()
    if settings is None and not (root / "manifest.json").is_file():
        raise NotARun(f"{root} holds no run (no manifest.json there); give the directory of a run")
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        root = root.resolve()
        foreign = [p.name for p in root.iterdir() if p.name not in disk.OWN and not p.name.endswith(disk.TEMPORARY)]
        if foreign and not (root / "manifest.json").exists():
            raise NotARun(
                f"{root} is not empty and holds no run (it has {', '.join(sorted(foreign)[:3])}); "
                "give a new or empty directory"
            )
        lock = disk.lock(root / ".lock")
    try:
        return Run(root, agreed(root, settings), lock)
    except BaseException:
        lock.close()
        raise


class Run:
    """A run's directory, held by this process until `close` or the end of the `with` block."""

    def __init__(self, root: Path, manifest: dict[str, Any], lock: BinaryIO) -> None:
        self.root = root
        self._manifest: dict[str, Any] = {}
        self._lock = lock
        self._whole: set[str] = set()
        with writing(root):
            disk.sweep(root)
            disk.end_last_line(root / "log.jsonl")
            if not (root / "README.md").exists():
                disk.replace(root / "README.md", README.encode())
        self._commit(manifest)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.root)!r}, {len(self._manifest['pieces'])} pieces)"

    def close(self) -> None:
        """Let other processes have the run."""
        self._lock.close()

    @property
    def manifest(self) -> dict[str, Any]:
        """A copy of what `manifest.json` says."""
        return json.loads(json.dumps(self._manifest))

    def piece(self, name: str) -> Path | None:
        """The path of a finished piece whose bytes match their checksum, or None: then it is to be computed."""
        path = disk.inside(self.root, name)
        wanted = self._manifest["pieces"].get(name)
        if wanted is None or name in self._whole:
            return path if wanted else None
        try:
            found: dict[str, Any] | None = disk.measure(path)
        except (OSError, StoreError):
            found = None
        if found == wanted:
            self._whole.add(name)
            return path
        what = "cannot be read" if found is None else f"has {found['bytes']} bytes, {found['sha256'][:12]}…"
        text = f"{name} {what}; expected {wanted['bytes']} bytes, {wanted['sha256'][:12]}…; computing it again"
        warnings.warn(f"damaged piece in {self.root}: {text}", stacklevel=2)
        self.log("store", "damaged", piece=name, found=what)
        return None

    def write(self, name: str, writer: Callable[[Path], object]) -> Path:
        """Have `writer(temporary path)` make a file or a directory, and take it in as the piece `name`.

        Raises WriteFailed when the disk refuses; whatever `writer` raises passes through. In both cases earlier
        pieces stay as they were and no temporary file is left.
        """
        path = disk.inside(self.root, name)
        temporary = disk.beside(path)
        try:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                disk.remove(temporary)
                writer(temporary)
                for part in disk.parts(temporary):
                    disk.sync(part)
                found = disk.measure(temporary)
                self.drop(name)
                disk.remove(path)
                os.replace(temporary, path)
                disk.sync(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                for left in [temporary, *path.parent.glob(f".*{temporary.name}*")]:
                    disk.remove(left)
            raise
        self._commit({**self._manifest, "pieces": {**self._manifest["pieces"], name: found}})
        self._whole.add(name)
        return path

    def drop(self, name: str) -> None:
        """Forget a piece and remove its file; nothing happens where it is not there."""
        if name in self._manifest["pieces"]:
            left = {k: v for k, v in self._manifest["pieces"].items() if k != name}
            self._commit({**self._manifest, "pieces": left})
        self._whole.discard(name)
        with writing(self.root / name):
            disk.remove(disk.inside(self.root, name))

    def note(self, **facts: Any) -> None:
        """Add numbers or words (JSON-able, finite) to the manifest's facts."""
        self._commit({**self._manifest, "facts": {**self._manifest["facts"], **facts}})

    def describe(self, **sections: Any) -> None:
        """Set whole sections of the manifest, such as `versions` or `tracked`."""
        taken = {"settings", "pieces", "hashes", "format"} & set(sections)
        if taken:
            raise ValueError(f"the manifest's {', '.join(sorted(taken))} cannot be set by hand")
        self._commit({**self._manifest, **sections})

    def warn(self, *texts: str) -> None:
        """Add warnings in words to the manifest, each once."""
        said = self._manifest["warnings"]
        self._commit({**self._manifest, "warnings": [*said, *(t for t in dict.fromkeys(texts) if t not in said)]})

    def identify(self, **hashes: str) -> None:
        """Record what model, tokenizer, rows and queries are by hash; refuse where the run knew others."""
        known = self._manifest["hashes"]
        changed = {k: (known[k], v) for k, v in hashes.items() if k in known and known[k] != v}
        if changed:
            raise OtherSettings(difference(self.root, changed, "was made from"))
        self._commit({**self._manifest, "hashes": {**known, **hashes}})

    def log(self, stage: str, event: str, **numbers: Any) -> None:
        """Append one line with the time of now to `log.jsonl`."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "stage": stage, "event": event, **numbers}, default=str)
        with writing(self.root / "log.jsonl"), open(self.root / "log.jsonl", "ab") as file:
            file.write(line.encode() + b"\n")

    def _commit(self, manifest: dict[str, Any]) -> None:
        data = as_json(manifest)
        if manifest != self._manifest:
            with writing(self.root):
                disk.replace(self.root / "manifest.json", data)
        self._manifest = {k: v for k, v in json.loads(data).items() if k != "sha256"}
