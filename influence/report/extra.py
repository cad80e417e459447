"""What to do where the optional parts that the report needs are not installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Around an import: a missing module becomes an ImportError that says how to install it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"the report needs {error.name or error}, which is not installed here; run: pip install 'influence[report]'"
        ) from error
