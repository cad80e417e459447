"""The report of a study: nothing acts, nothing is missing silently, and every number is one of the tables."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_payloads import PAYLOADS
from report_reading import Page, is_inert, values
from study_tables import SETTINGS, payload

from influence.report import words
from influence.report.study import methods_text, study_figures, write_study_report
from influence.report.study import page as pages
from influence.report.study.cells import cells
from influence.report.study.methods import flat
from influence.report.study.pens import file_svg
from influence.report.study.read import read_study
from influence.report.study.trends import per_model, removal_rows, short_count, trends
from influence.report.study.verdicts import NAMES, PRIMARIES, summary

SVG = "{http://www.w3.org/2000/svg}"
EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text fill="#1f2430">drawn</text></svg>'


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    return payload(sizes=4, seeds=3, concepts=10, named=["answer: <script>alert(1)</script>"])


@pytest.fixture()
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts of the plotting library as empty drawings, since they take most of the time."""
    monkeypatch.setattr(pages, "draw", lambda chart: EMPTY)


@pytest.fixture(scope="module")
def written(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_report(tmp_path_factory.mktemp("study") / "report.html", given)


@pytest.fixture(scope="module")
def text(written: Path) -> str:
    return written.read_text(encoding="utf-8")


def section(text: str, name: str) -> str:
    return text.split(f'<section id="{name}"')[1].split("</section>")[0]


def links_home(page: Page) -> None:
    """What `is_inert` asks for, but links may also lead to the figures beside the page."""
    for tag, attributes, _ in page.elements:
        if tag == "a" and re.fullmatch(r"figures/[a-z0-9-]+\.svg", attributes.get("href") or ""):
            assert attributes.pop("download") == (attributes["href"] or "").removeprefix("figures/")
            attributes["href"] = "#"
    is_inert(page)
    known = {f"#{at['id']}" for _, at, _ in page.elements if "id" in at} | {"#"}
    assert {at["href"] for tag, at, _ in page.elements if tag == "a"} <= known


def test_every_text_is_shown_and_none_acts(tmp_path: Path, undrawn: None) -> None:
    hostile = tmp_path / "hostile" / "report.html"
    write_study_report(hostile, filled_with(PAYLOADS))
    harmless = write_study_report(
        tmp_path / "harmless" / "report.html", filled_with(tuple(f"plain {k}" for k in range(len(PAYLOADS))))
    )
    one, other = Page(hostile.read_text("utf-8")), Page(harmless.read_text("utf-8"))
    assert one.skeleton() == other.skeleton()
    assert one.declarations == other.declarations == ["doctype html"]
    links_home(one)
    shown = " ".join(one.texts("body"))
    for told in PAYLOADS:
        assert words.clean(told).strip() in shown, told
    for path in (tmp_path / "hostile" / "figures").iterdir():
        assert re.fullmatch(r"[a-z0-9-]+\.svg", path.name)
        assert_drawing(path.read_text("utf-8"))


def filled_with(texts: tuple[str, ...]) -> dict[str, Any]:
    """A payload in which every text of the data is one of these."""
    found = payload(sizes=1, seeds=1, concepts=6, judged=False, named=texts[:6])
    every: Iterator[str] = iter(np.resize(np.array(texts, dtype=object), 4000))
    tables = found["tables"]
    model, size = next(every), next(every)
    for name, frame in tables.items():
        tables[name] = frame.assign(**{key: text for key, text in (("model", model), ("size", size)) if key in frame})
    about = {name: [next(every) for _ in range(6)] for name in ("expected", "about")}
    tables["concepts"] = tables["concepts"].assign(kind=next(every), **about)
    tables["depth"] = tables["depth"].assign(d50=np.linspace(0.1, 0.9, 6))  # else their order would be that of names
    told = {name: next(every) for name in ("unit", "null", "decision", "words")}
    numbers = {"effect": 0.1, "low": 0.0, "high": 0.2, "p": 0.01, "p_adjusted": 0.04}
    found["verdicts"] = [
        {"quantity": quantity, **numbers, **told, "falsifiers": {next(every): 0.2}, "controls": {next(every): 0.3},
         "parts": [{next(every): next(every), next(every): 1.5}], "remarks": [next(every)],
         "details": {next(every): next(every), next(every): {next(every): next(every)}}}
        for quantity in NAMES
    ]  # fmt: skip
    found["skipped"] = [{name: next(every) for name in ("model", "concept", "part", "why")} for _ in range(len(texts))]
    found["settings"] = {next(every): {next(every): next(every)} for _ in range(len(texts))}
    found["versions"] = {next(every): next(every)}
    found["facts"] = {next(every): next(every), "remarks": [next(every)]}
    return found | {name: next(every) for name in ("command", "toml", "title")}


def test_a_concept_named_script_is_text(text: str, written: Path) -> None:
    assert "<script>alert" not in text and "answer: &lt;script&gt;alert(1)&lt;/script&gt;" in text
    links_home(Page(text))
    figure = (written.parent / "figures" / "map-answer-script-alert-1-script.svg").read_text("utf-8")
    assert "answer: <script>alert(1)</script>" in [node.text for node in ET.fromstring(figure).iter(f"{SVG}text")]


def test_the_policy_allows_only_the_pages_own_script(text: str) -> None:
    page = Page(text)
    policy = next(
        at["content"] or "" for _, at, _ in page.elements if at.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    for tag in ("script", "style"):
        assert pages.source_hash(page.texts(tag)[-1]) in policy
    own = page.texts("script")[-1] + page.texts("style")[0]
    for word in ("innerHTML", "document.write", "eval(", "fetch(", "@import", "url("):
        assert word not in own, word


def test_verdicts_show_their_numbers(given: dict[str, Any], text: str) -> None:
    part = section(text, "verdicts")
    shown = values(part)
    for one in given["verdicts"]:
        for name in ("effect", "low", "high", "p"):
            assert np.isnan(one[name]) or one[name] in shown, (one["quantity"], name)
        assert one["quantity"] not in PRIMARIES or np.isnan(one["p"]) or one["p_adjusted"] in shown
        assert unescape(part).count(one["words"]) == 1
        for p in (*one["falsifiers"].values(), *one["controls"].values()):
            assert p in shown
        if one["parts"] is not None:
            numbers = one["parts"].select_dtypes("number").to_numpy().ravel()
            assert set(numbers[np.isfinite(numbers)]) <= set(shown)
    assert part.count('aria-hidden="true">–</b>') + part.count('aria-hidden="true">✓</b>') >= 1


def test_a_concepts_numbers_are_those_of_the_tables(given: dict[str, Any], text: str) -> None:
    depth = given["tables"]["depth"]
    tails = given["tables"]["tails"].groupby(["model", "concept"], observed=True)["effective_count"].mean()
    mass = given["tables"]["layer_mass"]
    middle = (mass["depth"] * mass["mass"]).groupby([mass["model"], mass["concept"]], observed=True).sum() / 6
    articles = re.findall(r'<article.*?<span dir="auto">(.*?)</span>.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert len(articles) == 10
    for name, body in articles:
        part = depth[depth["concept"] == unescape(name)].set_index("model")
        rows = re.findall(r'<tr><td class="left" dir="auto">(.*?)</td>(.*?)</tr>', body, re.DOTALL)
        assert [model for model, _ in rows] == given["tables"]["models"]["model"].tolist()
        for model, line in rows:
            stored = part.loc[model]
            wanted = [stored[key] for key in ("d50", "d95")] + [middle[model, unescape(name)]]
            wanted += [stored[key] for key in ("tfidf", "recall", "query_loss")] + [tails[model, unescape(name)]]
            wanted = [value for value in [*wanted, stored["k95"]] if np.isfinite(value)]
            assert values(line) == pytest.approx(wanted, rel=1e-12)


def test_panels_show_means_over_seeds(given: dict[str, Any], text: str) -> None:
    study = read_study(given)
    found = {(cell.concept, cell.size): cell for cell in cells(study)}
    assert len(found) == 10 * 4
    curve, mass = given["tables"]["curve"], given["tables"]["layer_mass"]
    concept = study.concepts["concept"].iloc[0]
    own = [f"s2-{seed}" for seed in range(3)]
    cell = found[concept, "s2"]
    part = curve[(curve["concept"] == concept) & curve["model"].isin(own)]
    assert cell.curve is not None and cell.mass is not None
    wanted = [np.mean(part.loc[part["layer"] == layer, "value"]) for layer in range(-1, 6)]
    np.testing.assert_allclose(cell.curve["value"], wanted)
    part = mass[(mass["concept"] == concept) & mass["model"].isin(own)]
    np.testing.assert_allclose(cell.mass["mass"], [np.mean(part.loc[part["layer"] == k, "mass"]) for k in range(6)])
    assert cell.mass["mass"].sum() == pytest.approx(1) and cell.mass["even"].mean() == pytest.approx(1)
    d50 = given["tables"]["depth"].query("concept == @concept and model in @own")["d50"].dropna()
    assert cell.d50.mean == pytest.approx(d50.mean()) and cell.d50.seeds == len(d50)
    assert f"D50 {words.fixed(d50.mean())}" in text
    labels = [at.get("aria-label") or "" for tag, at, _ in Page(text).elements if tag == "svg" and "role" in at]
    assert all(re.search(r"\d", label) and len(label) > 40 for label in labels)
    assert sum("D50 undefined" in label for label in labels) >= 4 * 4  # nulls at every size


def test_nulls_are_marked_and_concepts_stand_in_order(given: dict[str, Any], text: str) -> None:
    about = given["tables"]["concepts"].set_index("concept")
    names = [unescape(one) for one in re.findall(r'<article.*?<h4><span dir="auto">(.*?)</span>', text, re.DOTALL)]
    assert [about.loc[name, "kind"] for name in names] == [
        kind for kind in ("answer", "lexical", "syntactic", "truth", "two-hop") for _ in range(2)
    ]
    mean = given["tables"]["depth"].groupby("concept")["d50"].mean()
    for first, second in zip(names[:6:2], names[1:6:2], strict=True):
        assert mean[first] <= mean[second]
    marked = re.findall(r'<article class="concept null".*?<span dir="auto">(.*?)</span>', text, re.DOTALL)
    assert marked == names[6:] and text.count("null: expected at chance") == 4


def test_removal_and_signature_tables(given: dict[str, Any], text: str) -> None:
    part = section(text, "margin")
    removal = given["tables"]["removal"]
    rows = removal_rows(read_study(given))
    assert rows is not None
    one = removal[(removal["size"] == "s3") & (removal["seed"] == 2) & (removal["arm"] == "top")]
    before = one[one["d50_before"].notna()]
    line = rows[(rows["size"] == "s3") & (rows["seed"] == 2) & (rows["arm"] == "top")].iloc[0]
    assert line["shift"] == pytest.approx((before["d50_after"].fillna(1) - before["d50_before"]).mean())
    assert line["recall"] == pytest.approx((one["recall_after"] - one["recall_before"]).mean())
    assert line["lost"] == before["d50_after"].isna().sum()
    assert set(rows["shift"]) | set(rows["recall"]) <= set(values(part))
    assert given["tables"]["signature"].query("model.str.startswith('s1')")["auc_signature"].mean() in [
        pytest.approx(value) for value in values(part)
    ]


def test_trends_are_means_over_concepts_that_every_model_defines(given: dict[str, Any]) -> None:
    study = read_study(given)
    found = {one.name: one for one in trends(study)}
    assert set(found) == {"loss", "recall", "d50", "centroid", "effective-count", "k95"}
    assert found["loss"].values["value"].tolist() == given["tables"]["models"]["loss"].tolist()
    frame = pd.DataFrame({"model": "s0-0", "concept": list("abcdef"), "x": [1.0, 2, 3, 4, 5, 60]})
    both = pd.concat([frame.assign(model=name, x=frame["x"] * k) for k, name in enumerate(study.models["model"], 1)])
    both.loc[(both["model"] == "s0-0") & (both["concept"] == "f"), "x"] = np.nan
    means, note = per_model(study, both, "x")
    assert means["value"].tolist() == pytest.approx([3.0 * k for k in range(1, 13)]) and "5 concepts" in note
    means, note = per_model(study, both[both["concept"].isin(["a", "f"])], "x")
    assert means["value"].tolist()[:2] == pytest.approx([1.0, 61.0]) and "may differ" in note
    assert [short_count(n) for n in (512, 99_900, 133_696, 7_400_000, 1.2e9)] == [
        "512",
        "99.9k",
        "134k",
        "7.4M",
        "1.2B",
    ]


TABLES = (
    "concepts",
    "curve",
    "depth",
    "depth_draws",
    "layer_mass",
    "layer_tail",
    "tails",
    "margin",
    "removal",
    "signature",
)


@pytest.mark.parametrize(
    "left", [*((name,) for name in TABLES), TABLES], ids=lambda left: "-".join(left[:1] * len(left[:2]))
)
def test_a_table_less_makes_a_page(given: dict[str, Any], tmp_path: Path, undrawn: None, left: tuple[str, ...]) -> None:
    kept = {name: frame for name, frame in given["tables"].items() if name not in left}
    text = write_study_report(tmp_path / "report.html", given | {"tables": kept}).read_text("utf-8")
    links_home(Page(text))
    assert re.findall(r'<section id="(\w+)"', text) == [
        "verdicts", "maps", "scale", "tails", "margin", "skipped", "methods"
    ]  # fmt: skip
    sentences = {"margin": "margin was not measured", "removal": "No model was trained again",
                 "signature": "No influence signatures", "layer_tail": "No tail exponents"}  # fmt: skip
    for name, sentence in sentences.items():
        assert (sentence in text) == (name in left), name
    assert ("Neither probes nor influence" in text) == (left == TABLES)


def test_one_size_one_seed_and_nothing_but_models(tmp_path: Path, undrawn: None) -> None:
    one = payload(sizes=1, seeds=1, concepts=6)
    text = write_study_report(tmp_path / "one.html", one).read_text("utf-8")
    assert "One size only" in text and 'id="seeds"' not in text
    told = next(v for v in one["verdicts"] if v["quantity"] == 6)
    assert told["decision"] == "not testable" and told["words"] in unescape(text)
    assert "not be made" in text and ">?</b>" in text
    bare = write_study_report(tmp_path / "bare.html", {"tables": {"models": one["tables"]["models"]}}).read_text(
        "utf-8"
    )
    for sentence in ("No verdict was made", "Nothing was skipped", "No command was stored", "No versions were stored"):
        assert sentence in bare, sentence
    links_home(Page(bare))


def test_only_the_last_step_of_trained_models_counts(given: dict[str, Any]) -> None:
    tables = given["tables"]
    early = tables["models"].assign(step=10, loss=9.0)
    fresh = tables["models"].assign(step=0, untrained=True, model=tables["models"]["model"] + "-fresh")
    depth = pd.concat([tables["depth"].assign(step=10, d50=0.99), tables["depth"]])
    more = given | {"tables": tables | {"models": pd.concat([early, fresh, tables["models"]]), "depth": depth}}
    study = read_study(more)
    assert study.models["model"].tolist() == tables["models"]["model"].tolist() and (study.models["step"] == 1000).all()
    np.testing.assert_array_equal(study.tables["depth"]["d50"], tables["depth"]["d50"])
    apart = {"tables": {k: v for k, v in tables.items() if k not in ("models", "concepts")},
             "models": tables["models"], "concepts": tables["concepts"]}  # fmt: skip
    assert read_study(apart).concepts["concept"].tolist() == read_study(given).concepts["concept"].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p | {"tables": {}}, "needs the table models"),
        (lambda p: p | {"verdict": []}, "unknown keys verdict"),
        (lambda p: p | {"verdicts": [{"effect": 1.0}]}, "no quantity"),
        (
            lambda p: p | {"tables": p["tables"] | {"curve": p["tables"]["curve"].drop(columns="value")}},
            "curve .* value",
        ),
        (lambda p: p | {"models": p["tables"]["models"].assign(untrained=True)}, "no trained model"),
    ],
)
def test_bad_payloads_are_named(given: dict[str, Any], change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study_figures(change(given))


def assert_drawing(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg" and "<!" not in svg
    assert {node.tag.removeprefix(SVG) for node in root.iter()} <= {
        "svg", "g", "path", "rect", "line", "circle", "text", "tspan", "defs", "clipPath", "style"
    }  # fmt: skip
    return root


def test_figures_are_drawings_on_white(given: dict[str, Any], written: Path) -> None:
    files = {path.stem: path.read_text("utf-8") for path in (written.parent / "figures").iterdir()}
    fixed = {"centroid-d50", "tail-exponents", "tail-gaps", "margin-auc", "depths", "signature", "removal-shift",
             "removal-recall", *(f"scale-{name}" for name in ("loss", "recall", "d50", "centroid", "effective-count",
                                                              "k95"))}  # fmt: skip
    assert fixed <= set(files) and sum(name.startswith("map-") for name in files) == 10
    assert len(files) == len(fixed) + 10
    for name, svg in files.items():
        root = assert_drawing(svg)
        assert root[0].tag == f"{SVG}rect" or root[0][0].get("fill") == "white", name
        assert "class=" not in svg or name in fixed, name
    linked = set(re.findall(r'href="figures/([^"]+)\.svg"', written.read_text("utf-8")))
    assert linked == set(files)


def test_names_of_figures_never_meet(given: dict[str, Any], undrawn: None) -> None:
    named = payload(sizes=1, seeds=1, concepts=6, judged=False, named=["a b", "a/b", "../../etc", "???", "…"])
    found = [name for name in study_figures(named) if name.startswith("map-")]
    assert len(found) == 6 and all(re.fullmatch(r"map-[a-z0-9-]+", name) for name in found)
    assert {"map-a-b", "map-a-b-2", "map-etc", "map-concept", "map-concept-2"} < set(found)
    assert assert_drawing(file_svg(list(pages.bysize.margins(read_study(named)).values()), "a & <b>")) is not None


def test_methods_name_every_setting(given: dict[str, Any], text: str) -> None:
    told = methods_text(
        SETTINGS, models=given["tables"]["models"], concepts=given["tables"]["concepts"], verdicts=given["verdicts"],
        skipped=given["skipped"], versions=given["versions"], facts=given["facts"], command=given["command"],
        toml=given["toml"],
    )  # fmt: skip
    leaves = list(flat(SETTINGS))
    assert len(leaves) == 30
    for path, value in leaves:
        assert f"- `{'.'.join(path)}`: `{value.replace('`', chr(0x2CB))}`" in told, path
        assert value in unescape(section(text, "methods"))
    for one in given["verdicts"]:
        assert NAMES[one["quantity"]] in told
        for part in (one["null"], *one["falsifiers"], *one["controls"]):
            assert re.sub(r"\W", "", part) in re.sub(r"\W", "", told)
    for word in ("influence study --config study.toml", "torch", "2.13.0", "no bearing row", "400\u202f000 parameters",
                 "seeds 0, 1, 2", "expected: chance", "48 min", "Holm"):  # fmt: skip
        assert word in told, word
    assert told.strip() == next(node for node in Page(text).texts("pre") if node.startswith("# Methods")).strip()
    heads = re.findall(r"^## (.+)$", told, re.MULTILINE)
    assert heads.index("Corpus and tokenizer") < heads.index("Tests") < heads.index("To do it again")
    corpus = told.split("## Corpus")[1].split("\n## ")[0]
    assert "`ladder.corpus.world.persons`" in corpus and "`ladder.vocab`" in corpus and "`ladder.tokens`" not in corpus


def test_the_summary_counts_and_claims(given: dict[str, Any]) -> None:
    def of(*decisions: str, effect: float = 0.3) -> str:
        made = [{"quantity": q, "effect": effect, "decision": d} for q, d in zip(PRIMARIES, decisions, strict=False)]
        return summary(read_study(given | {"verdicts": made}))[0]

    assert of(*["no relation"] * 5) == "None of the five tests planned shows a relation."
    assert of("relation", "no relation", "no relation beyond mastery", "not testable", "trend", effect=-1) == (
        "Of the five tests planned, two show a relation (influence lies shallower where a concept is known deeper; a "
        "quantity falls with the size of the model), one shows one that does not stand against its stricter nulls, "
        "one shows none and one could not be made."
    )
    assert of("relation") == (
        "Of the five tests planned, one shows a relation (influence lies deeper where a concept is known deeper) and "
        "four could not be made."
    )
    assert of() == "No test was made."
    assert summary(read_study(given))[1] == (
        "12 models of 4 sizes with 3 training seeds, 10 concepts, 4 of them nulls that are expected at chance."
    )
