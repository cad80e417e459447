"""The section of local learning coefficients: stored numbers, words for every figure, no text that acts."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import job_case
import llc_tables
import numpy as np
import pytest
from report_payloads import PAYLOADS
from report_reading import Page, is_inert, rewrite, table, values

import influence
from influence.cli import job
from influence.llc.notes import kinds
from influence.report import page as pages
from influence.report import write_figures, write_report
from influence.report.read import read_run

STEPS = (0.0, 1.0, 3.0, 9.0, 25.0, 73.0, 74.0)
SHOWN = ("value", "mcse", "rhat", "ess", "step_bias")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = ("all", "layer 0 mlp", *llc_tables.HEADS)
    return llc_tables.llc_run(tmp_path_factory.mktemp("one"), parts)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llc_tables.llc_run(tmp_path_factory.mktemp("several"), steps=STEPS)


@pytest.fixture(scope="module")
def one_text(one: Path) -> str:
    return write_report(one).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def several_text(several: Path) -> str:
    return write_report(several).read_text(encoding="utf-8")


@pytest.fixture()
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures as empty drawings with their words, since drawing takes most of the time."""

    def drawing(name: str, build: object, label: str) -> str:
        return f'<svg role="img" aria-label="{escape(label)}"/>'

    monkeypatch.setattr(pages, "drawer", lambda: drawing)


def labels(text: str) -> list[str]:
    return [at["aria-label"] or "" for tag, at, _ in Page(text).elements if tag == "svg" and at.get("role") == "img"]


def last_table(text: str) -> str:
    return text.split("as a table</summary>")[1].split("</table>")[0]


def test_the_section_stands_alone_and_links_hold(one_text: str) -> None:
    assert re.findall(r'<section id="(\w+)"', one_text) == ["llc", "provenance"]
    page = Page(one_text)
    assert page.texts("h1") == ["How degenerate is the loss of models/tiny in each of 8 parts?"]
    links = {at["href"] for tag, at, _ in page.elements if tag == "a"}
    assert links <= {f"#{at['id']}" for _, at, _ in page.elements if "id" in at}
    is_inert(page)
    lead = page.texts("p", "lead")[0]
    assert "nβ = 37.7" in lead and "γ = 100" in lead and "damped effective dimension" in lead


def test_the_table_shows_what_is_stored(one: Path, one_text: str) -> None:
    stored, shown = table(one, "llc"), last_table(one_text)
    wanted = stored[list(SHOWN)].to_numpy(float).ravel()
    assert values(shown) == wanted[~np.isnan(wanted)].tolist()
    rows = shown.split("<tr>")[2:]
    assert len(rows) == len(stored)
    withheld = rows[-2]
    assert withheld.count("<td>–</td>") == len(SHOWN) and "1 of 3" in withheld and "diverged" in withheld
    assert "nan" not in shown.lower() and "None" not in one_text
    assert "R-hat, few draws" in rows[2] and "negative, short" in rows[1] and "none" in rows[0]


def test_diverged_and_negative_are_said_with_their_cause(one_text: str) -> None:
    page = " ".join(Page(one_text).texts("li"))
    assert "Withheld: fewer than two chains did not diverge for layer 2 head 0, so there is no estimate." in page
    assert "Negative: layer 0 mlp (−2.50): the loss still falls" in page and "no minimum of this loss" in page
    assert "2 of 24 chains diverged and are in no number; 1 estimate withheld" in page
    assert "short (1 of 8 parts)" in page and llc_tables.SHORT in page


def test_every_figure_has_its_numbers_in_words(one: Path, one_text: str, several_text: str) -> None:
    dots, *chains = labels(one_text)
    first = table(one, "llc").iloc[0]
    assert f"all {first['value']:.2f} ± {first['mcse']:.2f}" in dots and "layer 2 head 0 withheld" in dots
    reasons = ("worst R-hat", "highest λ̂", "lowest λ̂", "estimate withheld")
    assert len(chains) == 4 and all(why in said for why, said in zip(reasons, chains, strict=True))
    draws = table(one, "llc_draws")
    mean = draws[(draws["part"] == "layer 0 head 0") & (draws["chain"] == 0)]["energy"].mean()
    assert "of layer 0 head 0 by draw" in chains[0] and f"end at {mean:.2f}" in chains[0]
    assert "2 chains diverged" in chains[3]
    assert "6 parts at 7 steps from 0 to 74" in labels(several_text)[0] and "begin at 9." in labels(several_text)[0]


def test_several_checkpoints_have_clusters_borders_and_the_last_as_table(several: Path, several_text: str) -> None:
    drawn, stored = several_text.split("Across training")[1].split("</figure>")[0], table(several, "llc")
    for word in ("cluster 1", "cluster 2", "no cluster", "3"):
        assert f">{word}<" in drawn, word
    assert "silhouette 0.81" in drawn and "s-raise" in drawn and "s-lower" in drawn
    by_step = several_text.split("by checkpoint</summary>")[1].split("</table>")[0]
    wide = stored.pivot(index="part", columns="step", values="value").loc[list(llc_tables.HEADS)].to_numpy().ravel()
    assert values(by_step) == wide[~np.isnan(wide)].tolist()
    rows = by_step.split("<tr>")[2:]
    assert "<td>2</td><td>9.00</td>" in rows[3] and "<td>1</td><td>–</td>" in rows[0]
    assert "<td>–</td>" in rows[4] and rows[4].count("<td>–</td>") == 3
    last = stored[stored["step"] == 74][list(SHOWN)].to_numpy(float).ravel()
    assert values(last_table(several_text)) == last[~np.isnan(last)].tolist()
    assert "At the last checkpoint" in several_text and "λ̂ of every part" not in several_text


def test_figures_are_written_one_by_one(one: Path, several: Path, tmp_path: Path) -> None:
    chains = {f"llc-chains-{k}.svg" for k in range(4)}
    assert {path.name for path in write_figures(one, tmp_path, formats=("svg",))} == {"llc-parts.svg", *chains}
    assert {path.name for path in write_figures(several, tmp_path, formats=("svg",))} == {"llc-curves.svg", *chains}
    dots = (tmp_path / "llc-parts.svg").read_text(encoding="utf-8")
    assert ">withheld<" in dots and all(f">{part}<" in dots for part in ("all", "layer 0 mlp", *llc_tables.HEADS))


def test_least_runs_make_pages(tmp_path: Path) -> None:
    """One part alone; every estimate withheld; constant chains; two checkpoints without clusters; no draws."""
    alone = write_report(llc_tables.llc_run(tmp_path / "alone", ("all",), plain=True)).read_text("utf-8")
    assert "in this part?" in alone and "worst R-hat and highest λ̂ and lowest λ̂" in labels(alone)[1]
    none = llc_tables.llc_run(tmp_path / "none", ("a", "b", "c"), (0, 1, 2))
    rewrite(none, "llc", lambda frame: frame.assign(**dict.fromkeys(SHOWN, np.nan), notes="2 of 3 chains diverged"))
    rewrite(none, "llc_draws", lambda frame: frame.assign(kept=False))
    assert "Across training" not in (text := write_report(none).read_text("utf-8")) and values(last_table(text)) == []
    flat = llc_tables.llc_run(tmp_path / "flat", ("a", "b"), (0, 5), plain=True)
    rewrite(flat, "llc_draws", lambda frame: frame.assign(energy=0.0))
    rewrite(flat, "llc_curves", lambda frame: frame.assign(cluster=None, silhouette=np.nan))
    assert ">a<" in write_report(flat).read_text("utf-8").split("Across training")[1].split("</figure>")[0]
    (flat / "tables" / "llc_draws.parquet").unlink()
    assert "Chains of" not in write_report(flat).read_text("utf-8")


def test_no_section_without_the_tables_and_damage_is_named(tmp_path: Path) -> None:
    run = llc_tables.llc_run(tmp_path, ("all",))
    (run / "tables" / "llc.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="queries.parquet is missing"):
        read_run(run)
    llc_tables.llc_run(run, ("all",))
    rewrite(run, "llc", lambda frame: frame.drop(columns="n_beta"))
    with pytest.raises(ValueError, match="lacks n_beta"):
        read_run(run)


def test_no_name_changes_the_page(tmp_path: Path, undrawn: None) -> None:
    """Every text of the data is a payload; the elements must be those of the same page with harmless texts."""
    found = []
    for name, texts in (("hostile", PAYLOADS), ("plain", tuple(f"plain {k}" for k in range(len(PAYLOADS))))):
        for steps in ((0.0,), STEPS):
            run = llc_tables.llc_run(tmp_path / name / str(len(steps)), texts[:30], steps)
            notes = np.resize(np.array(texts[30:], dtype=object), 30 * len(steps))
            rewrite(run, "llc", lambda frame, notes=notes, texts=texts: frame.assign(notes=notes, sampler=texts[3]))
            found.append(Page(write_report(run).read_text("utf-8")))
    for hostile, plain in zip(found[:2], found[2:], strict=True):
        assert hostile.skeleton() == plain.skeleton() and hostile.declarations == ["doctype html"]
        is_inert(hostile)


def test_hostile_names_can_be_drawn(tmp_path: Path) -> None:
    for steps in ((0.0,), STEPS):
        run = llc_tables.llc_run(tmp_path / str(len(steps)), PAYLOADS[:6], steps)
        text = write_report(run).read_text("utf-8")
        is_inert(Page(text))


def test_kinds_of_notes() -> None:
    assert kinds(llc_tables.SLOW) == ["R-hat", "few draws"] and kinds(None) == [] and kinds("") == []
    assert kinds(llc_tables.FALLING) == ["negative"] and kinds(llc_tables.SHORT) == ["short"]


def test_a_run_writes_links_and_rewrites_its_report(tmp_path: Path) -> None:
    made = job_case.make(tmp_path)
    settings: dict[str, Any] = {"n_beta": 5.0, "step_size": 1e-5, "batch_size": 4, "chains": 2, "draws": 8, "thin": 1}
    settings |= {"burn_in": 2, "length": 32, "limit": 8, "where": ["layer 0 head 0", "layer 0 mlp"], "progress": False}
    settings |= {"data": made["data"], "out": tmp_path / "run"}
    without = influence.run_llc(made["model"], report=False, **settings)
    assert without.report is None and not (tmp_path / "run" / "report.html").exists()
    found = influence.run_llc(made["model"], **settings)
    assert found.report == tmp_path / "run" / "report.html" and "report.html#llc" in str(found)
    text = found.report.read_text("utf-8")
    stored = found.table("llc")[list(SHOWN)].to_numpy(float).ravel()
    assert values(last_table(text)) == stored[~np.isnan(stored)].tolist()
    assert found.table("llc_draws")["kept"].all()
    again = job.write_again(tmp_path / "run")
    assert str(again) == str(found) and type(again) is type(found)
