"""The model ladder, and what is asked of all its models together; `influence.study(…)` runs a study.

The room and the function share a name, so the module itself can be called.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *given: Any, **settings: Any) -> Any:
        from influence.study.run import study

        return study(*given, **settings)

    @property
    def __signature__(self) -> inspect.Signature:
        from influence.study.run import study

        return inspect.signature(study)


sys.modules[__name__].__class__ = _Room
