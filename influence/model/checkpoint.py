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
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from influence.store import disk
from influence.store.errors import Busy, OtherSettings, writing

_PATIENCE = 60.0  # seconds in which a process notices that the one that started it is gone
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")


class State(NamedTuple):
    """Where a training stands after `step` steps: named tensors, the loss of every step, held-out losses by step."""

    step: int
    tensors: dict[str, Tensor]
    losses: list[float]
    held_out: dict[int, float]


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return folder / "steps" / f"step-{step:06d}"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder alone, released when the process dies; what a killed one left half-written is removed.

    Waits a minute for another process that trains in it (one whose caller was killed is about to end), then Busy.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with writing(folder / ".lock"):
                held = disk.lock(folder / ".lock")
            break
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    with held:
        disk.sweep(folder)
        yield


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON to `path` as a whole or not at all."""
    with writing(path):
        disk.replace(path, (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def claim(folder: Path, settings: Mapping[str, Any], later: Mapping[str, Any] | None = None) -> None:
    """Write the settings into a new folder, or compare them with what the folder was made with.

    `later`: settings that a folder may lack since it was made before there were any, with what it was made with.
    """
    if (folder / "settings.json").exists():
        compare(folder, settings, later)
    else:
        write_json(folder / "settings.json", settings)


def compare(folder: Path, settings: Mapping[str, Any], later: Mapping[str, Any] | None = None) -> None:
    """Raise OtherSettings, listing the differences, where a folder was made with others; `later` as in `claim`."""
    asked = json.loads(json.dumps(settings))
    try:
        found = json.loads((folder / "settings.json").read_text())
    except ValueError as error:
        raise OtherSettings(
            f"{folder}/settings.json is damaged ({error}); delete {folder} or choose another"
        ) from error
    if isinstance(found, dict):
        found = {**json.loads(json.dumps(dict(later or {}))), **found}
    if different := list(differences(found, asked)):
        raise OtherSettings(
            f"{folder} was begun with other settings:\n  " + "\n  ".join(different) + "\nGive the settings "
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
    """Save model and tokenizer (an object or a folder) as the folder `target`, whole or not at all.

    A folder that is there already is of a step that the saved state has not reached: the same comes again.
    """
    temporary = disk.beside(target)
    with writing(target):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            with _without_bars():
                net.save_pretrained(temporary)
            _save_tokenizer(tokenizer, temporary)
            for path in disk.parts(temporary):
                disk.sync(path)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            disk.sync(target.parent)
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
    if isinstance(tokenizer, str | Path):
        for pattern in _TOKENIZER_FILES:
            for path in sorted(Path(tokenizer).glob(pattern)):
                shutil.copyfile(path, folder / path.name)
    elif tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def save_state(folder: Path, state: State) -> None:
    """Save where the training stands, in one file, in place of the one before."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    about = {"step": str(state.step), "losses": json.dumps(state.losses), "held_out": json.dumps(state.held_out)}
    path = folder / "state.safetensors"
    with writing(path):
        disk.replace(path, save(tensors, {**about, "sha256": _digest(tensors, about)}))


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
        return State(int(about["step"]), tensors, json.loads(about["losses"]), by_step(about.get("held_out", "{}")))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is damaged ({error}); the training starts again from the beginning.")
        return None


def by_step(held_out: str | Mapping[str, float]) -> dict[int, float]:
    """Losses by step from JSON, whose keys are text."""
    found = json.loads(held_out) if isinstance(held_out, str) else held_out
    return {int(step): float(loss) for step, loss in found.items()}


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def finish(folder: Path, kept: Sequence[int], losses: Sequence[float], held_out: Mapping[int, float]) -> None:
    """Declare the training done: checksums of all checkpoints; the state is no longer needed."""
    names = [*(step_folder(folder, step) for step in kept), folder / "final"]
    sums = {path.relative_to(folder).as_posix(): disk.measure(path)["sha256"] for path in names}
    about = {"steps": kept[-1], "losses": list(losses), "held_out": dict(held_out), "sha256": sums}
    write_json(folder / "finished.json", about)
    (folder / "state.safetensors").unlink(missing_ok=True)


def finished(folder: Path) -> dict[str, Any] | None:
    """What `finish` wrote (`held_out` by step), or None: not finished, or (with a warning) a checkpoint is damaged."""
    path = folder / "finished.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        for name, expected in found["sha256"].items():
            if disk.measure(folder / name)["sha256"] != expected:
                raise ValueError(f"{name} is not what was saved")
        return {**found, "held_out": by_step(found.get("held_out", {}))}
    except (OSError, ValueError, KeyError) as error:
        warnings.warn(f"The finished training in {folder} is damaged ({error}); it is trained again.")
        return None
