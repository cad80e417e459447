"""Every notebook runs as it is written, on a tiny model and offline, and is stored with the outputs of a real run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import job_case
import notebook_runner
import pandas as pd
import pytest
import source

import influence

FOLDER = source.ROOT / "notebooks"
DEPTH = FOLDER / "probe_depth.ipynb"


def cells(book: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def shown(book: dict[str, Any]) -> list[dict[str, str]]:
    """What every cell displays, by kind."""
    outputs = [one for cell in cells(book) for one in cell["outputs"] if "data" in one]
    return [{kind: "".join(text) for kind, text in one["data"].items()} for one in outputs]


def test_from_a_csv_of_statements_to_a_depth_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = influence.statements("negation", limit=80)
    names = rows.features["label"].names
    frame = pd.DataFrame({"text": rows["text"], "label": [names[one] for one in rows["label"]], "group": rows["group"]})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    monkeypatch.setenv("INFLUENCE_MODEL", job_case.make(tmp_path)["model"])
    monkeypatch.setenv("INFLUENCE_STATEMENTS", "mine.csv")
    result, figure, table = shown(notebook_runner.run(DEPTH, tmp_path))
    assert result["text/plain"].startswith("mine (false / true) in model: 80 statements in 20 groups")
    assert figure["image/svg+xml"].startswith("<svg role=") and "AUC of the probe by depth" in figure["text/plain"]
    assert "mine" in table["text/plain"] and "comparison" in table["text/html"]


def test_the_user_writes_ten_lines() -> None:
    lines = [
        line for cell in cells(json.loads(DEPTH.read_text("utf-8"))) for line in "".join(cell["source"]).split("\n")
    ]
    written = [line for line in lines if line.strip() and not line.startswith(("import os", "MODEL", "STATEMENTS"))]
    assert len(written) <= 10, written
    assert any('"EleutherAI/' in line for line in lines), "the default is a model of the hub"


def said(book: dict[str, Any]) -> str:
    """All that a notebook prints and shows as text."""
    outputs = [one for cell in cells(book) for one in cell["outputs"]]
    return "\n".join("".join(one["text"] if "text" in one else one["data"]["text/plain"]) for one in outputs)


def figures(book: dict[str, Any]) -> list[str]:
    """The words of every figure, each of which is drawn."""
    drawn = [one for one in shown(book) if "image/svg+xml" in one]
    assert all(one["image/svg+xml"].startswith("<svg") for one in drawn)
    return [one["text/plain"] for one in drawn]


def columns(table: str, key: str, value: str) -> dict[str, float]:
    """Two columns of a frame's HTML, one by the other."""
    head, *lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"(?s)<tr.*?</tr>", table)]
    return {line[head.index(key)]: float(line[head.index(value)]) for line in lines}


def test_from_a_model_folder_and_a_text_file_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = job_case.make(tmp_path)
    texts = [json.loads(line)["text"] for line in Path(case["data"]).read_text("utf-8").splitlines()]
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts), "utf-8")
    monkeypatch.setenv("INFLUENCE_MODEL", case["model"])
    monkeypatch.setenv("INFLUENCE_TEXT", "corpus.txt")
    monkeypatch.setenv("INFLUENCE_OUT", "run")
    book = notebook_runner.run(FOLDER / "first_steps.ipynb", tmp_path)
    told = said(book)
    assert f"'row': {len(texts)}, 'layer': 2" in told and "against" in told and "fits" in told
    layers, tail = figures(book)
    assert layers.startswith(f"Influence of {len(texts)} rows on query 0") and tail.startswith("Tail of")
    assert "report.html" in told and (tmp_path / "run" / "report.html").is_file()


def test_solvers_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = job_case.make(tmp_path)
    monkeypatch.setenv("INFLUENCE_MODEL", case["model"])
    monkeypatch.setenv("INFLUENCE_TEXT", case["data"])
    monkeypatch.setenv("INFLUENCE_ROWS", "80")
    monkeypatch.setenv("INFLUENCE_QUICK", "1")
    book = notebook_runner.run(FOLDER / "ekfac_against_lissa.ipynb", tmp_path)
    table = next(one["text/html"] for one in shown(book) if "worst question" in one.get("text/html", ""))
    agreement, passes = columns(table, "solver", "agreement"), columns(table, "solver", "passes")
    assert agreement["EK-FAC + CG 4"] > max(agreement["CG 4"], agreement["EK-FAC"]) and len(agreement) == 6
    assert passes["EK-FAC"] == 0 and passes["CG 4"] == 5
    assert ["dashed" in figures(book)[0], "Residual" in figures(book)[1]] == [True, True]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The notebook of the study, and the folder with its ladder."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFLUENCE_LADDER", "ladder")
        patch.setenv("INFLUENCE_OUT", "out")
        patch.setenv("INFLUENCE_QUICK", "1")
        return notebook_runner.run(FOLDER / "the_study.ipynb", folder), folder


def test_the_study_is_read_step_by_step(studied: tuple[dict[str, Any], Path]) -> None:
    book, folder = studied
    told = said(book)
    found = influence.open_study(folder / "out")
    assert all(str(one) in told for one in found.verdicts), "each verdict stands in the notebook as it is"
    assert all(name in told for name in ("truth", "answer: city", "d16", "d24")) and figures(book)


def test_where_a_fact_lives(studied: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LADDER", "ladder"), ("MODEL", "d24-s0"), ("CONCEPT", "answer: city")):
        monkeypatch.setenv(f"INFLUENCE_{name}", value)
    book = notebook_runner.run(FOLDER / "where_a_fact_lives.ipynb", studied[1])
    told = said(book)
    assert re.search(r"recall 0\.\d\d", told) and "centroid of influence" in told and "answer: city" in told
    probe, together = figures(book)
    assert "AUC of the probe by depth" in probe and together.startswith("Probe, influence mass and recall")


def test_heads_across_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLUENCE_QUICK", "1")
    book = notebook_runner.run(FOLDER / "heads_across_training.ipynb", tmp_path)
    told = said(book)
    assert "second copies turns at the steps" in told and "R-hat up to" in told and "Spearman with λ̂" in told
    loss, coefficients = figures(book)
    assert "by rule" in loss and coefficients.startswith(
        "Local learning coefficients of 8 parts at 3 steps from 0 to 120."
    )
    last = shown(book)[-1]["text/html"]
    lines = columns(last, "", "previous")
    assert len(lines) == 8 and all(0 <= value <= 1 for value in lines.values())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(path: Path) -> None:
    book = json.loads(path.read_text("utf-8"))
    assert book["nbformat"] == 4 and len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    assert [cell["execution_count"] for cell in cells(book)] == list(range(1, len(cells(book)) + 1))
    assert shown(book) and not any(one["output_type"] == "error" for cell in cells(book) for one in cell["outputs"])
    assert not re.search(r"/(home|Users|work|tmp|root)/", path.read_text("utf-8")), "a path of somebody's machine"
    assert path.stat().st_size < 500_000


def test_the_runner_shows_what_jupyter_would(tmp_path: Path) -> None:
    def cell(text: str) -> dict[str, Any]:
        return {"cell_type": "code", "source": [text], "execution_count": None, "outputs": []}

    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [cell("x = 2\nprint('two')"), cell("x + 1"), cell("x;\nNone")]}))
    first, second, third = cells(notebook_runner.run(path))
    assert first["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["two\n"]}]
    assert second["outputs"][0]["data"] == {"text/plain": ["3"]} and third["outputs"] == []
    path.write_text(json.dumps({"cells": [cell("%matplotlib inline")]}))
    with pytest.raises(ValueError, match="magic"):
        notebook_runner.run(path)
