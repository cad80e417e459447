"""Which versions a result was made with."""

from __future__ import annotations

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

from influence import __version__

RECORDED = ("torch", "transformers", "datasets", "numpy", "xarray", "zarr")


def packages() -> dict[str, str]:
    """Versions of the project, of Python and of the packages that results depend on, as far as they are installed."""
    found = {"influence": __version__, "python": platform.python_version()}
    for name in RECORDED:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
