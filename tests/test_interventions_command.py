"""`influence intervene` and its section of the report: numbers as of the function, resumed to the same bytes."""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import job_case
import numpy as np
import pandas as pd
import probe_tables
import pytest
import source
from report_payloads import PAYLOADS
from report_reading import Page, is_inert, rewrite, values

import influence
from influence.cli import intervene, intervening
from influence.cli.app import command
from influence.cli.job import write_again
from influence.data.world import world
from influence.interventions import tasks as known
from influence.interventions.result import Interventions, joined
from influence.report import page as pages
from influence.report import write_figures, write_report
from influence.store import NotARun, OtherSettings

QUICK: dict[str, Any] = {
    "tasks": ("recall", "two-hop"), "limit": 8, "seeds": 2, "bootstrap": 20, "edits": ("noise", "freeze"),
    "world": ("persons=12", "facts_each=4", "prose=0"), "report": False, "progress": False, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return job_case.make(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def whole(given: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    found = influence.run_intervene(given["model"], out=out, text=given["data"], **QUICK)
    text = str(found)
    assert len(text.splitlines()) <= 24 and "mode paper" in text and "influence probe" in text
    return out


def numbers(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name.startswith(("tables/", "interventions/"))}


def test_command_and_function_have_the_same_names_and_defaults() -> None:
    ours, theirs = (inspect.signature(one).parameters for one in (intervene.intervene, influence.run_intervene))
    assert [name for name in ours if name not in ("config", "python")] == list(theirs)
    assert all(ours[name].default == theirs[name].default for name in theirs)
    below = inspect.signature(influence.intervene).parameters
    same = {"edits", "seeds", "mode", "share", "bootstrap", "level", "seed", "batch_size", "progress"}
    assert all(below[name].default == theirs[name].default for name in same) and theirs["layers"].default == ()
    plain = {str, int, float, bool, type(None), str | None, int | None, tuple[str, ...], tuple[int, ...]}
    assert set(typing.get_type_hints(intervene.intervene).values()) <= plain


def test_numbers_are_those_of_the_function(given: dict[str, str], whole: Path) -> None:
    lm = influence.load(given["model"], device="cpu")
    drawn = world(persons=12, facts_each=4, prose=0)
    own = {name: QUICK[name] for name in ("seeds", "bootstrap", "edits")}
    wanted = influence.intervene(
        lm, [known.recall(drawn, lm, limit=8), known.two_hop(drawn, lm, limit=8)], progress=False, **own
    )
    found = intervening.again(whole, None).result
    part = found.curves[found.curves["task"] != "perplexity"].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, wanted.curves)
    assert set(found.depths["task"]) == {"recall", "two-hop", "perplexity"}
    assert found.info["questions"]["recall"]["all"] == 8


def test_a_second_call_goes_on_and_ends_with_the_same_bytes(given: dict[str, str], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = {"out": out, "text": given["data"], **QUICK}
    influence.run_intervene(given["model"], **asked)
    first = numbers(out)
    assert first == numbers(whole)
    for name in ("interventions/001-two-hop.json", "tables/intervene_depths.parquet"):
        (out / name).unlink()
    influence.run_intervene(given["model"], **asked)
    assert numbers(out) == first
    with pytest.raises(OtherSettings, match="mode"):
        influence.run_intervene(given["model"], **{**asked, "mode": "prompt"})
    assert command(["intervene", "--config", str(out / "config.toml"), "--out", str(out), "--no-report"]) == 0
    assert numbers(out) == first


def test_questions_of_ones_own_and_what_is_refused(given: dict[str, str], tmp_path: Path) -> None:
    asked = {**QUICK, "tasks": (), "edits": ("skip",), "out": tmp_path / "own"}
    found = influence.run_intervene(given["model"], queries=given["queries"], **asked)
    assert set(found.result.depths["task"]) == {"questions"} and "questions" in found._repr_html_()
    for change, said in (
        ({"tasks": ("capital",)}, "give some of capitals, arithmetic"),
        ({"tasks": ()}, "questions \\(queries\\) or text"),
        ({"world": ("people=3",)}, "persons="),
    ):
        with pytest.raises(ValueError, match=said):
            influence.run_intervene(given["model"], **{**QUICK, "out": tmp_path / "bad", **change})
    with pytest.raises(NotARun, match="has no edits yet"):
        intervening.again(probe_run(tmp_path / "probes"), None)
    with pytest.raises(ValueError, match="cannot be joined"):
        joined([found.result, Interventions("other", 2, *[found.result.curves] * 2, found.result.info)])


def probe_run(folder: Path) -> Path:
    return probe_tables.probe_run(folder, ("truth",), disturbed=False)


def test_the_command_says_the_same_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(shlex.split("intervene m --tasks capitals --edits freeze --mode prompt --python")) == 0
    text = capsys.readouterr().out
    assert "influence.run_intervene(" in text and "mode='prompt'" in text and "share" not in text
    lines = [
        line.split("   #")[0].strip()
        for name in ("README.md", "docs/interventions.md")
        for line in (source.ROOT / name).read_text("utf-8").splitlines()
        if line.startswith("influence intervene ")
    ]
    assert len(lines) >= 2
    for line in lines:
        assert command([*shlex.split(line)[1:], "--python"]) == 0, line


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys\n"
        "from influence.cli.app import command\n"
        "command(['intervene', '--help']); command(['intervene', 'm', '--python'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'altair', 'scipy'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ---- the report


@pytest.fixture(scope="module")
def text(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(whole, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def test_the_section_shows_what_is_stored(whole: Path, text: str) -> None:
    page = Page(text)
    is_inert(page)
    assert "no longer need its previous tokens for these 3 tasks?" in page.texts("h1")[0]
    stored = pd.read_parquet(whole / "tables" / "intervene_depths.parquet")
    shown = values(text.split('id="interventions"')[1].split("</table>")[0])
    wanted = stored[["unedited", "all_edited", "depth"]].to_numpy().ravel()
    assert shown == wanted[~np.isnan(wanted)].tolist()
    curves = pd.read_parquet(whole / "tables" / "intervene_curves.parquet")
    assert set(curves["value"]) <= set(values(text.split('id="interventions"')[1]))
    labels = [at["aria-label"] for tag, at, _ in page.elements if tag == "svg" and at.get("role") == "img"]
    assert len(labels) == 5 and all("unedited" in str(label) for label in labels)
    assert "influence intervene --config config.toml" in text
    links = {at["href"] for tag, at, _ in page.elements if tag == "a"}
    assert links <= {f"#{at['id']}" for _, at, _ in page.elements if "id" in at}


def test_figures_are_written_one_by_one(whole: Path, tmp_path: Path) -> None:
    names = {path.name for path in write_figures(whole, tmp_path, formats=("svg",))}
    assert names == {f"edits-{place}.svg" for place in range(5)}
    found = intervening.again(whole, None).result
    drawn = influence.intervention_figure(found, metric="perplexity")
    assert ">noise<" in drawn.svg() and "perplexity on perplexity" in drawn.words
    with pytest.raises(ValueError, match="the results have exact match, log p, perplexity"):
        influence.intervention_figure(found, metric="accuracy")


def test_edits_stand_beside_probes_and_no_text_changes_the_page(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "drawer", lambda: lambda name, build, label: "<svg/>")
    made = []
    for name, texts in (("hostile", PAYLOADS), ("plain", tuple(f"plain {k}" for k in range(len(PAYLOADS))))):
        run = probe_run(tmp_path / name)
        for table in ("intervene_curves", "intervene_depths", "intervene_tasks"):
            frame = pd.read_parquet(whole / "tables" / f"{table}.parquet")
            rename = dict(zip(("recall", "two-hop", "perplexity", "noise", "freeze"), texts, strict=False))
            frame["task"] = frame["task"].map(rename)
            if "edit" in frame:
                frame["edit"] = frame["edit"].map(rename)
            else:
                frame["about"], frame["notes"] = texts[5:8], [list(texts[8:12])] * 3
            frame.to_parquet(run / "tables" / f"{table}.parquet", index=False)
        made.append(Page(write_report(run).read_text("utf-8")))
    assert made[0].skeleton() == made[1].skeleton()
    is_inert(made[0])
    rewrite(tmp_path / "plain", "intervene_curves", lambda frame: frame.drop(columns="depth"))
    with pytest.raises(ValueError, match="lacks depth"):
        write_report(tmp_path / "plain")


def test_the_report_can_be_written_again(whole: Path) -> None:
    again = write_again(whole)
    assert again.report is not None and again.report.is_file() and "#interventions" in str(again)
