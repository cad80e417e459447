"""Parses the command line and turns what goes wrong into one clear message and an exit code.

0 done, 1 it could not be done (disk, memory, another process), 2 what was asked cannot be done, 130 interrupted.
Nothing heavy is imported before a command is known and its arguments are right.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import cyclopts

from influence import __version__
from influence.cli.config import from_file

ABOUT = """\
Which training rows made a language model say this, through which layers and tokens.

Begin with `influence demo`: it trains three small models and shows what the rest does. With a model of your own:
`influence run MODEL --data CORPUS --queries QUERIES`."""

COMMANDS = {
    "run": "All of it: fit, score, tables, report.",
    "demo": "Train small models on a world of facts, trace what they say, compare with baselines.",
    "ladder": "Train models of growing size on one corpus, several seeds each, with checkpoints.",
    "study": "How influence, its tails and the depth of concepts go together over a ladder.",
    "blocks": "What of a model can be traced: its linear maps, and the share tracked.",
    "fit": "Fit the factors of a model on its training rows.",
    "score": "Score the training rows of a fitted run for queries.",
    "truth": "How far the scores of a run can be trusted, without retraining.",
    "probe": "At which depth a model knows concepts: linear probes of every layer, with controls.",
    "sparse-probe": "How few neurons tell a feature, which ones, and what switching them off costs.",
    "intervene": "From which layer on a model no longer needs its previous tokens: edits of hidden states.",
    "llc": "How degenerate the loss is around a model and its parts: local learning coefficients.",
    "report": "Write the report of a run again.",
    "doctor": "What this machine has: versions, devices, memory, disk.",
}
INTERRUPTED = "interrupted; the same command goes on from here"


def command(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code."""
    _quiet()
    try:
        _app()(sys.argv[1:] if arguments is None else list(arguments), exit_on_error=False)
    except cyclopts.CycloptsError:
        return 2  # it has been printed
    except KeyboardInterrupt:
        _say(f"\n{INTERRUPTED}")
        return 130
    except Exception as error:
        code = exit_code(error)
        if code is None or os.environ.get("INFLUENCE_TRACEBACK"):
            raise
        _say(f"influence: {_text(error)}")
        return code
    return 0


def exit_code(error: Exception) -> int | None:
    """1 or 2 for an error that was raised to be read by a person, None for a bug."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 1
    if not isinstance(error, OSError) and not (_ours(type(error).__module__) or _ours(_raised_in(error))):
        return None
    wrong_input = isinstance(error, ValueError | TypeError | ImportError | FileNotFoundError)
    return 2 if wrong_input else 1


def _app() -> cyclopts.App:
    app = cyclopts.App(
        name="influence",
        version=__version__,
        help=ABOUT,
        config=from_file,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, about in COMMANDS.items():
        here = name.replace("-", "_")
        app.command(f"influence.cli.{here}:{here}", name=name, help=about)
    return app


def _ours(module: str) -> bool:
    return module.split(".")[0] in ("influence", "ekfac", "lissa")


def _raised_in(error: BaseException) -> str:
    """The module whose code raised the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def _text(error: Exception) -> str:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({error}); give a smaller --batch-size or --length, or fewer queries at a time"
    return str(error) or type(error).__name__


def _quiet() -> None:
    """Our own words on stderr, one line each; libraries speak only when something is wrong."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.showwarning = _show_warning
    ours = logging.getLogger("influence")
    if not ours.handlers:
        ours.addHandler(_Words())
    ours.setLevel(logging.INFO)


class _Words(logging.Handler):
    """Log lines as they are, on the stderr of now."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    if issubclass(category, UserWarning):
        _say(f"warning: {message}")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
