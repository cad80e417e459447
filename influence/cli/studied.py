"""A study from the command line: settings from a file and flags, the run, its report, and what is shown at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influence.cli import show
from influence.cli.config import to_toml
from influence.cli.packages import packages
from influence.cli.result import shown
from influence.store import disk
from influence.store.errors import writing
from influence.study.hypotheses import Verdict
from influence.study.result import Study, open_study
from influence.study.run import study as run_study
from influence.study.spec import KEYS, from_toml

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
    names = dict.fromkeys(str(one["concept"] or one["part"]) for one in study.skipped)
    return [f"left out: {len(study.skipped)} parts of {', '.join(names)}; reasons in skipped.json"]


def study(source: str, given: Mapping[str, Any], *, report: bool = True, progress: bool = True) -> Studied:
    """Run a study of a ladder's folder, or of the TOML file that describes one; what is given wins over the file."""
    path = Path(source).expanduser()
    settings = from_toml(path) if path.suffix == ".toml" else {"ladder": source}
    settings |= {name: value for name, value in given.items() if value is not None}
    return run(settings, report=report, progress=progress)


def run(settings: Mapping[str, Any], *, report: bool = True, progress: bool = True) -> Studied:
    """Run a study whose settings, `ladder` and `out` among them, are all in one mapping."""
    asked = dict(settings)
    out = asked.pop("out", None) or OUT
    found = run_study(asked.pop("ladder", None), out, progress=progress, **asked)
    return Studied(found, write_report(found) if report else None)


def write_report(found: Study | str | Path) -> Path:
    """Write report.html with its figures, methods.md and study.toml of a study, again or for the first time."""
    from influence.report.study import methods_text, write_study_report

    opened = found if isinstance(found, Study) else open_study(found)
    told = payload(opened)
    names = ("skipped", "verdicts", "versions", "facts", "command", "toml")
    methods = methods_text(
        told["settings"], models=opened.tables["models"], concepts=opened.tables["concepts"],
        **{name: told[name] for name in names},
    )  # fmt: skip
    with writing(opened.folder):
        disk.replace(opened.folder / "study.toml", told["toml"].encode())
        disk.replace(opened.folder / "methods.md", methods.encode())
    return Path(write_study_report(opened.folder / "report.html", told))


def payload(found: Study) -> dict[str, Any]:
    """What the report is made of: plain frames, records and settings."""
    return {
        "tables": dict(found.tables),
        "verdicts": [_plain(one) for one in found.verdicts],
        "settings": dict(found.settings),
        "skipped": [dict(one) for one in found.skipped],
        "versions": packages(),
        "facts": {"remarks": list(found.remarks)} if found.remarks else {},
        "command": f"influence study {shown(found.folder / 'study.toml')}",
        "toml": as_toml(found.settings, found.folder),
        "title": found.folder.name,
    }


def as_toml(settings: Mapping[str, Any], out: Path) -> str:
    """The file that asks for the same study; what was given as an object stands in it as a comment."""
    asked = {"out": str(out), **{name: settings[name] for name in KEYS if name in settings}}
    asked["ladder"] = settings["source"]
    nested = {name: value for name, value in asked.items() if isinstance(value, Mapping)}
    several = {name: value for name, value in asked.items() if isinstance(value, list) and _mappings(value)}
    text = to_toml({name: value for name, value in asked.items() if name not in nested and name not in several})
    for name, value in nested.items():
        text += f"\n[{name}]\n" + to_toml({json.dumps(str(key)): one for key, one in value.items()})
    for name, values in several.items():
        text += "".join(f"\n[[{name}]]\n" + to_toml(one) for one in values)
    return text


def _mappings(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(one, Mapping) for one in value)


def _plain(verdict: Verdict) -> dict[str, Any]:
    names = ("quantity", "name", "effect", "low", "high", "unit", "p", "p_adjusted", "null", "decision", "words")
    told: dict[str, Any] = {name: getattr(verdict, name) for name in names}
    for name in ("falsifiers", "controls", "details"):
        told[name] = dict(getattr(verdict, name))
    return {**told, "parts": verdict.parts, "remarks": list(verdict.remarks)}
