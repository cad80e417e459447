"""The demo's study: its models as a ladder of three sizes, some concepts of their world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import studied

if TYPE_CHECKING:
    from influence.cli.studied import Studied

# Some that these sizes know and some at chance; few draws, since one seed a size tests little anyway.
CONCEPTS = (
    "answer: city", "answer: house", "answer: crop", "next word: a/the", "order*", "number*", "truth", "two-hop*",
)  # fmt: skip
SETTINGS: dict[str, Any] = {
    "splits": 3, "bootstrap": 100, "queries": 4, "controls": 2, "fit_rows": 1000, "margin": 0, "permutations": 999,
}  # fmt: skip


def demo_study(root: Path, sizes: Sequence[str], seed: int, progress: bool = True) -> Studied:
    """Run the study of the demo's models in `root`/study, or go on with it, and write its report.

    Three sizes of one training seed show the instruments; what they can test at all, the report says.
    """
    ladder = {size: str(root / "models" / size) for size in sizes}
    asked: dict[str, Any] = {
        "out": str(root / "study"), "data": str(root / "world" / "corpus.jsonl"), "pack": False,
        "world": {"seed": seed}, "concepts": CONCEPTS, "ladder": ladder, "seed": seed, **SETTINGS,
    }  # fmt: skip
    return studied.run(asked, progress=progress)
