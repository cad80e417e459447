"""Local learning coefficient, its refinements by weights and by data, and influence from the same chains.

The room has the name of its main function: `influence.llc(lm, rows)` works whether or not the room was imported before.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influence.llc.estimate import LLC


class _Room(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> LLC:
        from influence.llc.run import llc

        return llc(*args, **settings)

    @property
    def __signature__(self) -> inspect.Signature:
        from influence.llc.run import llc

        return inspect.signature(llc)


sys.modules[__name__].__class__ = _Room
