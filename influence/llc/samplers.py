"""The samplers by name; a new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from influence.llc import rmsprop, sgld, sgnht
from influence.llc.sampler import Sampler

SAMPLERS: dict[str, Callable[[], Sampler]] = {"sgld": sgld.build, "rmsprop": rmsprop.build, "sgnht": sgnht.build}


def sampler_of(given: str | Sampler) -> Sampler:
    """The sampler of a name, or the one given; ValueError for an unknown name."""
    if isinstance(given, Sampler):
        return given
    if given not in SAMPLERS:
        raise ValueError(f"sampler is {given!r}; choose from {', '.join(SAMPLERS)}, or build one with other settings")
    return SAMPLERS[given]()
