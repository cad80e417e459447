"""Settings from one TOML file, below flags and above defaults; keys are the flags' names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cyclopts
from cyclopts.config import Toml


class Flat(Toml):
    """A TOML file without a table for each command: its keys are the flags of the command that reads it."""

    command: tuple[str, ...] = ()

    def _load_config(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = super()._load_config(path)
        except (ValueError, OSError) as error:
            raise cyclopts.CycloptsError(msg=f"{path} cannot be read as TOML: {error}") from error
        for name in reversed(self.command):
            found = {name: found}
        return found


def from_file(app: cyclopts.App, commands: tuple[str, ...], arguments: cyclopts.ArgumentCollection) -> None:
    """Fill in from the file that `--config` names what the command line leaves open. Unknown keys are fatal."""
    given = next((a for a in arguments if "--config" in a.names and a.tokens), None)
    if given is None:
        return
    path = Path(given.tokens[-1].value)
    if not path.is_file():
        raise cyclopts.CycloptsError(msg=f"--config: there is no file {path}")
    file = Flat(path=path)
    file.command = commands
    file(app, commands, arguments)


def to_toml(settings: Mapping[str, Any]) -> str:
    """Settings (strings, numbers, truth values, lists of strings) as TOML; those that are None are left out.

    A live object, recorded by its type in angle brackets, becomes a comment: a file cannot give it back.
    """
    lines = [
        f"# {key} was a live object: {value}" if is_live(value) else f"{key} = {_value(value)}"
        for key, value in settings.items()
        if value is not None
    ]
    return "\n".join(lines) + "\n"


def is_live(value: Any) -> bool:
    """Whether a recorded setting stands for an object that only its process had."""
    return isinstance(value, str) and value.startswith("<") and value.endswith(">")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_value(str(key))} = {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
