"""A training run's folder: whole pieces only, recognised, checked, and gone on from.

settings.json        what was asked
state.safetensors    parameters, both moments and losses of the last saved step, while the training goes on
steps/step-000123/   checkpoints as `from_pretrained` reads them
final/               the last one
finished.json        losses and the checksum of every checkpoint, written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

WEIGHTS = "model.safetensors"
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")


class OtherSettings(ValueError):
    """A folder holds a training that was asked with other settings."""


class State(NamedTuple):
    """Where a training stands after `step` steps: named tensors, and the loss of every step so far."""

    step: int
    tensors: dict[str, Tensor]
    losses: list[float]


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return folder / "steps" / f"step-{step:06d}"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder alone, waiting for another process that trains in it; released when the process dies."""
    try:
        import fcntl
    except ModuleNotFoundError:  # not on this system: two trainings of one folder at a time are not kept apart
        yield
        return
    with saving(folder, "create it"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            warnings.warn(f"Another process is training in {folder}; waiting until it is done.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def saving(path: Path, what: str) -> Iterator[None]:
    """Turn a failed write into an error that says what to do; the piece it interrupted was not there before."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        reason = getattr(error, "strerror", None) or str(error)
        message = (
            f"could not {what} ({reason}). What was saved before is whole: make room or make the folder "
            "writable, then give the same call again and it goes on from the last saved step"
        )
        raise OSError(number or 5, message, str(path)) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON to `path` as a whole or not at all."""
    _write(path, (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with saving(path, "write"):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into a new folder, or compare them with what the folder was made with.

    Raises OtherSettings, listing the differences. What a killed process left half-written is removed.
    """
    for stale in [*folder.glob(".*.tmp"), *folder.glob("steps/.*.tmp")]:
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    if (folder / "settings.json").exists():
        compare(folder, settings)
    else:
        write_json(folder / "settings.json", settings)


def compare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise OtherSettings, listing the differences, where the folder was made with other settings."""
    asked = json.loads(json.dumps(settings))
    try:
        found = json.loads((folder / "settings.json").read_text())
    except ValueError as error:
        raise OtherSettings(
            f"{folder}/settings.json is damaged ({error}); delete the folder or choose another"
        ) from error
    if different := list(differences(found, asked)):
        raise OtherSettings(
            f"{folder} holds a training with other settings:\n  " + "\n  ".join(different) + "\nGive the settings "
            "of the folder, choose another folder, or delete this one."
        )


def differences(found: Any, asked: Any, at: str = "") -> Iterator[str]:
    """`name: found there, asked for here` for every value that differs."""
    if isinstance(found, dict) and isinstance(asked, dict):
        for key in sorted({*found, *asked}):
            yield from differences(found.get(key), asked.get(key), f"{at}.{key}".lstrip("."))
    elif found != asked:
        yield f"{at}: {found!r} there, {asked!r} asked for"


def save_checkpoint(target: Path, net: Any, tokenizer: Any) -> None:
    """Save model and tokenizer (an object or a folder) as the folder `target`, whole or not at all."""
    temporary = target.with_name(f".{target.name}.tmp")
    with saving(target, "save the checkpoint"):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            with _without_bars():
                net.save_pretrained(temporary)
            _save_tokenizer(tokenizer, temporary)
            for path in [*temporary.iterdir(), temporary]:
                _sync(path)
            if target.exists():  # of a step that the saved state has not reached: the same again
                shutil.rmtree(target)
            temporary.rename(target)
            _sync(target.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    if tokenizer is None:
        return
    if isinstance(tokenizer, str | Path):
        for pattern in _TOKENIZER_FILES:
            for path in sorted(Path(tokenizer).glob(pattern)):
                shutil.copyfile(path, folder / path.name)
    else:
        tokenizer.save_pretrained(str(folder))


def _sync(path: Path) -> None:
    try:
        number = os.open(path, os.O_RDONLY)
    except PermissionError:  # some systems do not open folders
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)


def save_state(folder: Path, state: State) -> None:
    """Save where the training stands, in one file, in place of the one before."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    about = {"step": str(state.step), "losses": json.dumps(state.losses)}
    _write(folder / "state.safetensors", save(tensors, {**about, "sha256": _digest(tensors, about)}))


def load_state(folder: Path) -> State | None:
    """Where the training stood, or None: nothing saved yet, or (with a warning) damaged."""
    from safetensors import SafetensorError, safe_open

    path = folder / "state.safetensors"
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            about = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if about.pop("sha256") != _digest(tensors, about):
            raise ValueError("its checksum does not fit")
        return State(int(about["step"]), tensors, json.loads(about["losses"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is damaged ({error}); the training starts again from the beginning.")
        return None


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def finish(folder: Path, kept: Sequence[int], losses: Sequence[float]) -> None:
    """Declare the training done: checksums of all checkpoints; the state is no longer needed."""
    names = [*(step_folder(folder, step) for step in kept), folder / "final"]
    sums = {path.relative_to(folder).as_posix(): file_sum(path / WEIGHTS) for path in names}
    write_json(folder / "finished.json", {"steps": kept[-1], "losses": list(losses), "sha256": sums})
    (folder / "state.safetensors").unlink(missing_ok=True)


def finished(folder: Path) -> dict[str, Any] | None:
    """What `finish` wrote, or None: not finished, or (with a warning) one of its checkpoints is damaged."""
    path = folder / "finished.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        for name, expected in found["sha256"].items():
            if file_sum(folder / name / WEIGHTS) != expected:
                raise ValueError(f"{name}/{WEIGHTS} is not what was saved")
        return found
    except (OSError, ValueError, KeyError) as error:
        warnings.warn(f"The finished training in {folder} is damaged ({error}); it is trained again.")
        return None


def file_sum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
