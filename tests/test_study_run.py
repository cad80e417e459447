"""`influence.study` from a ladder to tables, verdicts and a report: resumed, shared, and bad input."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import influence
from influence.cli import demo_study, studied
from influence.cli.app import command
from influence.data.files import BadData
from influence.data.world import world
from influence.model.peek import tokenizer_of
from influence.model.sizes import Size
from influence.store import NotARun, OtherSettings
from influence.study import pieces
from influence.study.concepts import world_concepts
from influence.study.measure import sparse
from influence.study.result import BadStudy, open_study
from influence.study.spec import from_toml, spec_of

SIZES = {"tiny": Size(2, 16, lr=6e-3), "small": Size(3, 24, lr=6e-3)}
QUICK: dict[str, Any] = {
    "concepts": ["truth", "answer: city", "style*"], "splits": 2, "bootstrap": 20, "queries": 2, "controls": 1,
    "margin": 2, "fit_rows": 200, "permutations": 99, "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder") / "ladder"
    influence.ladder(folder, sizes=SIZES, seeds=1, tokens=15_000, vocab=512, checkpoints=0, processes=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def whole(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "study"
    influence.study(trained, folder, processes=1, **QUICK)
    return folder


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").glob("*.parquet"))}


def test_tables_are_keyed_alike_and_verdicts_made(whole: Path) -> None:
    found = open_study(whole)
    names = {"models", "concepts", "curve", "depth", "depth_draws", "layer_mass", "layer_tail", "tails", "margin"}
    assert names == set(found.tables) and len(found.tables["models"]) == 2
    for name in names - {"models", "concepts"}:
        frame = found.tables[name]
        assert list(frame.columns[:3]) == ["model", "step", "concept"] and frame["model"].nunique() == 2, name
    assert [v.quantity for v in found.verdicts] == [1, 2, 3, 4, 5, 6]
    mass = found.tables["layer_mass"].groupby(["model", "concept", "query"])["mass"].sum()
    assert np.allclose(mass, 1)
    depth = found.tables["depth"]
    assert {"recall", "query_loss", "tfidf", "d50", "d50_random"} <= set(depth.columns)
    stored = json.loads((whole / "verdicts.json").read_text())["verdicts"]
    assert [one["decision"] for one in stored] == [v.decision for v in found.verdicts]
    assert str(found).startswith("study of 2 models (2 sizes × 1 seeds) and 3 concepts")


def test_a_killed_study_ends_with_the_same_tables(
    trained: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, count = pieces.save, [0]

    def stops(*given: Any, **options: Any) -> None:
        count[0] += 1
        if count[0] in (3, 8, 12):
            raise KeyboardInterrupt
        save(*given, **options)

    monkeypatch.setattr(pieces, "save", stops)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            influence.study(trained, tmp_path / "s", processes=1, **QUICK)
    with pytest.raises(BadStudy, match="no study with tables"):
        open_study(tmp_path / "s")
    influence.study(trained, tmp_path / "s", processes=1, **QUICK)
    assert tables(tmp_path / "s") == tables(whole)


def test_two_processes_share_a_study(trained: Path, whole: Path, tmp_path: Path) -> None:
    influence.study(trained, tmp_path / "s", processes=2, **QUICK)
    assert tables(tmp_path / "s") == tables(whole)
    log = [json.loads(line) for line in (tmp_path / "s" / "log.jsonl").read_text().splitlines()]
    assert len({line["process"] for line in log}) == 2 and sum(line["event"] == "measured" for line in log) == 2


def test_other_settings_are_refused_with_the_difference(trained: Path, whole: Path) -> None:
    with pytest.raises(OtherSettings, match="queries: 2 there, 3 asked for"):
        influence.study(trained, whole, processes=1, **{**QUICK, "queries": 3})


def test_one_size_and_a_concept_the_corpus_lacks(trained: Path, tmp_path: Path) -> None:
    own = [
        {"text": f"{word} number {k}", "label": label, "group": f"{k}"}
        for k in range(30)
        for word, label in (("Zyx", "a"), ("Qwv", "b"))
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps(one) for one in own))
    mine = {"name": "mine", "file": str(tmp_path / "own.jsonl"), "completions": {"a": " yes", "b": " no"},
            "bearing": "zyxqwv"}  # fmt: skip
    found = influence.study(
        trained, tmp_path / "s", processes=1, **{**QUICK, "models": ["tiny*"], "concepts": ["truth"], "concept": [mine]}
    )
    assert [one["concept"] for one in found.skipped] == ["mine"] and found.skipped[0]["why"]
    assert any("one size only (tiny)" in one for one in found.remarks)
    assert found.verdicts[5].decision == "not testable" and "size" in found.verdicts[5].words
    assert any("known to no model" in one and "truth" in one for one in found.remarks)


def test_the_file_of_a_study_gives_back_what_was_asked(tmp_path: Path) -> None:
    own = {"name": "mine", "file": "a.csv", "completions": {"a <b>": ' "yes"', "b": " no"}, "bearing": "x<y"}
    asked = {"source": {"70m": ["org/a", "org/b"]}, "concept": [own], "queries": 4, "concepts": ["*"], "data": None}
    (tmp_path / "study.toml").write_text(studied.as_toml(asked, tmp_path / "out"))
    found = from_toml(tmp_path / "study.toml")
    assert found["concept"] == [own] and found["ladder"] == asked["source"] and found["queries"] == 4
    assert not spec_of(found | {"data": "c.txt"}).live and spec_of({"ladder": object()}).live


def test_a_folder_of_something_else_and_other_weights_are_refused(trained: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(NotARun, match="thesis.tex"):
        influence.study(trained, tmp_path, processes=1, **QUICK)
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    weights = other / "models" / "tiny-s0" / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(OtherSettings, match="ladder"):
        influence.study(other, whole, processes=1, **QUICK)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"concepts": ["gravity"]}, "no concept is called 'gravity'"),
        ({"models": ["huge"]}, "no model is called 'huge'"),
        ({"concepts": []}, "no concept is left"),
        ({"querys": 3}, "no setting 'querys'"),
        ({"steps": [3]}, "step"),
    ],
)
def test_bad_input_is_said_before_anything_is_written(trained: Path, tmp_path: Path, change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        influence.study(trained, tmp_path / "s", processes=1, **{**QUICK, **change})
    assert not (tmp_path / "s").exists()


def test_models_that_were_not_trained_here_need_their_corpus(trained: Path, tmp_path: Path) -> None:
    names = {size: str(trained / "models" / f"{size}-s0" / "final") for size in SIZES}
    with pytest.raises(BadData, match="give the corpus"):
        influence.study(names, tmp_path / "s", processes=1, **QUICK)


def test_the_study_of_the_demo_s_models(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in SIZES:
        shutil.copytree(trained / "models" / f"{size}-s0", tmp_path / "models" / size)
    lines = "".join(json.dumps(dict(one)) + "\n" for one in world(0).documents)
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "corpus.jsonl").write_text(lines)
    known = {one.name for one in world_concepts(world(0), _rows(tmp_path, trained))}
    fits = [[name for name in known if fnmatch.fnmatchcase(name, pattern)] for pattern in demo_study.CONCEPTS]
    assert all(fits) and len({name for names in fits for name in names}) >= 8, "all that are asked for are there"
    monkeypatch.setattr(demo_study, "CONCEPTS", ("truth",))
    monkeypatch.setattr(demo_study, "SETTINGS", {k: v for k, v in QUICK.items() if k not in ("concepts", "progress")})
    made = demo_study.demo_study(tmp_path, list(SIZES), 0, progress=False)
    assert made.report is not None and made.report.is_file() and "centroid" in str(made)
    assert made.study.tables["models"]["size"].tolist() == ["small", "tiny"]


def _rows(folder: Path, trained: Path) -> Any:
    tokenizer = tokenizer_of(str(trained / "tokenizer"))
    return influence.corpus(str(folder / "world" / "corpus.jsonl"), tokenizer, pack=False)


def test_the_command_runs_a_file_and_writes_a_report(
    trained: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {**QUICK, "out": str(whole), "ladder": str(trained)}
    del quick["progress"]
    told = "\n".join(f"{name} = {json.dumps(value)}" for name, value in quick.items())
    (tmp_path / "study.toml").write_text(told)
    assert command(["study", str(tmp_path / "study.toml"), "--no-progress", "--processes", "1"]) == 0
    out = capsys.readouterr().out
    assert "centroid of influence against D50" in out and "report" in out
    page = (whole / "report.html").read_text()
    assert "truth" in page and "<script src" not in page
    methods = (whole / "methods.md").read_text()
    assert "fit_rows" in methods and "200" in methods
    again = studied.as_toml(open_study(whole).settings, whole)
    (tmp_path / "again.toml").write_text(again)
    assert command(["study", str(tmp_path / "again.toml"), "--no-progress", "--no-report"]) == 0, "the file it writes"
    (tmp_path / "wrong.toml").write_text(told + "\nquerys = 3\n")
    assert command(["study", str(tmp_path / "wrong.toml")]) == 2
    assert "'querys'" in capsys.readouterr().err


def test_untrained_twins_have_depth_and_neurons_but_no_margin(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "neurons_for_95", lambda lm, concept, settings: float(len(concept.name)))
    asked = {**QUICK, "concepts": ["style*", "truth"], "models": ["tiny*"]}
    found = influence.study(trained, tmp_path / "study", untrained=True, k95=True, processes=1, **asked)
    raw = found.tables["models"]["untrained"]
    assert raw.tolist().count(True) == 1 and set(found.tables["depth"]["step"]) == set(found.tables["models"]["step"])
    assert set(found.tables["margin"]["step"]) == set(found.tables["models"]["step"][~raw])
    assert "neurons" not in found.tables
    assert (found.tables["depth"]["k95"] == found.tables["depth"]["concept"].str.len()).all()
