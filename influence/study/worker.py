"""A further process of a study: reads its settings as JSON from standard input and takes models that are free."""

from __future__ import annotations

import json
import sys

from influence.study.run import study


def main() -> None:
    settings = json.load(sys.stdin)
    study(settings.pop("ladder"), settings.pop("out"), progress=False, **settings)


if __name__ == "__main__":
    main()
