"""A study from the command line: settings from a file and flags, the run, its report, and what is shown at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influence.cli import show
from influence.cli.result import shown
from influence.study.result import Study, open_study
from influence.study.run import study as run_study
from influence.study.spec import from_toml

OUT = "runs/study"


@dataclass(frozen=True)
class Studied:
    """A study and its report (None where none was written), shown as the command shows it."""

    study: Study
    report: Path | None

    def __str__(self) -> str:
        study = self.study
        head = ["quantity", "effect", "95 %", "p (Holm)", "decision"]
        rows = [
            [f"{v.quantity} {v.name}", _short(v.effect), f"{_short(v.low)} – {_short(v.high)}", _short(v.p_adjusted),
             v.decision]
            for v in study.verdicts
        ]  # fmt: skip
        lines = [str(study).splitlines()[0], "", show.table(head, rows, f"{shown(study.folder)}/tables"), ""]
        lines += [*study.remarks, *_left_out(study)]
        lines.append(f"study    {shown(study.folder)}  (verdicts.json, tables/)")
        if self.report is not None:
            lines.append(f"report   {shown(self.report)}")
        return "\n".join(lines)


def _short(value: float) -> str:
    return "–" if value != value else f"{value:.3g}"


def _left_out(study: Study) -> list[str]:
    if not study.skipped:
        return []
    names = dict.fromkeys(str(one["concept"]) for one in study.skipped)
    return [f"left out: {len(study.skipped)} parts of {', '.join(names)}; reasons in skipped.json"]


def study(source: str, given: Mapping[str, Any], *, report: bool = True, progress: bool = True) -> Studied:
    """Run a study of a ladder's folder, or of the TOML file that describes one; what is given wins over the file."""
    path = Path(source).expanduser()
    settings = from_toml(path) if path.suffix == ".toml" else {"ladder": source}
    settings |= {name: value for name, value in given.items() if value is not None}
    out = settings.pop("out", None) or OUT
    ladder = settings.pop("ladder", None)
    found = run_study(ladder, out, progress=progress, **settings)
    return Studied(found, write_report(found) if report else None)


def write_report(found: Study | str | Path) -> Path:
    """Write report.html and methods.md of a study, again or for the first time."""
    from influence.report.study import write_study_report

    opened = found if isinstance(found, Study) else open_study(found)
    return Path(write_study_report(opened.folder / "report.html", payload(opened)))


def payload(found: Study) -> dict[str, Any]:
    """What the report is made of: plain frames, records and settings."""
    return {
        "tables": dict(found.tables),
        "verdicts": list(found.verdicts),
        "settings": dict(found.settings),
        "skipped": [dict(one) for one in found.skipped],
        "remarks": list(found.remarks),
    }
