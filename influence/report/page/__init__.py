"""Puts the page together: one HTML file with its style, script and data inside, and nothing to fetch."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from influence.report import words
from influence.report.context import context, drawer
from influence.report.extra import needed
from influence.report.payload import STEPS, script_json
from influence.report.read import read_run
from influence.store.disk import replace
from influence.store.errors import writing

SCRIPTS = ("tools", "heat", "compare", "page")
FILTERS = ("number", "fixed", "percent", "count", "seconds", "size", "plural")
MOST_BYTES = 9_500_000  # a page is put together again with less in it until it is below


def write_report(run_folder: str | Path, out: str | Path | None = None, *, progress: bool = True) -> Path:
    """Writes the report of a stored run as one self-contained HTML file and returns its path.

    `run_folder` holds manifest.json and tables/*.parquet; the model is not needed. `out` is the file to
    write, by default `run_folder`/report.html. The file is written beside and renamed, so an old report stays
    whole until the new one is. Sections whose tables are missing are replaced by a sentence.

    Raises NotARun where the folder is no run, FileNotFoundError where the run is not finished, ValueError where a
    file in it is damaged, ImportError where the extra `report` is not installed, and WriteFailed where `out` cannot
    be written.
    """
    run = read_run(run_folder)
    path = Path(out) if out is not None else Path(run_folder) / "report.html"
    drawing = drawer()
    page = b""
    for step, limits in enumerate(STEPS):
        filled = context(run, limits, drawing, progress and step == 0)
        page = render({**filled, "shortened": step > 0}).encode("utf-8", "replace")
        if len(page) <= MOST_BYTES:
            return write_page(path, page)
    raise ValueError(
        f"the page would be {words.size(len(page))} even with 10 queries and 5 rows each; expected at most "
        f"{words.size(MOST_BYTES)}: ask for fewer rows per query"
    )


def render(filled: Mapping[str, Any]) -> str:
    """The page's text for a filled context; every text in it is escaped by the template engine."""
    with needed():
        import jinja2
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in FILTERS:
        environment.filters[name] = getattr(words, name)
    style, script = asset("page.css"), "".join(asset(f"{name}.js") for name in SCRIPTS)
    return str(
        environment.get_template("page.html").render(
            **{key: value for key, value in filled.items() if key != "data"},
            is_missing=words.is_missing,
            style=style,
            script=script,
            style_hash=source_hash(style),
            script_hash=source_hash(script),
            data=script_json(filled["data"]),
        )
    )


def asset(name: str) -> str:
    """A template, style sheet or script of this folder."""
    return (files("influence.report.page") / name).read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    """A source expression of the content policy: only this very text may act as style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def write_page(path: Path, page: bytes) -> Path:
    """Put the page where it belongs, whole; its folder is made. Raises WriteFailed where the disk refuses."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, page)
    return path
