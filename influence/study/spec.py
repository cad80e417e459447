"""What a study is asked for: read from a TOML file or given as keywords, and checked before anything is measured."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from influence.data.files import BadData
from influence.study.measure.settings import Settings

MEASURED = tuple(field.name for field in fields(Settings))
KEYS = (
    "ladder", "out", "data", "length", "pack", "text_column", "world", "concepts", "concept", "models", "steps",
    "untrained", "removal", "removal_seeds", "removal_sizes", "permutations", "processes", "threads", "device",
    *MEASURED,
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """A study's settings beside those of its measurements.

    `ladder`: the folder of a trained ladder, or hub names and folders as `influence.open_ladder` takes them. `data`:
    the training corpus of a ladder that was not trained here; `world`: the settings of the embedded world it was drawn
    from, where it was. `concepts`: patterns of the built-in concepts' names
    (`["*"]` all, `[]` none); `concept`: descriptions of one's own, as `user_concepts` takes them. `models`: patterns of
    names; `steps`: checkpoints, the last alone by default; `untrained`: the untrained model of each seed as well.
    `removal`: rows taken out for each concept in a retraining (0: none), on `removal_seeds` seeds of the
    `removal_sizes`.
    """

    ladder: Any
    measured: Settings
    data: Any = None
    length: int = 128
    pack: bool = True
    text_column: str = "text"
    world: Mapping[str, int] | None = None
    concepts: tuple[str, ...] = ("*",)
    concept: tuple[Mapping[str, Any], ...] = ()
    models: tuple[str, ...] = ("*",)
    steps: tuple[int, ...] = ()
    untrained: bool = False
    removal: int = 0
    removal_seeds: int = 5
    removal_sizes: tuple[str, ...] = ()
    permutations: int = 9999
    device: str | None = None
    threads: int = 1

    def told(self) -> dict[str, Any]:
        """Everything as JSON can hold it; live objects by their type."""
        found = {name: _plain(getattr(self, name)) for name in vars(self) if name not in ("measured", "device")}
        return {**found, **self.measured.to_dict()}

    @property
    def live(self) -> bool:
        """Whether models, corpus or concepts were given as objects, which another process cannot open."""
        return any(_is_live(value) for value in (self.ladder, self.data, self.concept))

    def names(self, known: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
        """The known names that a pattern fits. Raises BadData for a pattern that fits none."""
        for pattern in patterns:
            if not fnmatch.filter(known, pattern):
                raise BadData(f"no {what} is called {pattern!r}; there are: {', '.join(known)}")
        return [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def defaults() -> dict[str, Any]:
    """What every setting is where it is not given: what a study made before there was the setting was measured with."""
    own = {one.name: one.default for one in fields(Spec) if one.default is not MISSING}
    return {name: _plain(value) for name, value in own.items() if name != "device"} | Settings().to_dict()


def spec_of(given: Mapping[str, Any]) -> Spec:
    """A Spec from keywords. Raises BadData for unknown keys and values out of range."""
    unknown = sorted(set(given) - set(KEYS))
    if unknown:
        raise BadData(f"a study has no setting {', '.join(map(repr, unknown))}; it has: {', '.join(KEYS)}")
    plain = {name: value for name, value in given.items() if value is not None and name not in ("out", "processes")}
    if "ladder" not in plain:
        raise BadData('a study needs its models: give ladder = "FOLDER" (of `influence ladder`) or names by size')
    measured = Settings(**{name: plain.pop(name) for name in MEASURED if name in plain})
    for name in ("concepts", "models", "removal_sizes", "concept"):
        if name in plain:
            plain[name] = _several(plain[name])
    if "steps" in plain:
        plain["steps"] = tuple(int(step) for step in plain["steps"])
    found = Spec(measured=measured, **plain)
    for name, least in (("removal", 0), ("removal_seeds", 1), ("permutations", 99), ("threads", 1), ("length", 2)):
        if getattr(found, name) < least:
            raise BadData(f"{name} is {getattr(found, name)}; it must be at least {least}")
    return found


def from_toml(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML file; paths in it are relative to it.

    Raises BadData for a file that is no TOML, FileNotFoundError where there is none.
    """
    path = Path(path)
    try:
        found = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadData(f"{path} cannot be read as TOML: {error}") from error
    for name in ("ladder", "out", "data"):
        if name in found:
            found[name] = _beside(path.parent, found[name])
    for one in found.get("concept", []):
        if isinstance(one, dict) and isinstance(one.get("file"), str):
            one["file"] = _beside(path.parent, one["file"])
    return found


def _beside(folder: Path, value: Any) -> Any:
    """A path that exists beside the file (or, of a folder to be made, would lie there); hub names as they are."""
    if isinstance(value, Mapping):
        return {key: _beside(folder, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_beside(folder, one) for one in value]
    if isinstance(value, str) and not Path(value).is_absolute() and (folder / value).exists():
        return str(folder / value)
    return value


def _several(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str | Mapping) else tuple(value)


def _is_live(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_live(one) for one in value.values())
    if isinstance(value, list | tuple):
        return any(_is_live(one) for one in value)
    return value is not None and not isinstance(value, str | int | float | bool | Path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else f"<{type(value).__name__}>"
