"""The report says what the tables say, loads nothing, and no text of the data can act in it."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_case import make_run, write_manifest
from report_reading import Page, data, rewrite, table, values

from influence.report import page as pages
from influence.report import words, write_figures, write_report
from influence.report.read import read_run
from influence.store import NotARun, WriteFailed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), n_queries=3, n_rows=160, n_layers=3, places=5)


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


# ---- numbers


def test_cards_hold_the_numbers_of_the_top_table(run: Path, text: str) -> None:
    top = table(run, "top")
    for query, ranking in top[["query", "ranking"]].drop_duplicates().itertuples(index=False):
        panel = text.split(f'id="rank-{query}-{ranking}"')[1].split('class="ranking"')[0].split('class="figures"')[0]
        part = top[(top["query"] == query) & (top["ranking"] == ranking)]
        part = pd.concat([part[part["side"] == side].sort_values("place") for side in ("for", "against")])
        first, second = ("score", None) if ranking == "nats" else ("normalised", "score")
        expected = part[first].tolist() if second is None else part[[first, second]].to_numpy().ravel().tolist()
        assert values(panel) == expected
        assert [int(row) for row in re.findall(r'data-row="(\d+)"', panel)] == part["row"].tolist()


def test_rows_of_the_fact_asked_for_are_marked(run: Path, text: str) -> None:
    known = table(run, "rows").set_index("row")["fact"]
    asked = table(run, "queries").set_index("query")["fact"]
    top = table(run, "top")
    right = sum(known[row] == asked[query] for query, row in top[["query", "row"]].itertuples(index=False))
    assert right > 0 and text.count("the fact asked for</span>") == right


def test_every_other_table_is_shown_as_stored(run: Path, text: str) -> None:
    assert values(text.split('class="logp"')[1].split("</p>")[0]) == table(run, "queries")["log_p"].tolist()[:1]
    lines = table(run, "retrieval")[["mrr", "low", "high", "p_at_5"]].to_numpy().ravel().tolist()
    assert values(text.split('id="retrieval"')[1].split("</section>")[0]) == lines
    blocks = table(run, "blocks")[["mean_eigenvalue", "damping"]].to_numpy().ravel().tolist()
    assert values(text.split('id="blocks"')[1].split("</section>")[0]) == blocks
    tails = table(run, "tails").dropna(subset=["alpha_density"])
    shown = values(" ".join(part.split("</ul>")[0] for part in text.split('class="fits"')[1:]))
    for name in ("alpha_density", "alpha_survival", "xmin", "low", "high"):
        assert set(tails[name]) <= set(shown), name
    layers = table(run, "layers")[["signed", "positive", "negative", "absolute"]].to_numpy().ravel().tolist()
    assert set(layers) <= set(values(text))


def test_a_number_is_shown_to_three_digits_with_its_sign(run: Path, page: Page) -> None:
    best = table(run, "top").query("ranking == 'nats' and place == 1 and side == 'against'").iloc[0]
    assert words.number(best["score"], sign=True) in page.texts("data")
    assert words.number(-0.0123456, sign=True) == "\u22120.0123"
    assert words.number(3.0e-5, sign=True) == "+3.00\u00b710\u207b\u2075"
    assert words.number(9.996e-4) == "0.00100"
    assert words.number(float("nan")) == "n/a" and words.number(0.0) == "0" and words.number(12345.6) == "12,346"


def test_heat_maps_hold_the_tokens_and_their_scores(run: Path, page: Page) -> None:
    stored, found = table(run, "tokens"), data(page)
    assert found["maps"]
    for key, entry in found["maps"].items():
        query, row = map(int, key.split(":"))
        part = stored[(stored["query"] == query) & (stored["row"] == row)].sort_values("position")
        shown = np.frombuffer(base64.b64decode(entry["v"]), np.int8) * entry["s"]
        np.testing.assert_allclose(shown, part["score"], rtol=0, atol=entry["s"] / 2 * 1.001)
        layers = np.frombuffer(base64.b64decode(entry["l"]), np.int8).reshape(-1, entry["n"]) * entry["ls"]
        np.testing.assert_allclose(layers, np.stack(part["by_layer"]), rtol=0, atol=entry["ls"] / 2 * 1.001)
        assert found["tokens"][str(row)] == [words.clean(token) for token in part["token"]]


def test_compared_queries_have_the_stored_scores(run: Path, page: Page) -> None:
    compare = data(page)["compare"]
    import xarray

    stored = xarray.open_zarr(run / "scores.zarr", consolidated=False, chunks=None)["score"].sum("layer")
    wanted = stored.sel(query=list(map(int, compare["queries"])), row=list(map(int, compare["rows"])))
    np.testing.assert_allclose(compare["scores"], wanted.values, rtol=6e-3)
    rho = pd.DataFrame(stored.values.T).corr("spearman").to_numpy()
    np.testing.assert_allclose(compare["rho"], rho, atol=0.006)


# ---- what is in the page


def test_the_page_says_what_a_reader_needs(text: str) -> None:
    for words_ in (
        "EK-FAC takes no product with the curvature, so nothing certifies the solve",
        "Score in nats",
        "Ranking divided by row norm",
        "would rise by about so many nats",
        "The coloured token is the one <em>before</em> the prediction that it affects",
        "Symmetric about 0",
        "×2 identical rows",
        "Density exponent",
        "survival exponent",
        "<b>Not fitted</b>",
        "60.5\u202f% of all parameters",
        "0.1 × each block&#39;s mean eigenvalue",
        "3 rows of one token carry no prediction",
        "fitted on all 160 rows",
        "<noscript>",
        "influence run ",
        "--model runs/demo/model-d128",
        "1\u202fmin 16\u202fs",
    ):
        assert words_ in text, words_


def test_missing_tables_leave_a_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path, n_queries=2, n_rows=80, places=2, scores=False)
    for name in ("retrieval", "tokens", "blocks", "layers", "tail_points"):
        (run / "tables" / f"{name}.parquet").unlink()
    (run / "log.jsonl").unlink()
    rewrite(run, "tails", lambda frame: frame[frame["query"] != 3])
    write_manifest(run, tracked={}, facts={}, warnings=[], settings={})
    text = write_report(run, tmp_path / "elsewhere" / "page.html").read_text(encoding="utf-8")
    for sentence in (
        "there is no retrieval table",
        "the run stored no scores per token",
        "The run stored no table of blocks",
        "No layer profile",
        "No tail: the run stored no fit for this query",
        "No points of the tail were stored",
        "No log was stored",
        "not recorded in this run",
        "no baseline was compared",
    ):
        assert sentence in text, sentence
    assert data(Page(text))["compare"] is None


def test_the_least_run_makes_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, n_queries=1, n_rows=60, places=2, scores=False)
    for path in (run / "tables").iterdir():
        if path.stem not in ("queries", "top"):
            path.unlink()
    rewrite(run, "top", lambda frame: frame[(frame["side"] == "for") & (frame["ranking"] == "nats")])
    text = write_report(run).read_text(encoding="utf-8")
    assert "No row does, in this ranking" in text and "Ranking divided by row norm" not in text
    rewrite(run, "queries", lambda frame: frame.head(0))
    assert "This run has no query" in write_report(run).read_text(encoding="utf-8")


def test_seed_agreement_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path, n_queries=1, n_rows=60, places=1)
    write_manifest(run, seed_agreement=0.87)
    assert "agreement between seeds: 0.870" in write_report(run).read_text(encoding="utf-8")


# ---- size, errors, figures


def test_a_page_too_large_is_made_smaller_until_it_fits(
    run: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = len(text.encode("utf-8"))
    assert whole < 10_000_000
    monkeypatch.setattr(pages, "drawer", lambda: lambda name, build, label: "")
    monkeypatch.setattr(pages, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="ask for fewer rows"):
        write_report(run, tmp_path / "none.html")
    undrawn = len(write_with(monkeypatch, run, tmp_path / "whole.html", 10_000_000))
    page = write_with(monkeypatch, run, tmp_path / "small.html", undrawn - 100)
    assert len(page) < undrawn and b"fewer rows or heat maps than the run holds" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.html", "whole.html"]


def write_with(monkeypatch: pytest.MonkeyPatch, run: Path, out: Path, most: int) -> bytes:
    monkeypatch.setattr(pages, "MOST_BYTES", most)
    return write_report(run, out).read_bytes()


def test_the_same_run_gives_the_same_bytes(run: Path, text: str, tmp_path: Path) -> None:
    assert write_report(run, tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_what_is_no_run_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotARun, match="holds no run"):
        read_run(tmp_path)
    run = make_run(tmp_path / "run", n_queries=1, n_rows=60, places=1)
    path = run / "tables" / "layers.parquet"
    whole = path.read_bytes()
    digest = hashlib.sha256(whole).hexdigest()
    write_manifest(run, pieces={"tables/layers.parquet": {"sha256": digest, "bytes": len(whole)}})
    assert "layers" in read_run(run).tables
    path.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="layers.parquet is damaged: its SHA-256"):
        read_run(run)
    write_manifest(run)
    with pytest.raises(ValueError, match="layers.parquet is damaged"):
        read_run(run)
    path.write_bytes(whole)
    rewrite(run, "layers", lambda frame: frame.drop(columns="absolute"))
    with pytest.raises(ValueError, match="lacks absolute"):
        read_run(run)
    path.unlink()
    (run / "tables" / "top.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"top.parquet is missing"):
        read_run(run)
    (run / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(NotARun, match="cannot be trusted"):
        read_run(run)


def test_a_place_that_cannot_be_written_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(WriteFailed, match="give a directory that can be written"):
        write_report(run, tmp_path / "file" / "report.html")


def test_a_missing_extra_says_what_to_install(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ImportError, match=r"pip install 'influence\[report\]'"):
        write_figures(run, tmp_path)


def test_figures_are_written_one_by_one(run: Path, tmp_path: Path) -> None:
    written = write_figures(run, tmp_path / "figures")
    names = {path.name for path in written}
    assert {"retrieval.svg", "top-share.png", "layers-3.svg", "layers-absolute-10.svg", "tail-17.png"} <= names
    assert all(path.stat().st_size > 500 for path in written) and len(written) == 2 * (2 + 3 * 3)
    assert (tmp_path / "figures" / "tail-3.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="unknown figure format 'pdf'"):
        write_figures(run, tmp_path, formats=("pdf",))
