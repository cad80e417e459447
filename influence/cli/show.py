"""Results as plain text: at most twenty lines, no wider than the terminal, nothing in them that a terminal obeys."""

from __future__ import annotations

import inspect
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence

MOST = 17  # rows of a table, so that head, rule and a last line make twenty


def printable(text: object) -> str:
    """One line of visible characters: control, escape and direction marks become spaces."""
    shown = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text))
    return " ".join(shown.split())


def shorten(text: object, width: int) -> str:
    """The beginning of a text on one line, with an ellipsis where something is left out."""
    line = printable(text)
    return line if len(line) <= width else line[: max(width - 1, 0)].rstrip() + "…"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], more: str = "") -> str:
    """Columns side by side; numbers to the right, the widest column of text gives way where the terminal is narrow.

    `more` says where the rows beyond the seventeenth are.
    """
    shown = [[printable(cell) for cell in row] for row in rows[:MOST]]
    widths = [max(len(cell) for cell in column) for column in zip(head, *shown, strict=True)]
    spare = max(shutil.get_terminal_size((110, 24)).columns, 60) - 2 * (len(widths) - 1)
    while sum(widths) > spare and max(widths) > 12:
        widths[widths.index(max(widths))] -= 1
    right = [bool(shown) and all(_number(row[k]) for row in shown) for k in range(len(head))]
    lines = [_line(head, widths, right), _line(["─" * width for width in widths], widths, right)]
    lines += [_line(row, widths, right) for row in shown]
    if len(rows) > MOST:
        lines.append(f"… {len(rows) - MOST} more{' in ' + more if more else ''}")
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    placed = [shorten(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(
        cell.rjust(width) if flush else cell.ljust(width)
        for cell, width, flush in zip(placed, widths, right, strict=True)
    ).rstrip()


def _number(cell: str) -> bool:
    return not cell or cell[0] in "+-−0123456789–"


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number for a table; a dash for none."""
    if value is None or value != value:
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}g}"


def as_python(call: str, function: Callable[..., object], settings: Mapping[str, object]) -> str:
    """The call in Python that does the same, without the settings that are as by default."""
    known = inspect.signature(function).parameters
    said = [f"    {name}={value!r}," for name, value in settings.items() if value != known[name].default]
    return "\n".join(["import influence", "", f"result = {call}(", *said, ")", "print(result)"])
