"""Imports of the optional parts that the report needs."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def extra(name: str) -> ModuleType:
    """The module `name`, or an ImportError that says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"the report needs {name!r}, which is not installed here; run: pip install 'influence[report]'"
        ) from error
