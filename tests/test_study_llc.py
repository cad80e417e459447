"""λ̂ of layers and heads in a study: as `influence.llc` gives them, resumed, withheld, and in the report."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small
import torch
from report_payloads import PAYLOADS
from report_reading import Page
from study_tables import SETTINGS as ASKED
from study_tables import payload
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import influence
from influence.cli.studied import write_report
from influence.llc import step_size as searched
from influence.llc.step_size import NoStepSize
from influence.model.checkpoint import claim
from influence.model.sizes import Size
from influence.report.study import methods_text, write_study_report
from influence.report.study import page as pages
from influence.report.study.read import read_study
from influence.report.words import number
from influence.store import OtherSettings
from influence.study import pieces
from influence.study.measure import coefficients
from influence.study.measure.cell import Model
from influence.study.measure.settings import Settings
from influence.study.spec import defaults
from influence.types import LM

CHAINS = dict(coefficients.CHAINS)
SETTINGS = Settings(llc=8, llc_rows=12, seed=3)


@pytest.fixture(autouse=True, scope="module")
def short() -> Iterator[None]:
    """Chains of a few steps: what they find is compared, not judged."""
    with pytest.MonkeyPatch.context() as change:
        change.setattr(searched, "STEPS", 10)
        change.setattr(coefficients, "CHAINS", {**CHAINS, "burn_in": 4, "thin": 1, "batch_size": 4})
        yield


@pytest.fixture(scope="module")
def lm() -> LM:
    config = GPTNeoXConfig(vocab_size=37, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=32, max_position_embeddings=32)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = GPTNeoXForCausalLM(config)
    return influence.load(net)


def model_of(lm: LM, folder: Path) -> Model:
    return Model("m@5", folder, lm, small.token_rows(30, 1), SETTINGS, False)


@pytest.fixture(scope="module")
def measured(lm: LM, short: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    coefficients.measure(model_of(lm, folder), lambda word: None)
    return folder


def table_of(folder: Path) -> pd.DataFrame:
    [(name, frame)] = coefficients.gathered(folder, {"model": "m", "step": 5})
    assert name == "llc"
    return frame


def test_lines_are_those_of_llc_called_by_hand(lm: LM, measured: Path) -> None:
    model, table = model_of(lm, measured), table_of(measured)
    assert list(table) == ["model", "step", "part", "layer", "head", "depth", "llc", "mcse", "rhat", "ess",
                           "step_size", "n_beta", "gamma", "notes"]  # fmt: skip
    assert list(zip(table["part"], table["layer"], table["head"], strict=True)) == [
        ("layer", 0, -1), ("layer", 1, -1), ("head", 0, 0), ("head", 0, 1), ("head", 1, 0), ("head", 1, 1)
    ]  # fmt: skip
    assert (
        table["depth"].tolist() == [0.5, 1, 0.5, 0.5, 1, 1]
        and (table.groupby("part")["step_size"].nunique() == 1).all()
    )
    places = np.random.default_rng([3, 53]).choice(30, 12, replace=False)
    rows = model.rows.select(sorted(places))
    assert rows["row"] == coefficients.rows_of(model.rows, SETTINGS)["row"]
    for name, line in (("layer 1", table.iloc[1]), ("layer 0 head 1", table.iloc[3])):
        found = influence.llc(
            lm, rows, where=name, step_size=line["step_size"], draws=8, burn_in=4, thin=1, batch_size=4, seed=3,
            progress=False,
        )  # fmt: skip
        assert (line["llc"], line["mcse"], line["rhat"], line["ess"]) == (
            found.value,
            found.mcse,
            found.rhat,
            found.ess,
        )
        assert line["n_beta"] == pytest.approx(12 / np.log(12)) and line["gamma"] == 100
        assert line["notes"] == "; ".join(found.notes)


def test_a_killed_measurement_ends_with_the_same_bytes(
    lm: LM, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert coefficients.complete(measured, SETTINGS)
    save, count = pieces.save, [0]

    def stops(*given: Any, **options: Any) -> None:
        count[0] += 1
        if count[0] in (2, 5):
            raise KeyboardInterrupt
        save(*given, **options)

    monkeypatch.setattr(pieces, "save", stops)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            coefficients.measure(model_of(lm, tmp_path / "again"), lambda word: None)
        assert not coefficients.complete(tmp_path / "again", SETTINGS)
    begun: list[str] = []
    coefficients.measure(model_of(lm, tmp_path / "again"), lambda word: None, begun.append)
    assert begun == [f"llc: layer {layer} head {head}" for layer in (0, 1) for head in (0, 1)]
    assert files(tmp_path / "again") == files(measured) and count[0] == 7 + 2, "nothing is made twice"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_diverges_is_withheld_with_its_reason(lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(target: Any, coordinates: Any, plan: Any, start: float | None) -> float:
        if coordinates.mask is not None:
            raise NoStepSize("no step size is small enough")
        return 1e6

    monkeypatch.setattr(coefficients, "search", found)
    coefficients.measure(model_of(lm, tmp_path), lambda word: None)
    table = table_of(tmp_path)
    assert table["llc"].isna().all() and (table["notes"] == "withheld").all()
    assert table["step_size"].isna().tolist() == [False] * 2 + [True] * 4
    why = list(coefficients.reasons(tmp_path, {"model": "m", "step": 5}))
    assert [one["part"] for one in why[:3]] == ["llc: layer 0", "llc: layer 1", "llc: layer 0 head 0"] and len(why) == 6
    assert "diverged" in why[0]["why"] and "no step size is small enough" in why[2]["why"]


def test_the_centre_and_sum_of_layers() -> None:
    def lines(model: str, values: list[float]) -> pd.DataFrame:
        depth = [(k + 1) / len(values) for k in range(len(values))]
        return pd.DataFrame({"model": model, "step": 1, "part": "layer", "depth": depth, "llc": values})

    table = pd.concat([lines("a", [1.0, 3.0]), lines("b", [-2.0, 5.0]), lines("c", [np.nan, 1.0]), lines("d", [-1.0])])
    table = pd.concat([table, lines("a", [100.0]).assign(part="head")])
    models = pd.DataFrame({"model": list("dcbae"), "step": 1, "loss": 2.0})
    found = coefficients.by_model(models, table)
    assert found["model"].tolist() == list("dcbae")
    np.testing.assert_allclose(found["llc_layers"], [-1, np.nan, 3, 4, np.nan])
    np.testing.assert_allclose(found["llc_depth"], [np.nan, np.nan, 1, 0.875, np.nan])


QUICK: dict[str, Any] = {
    "concepts": ["style*"], "splits": 1, "bootstrap": 20, "queries": 2, "controls": 1, "margin": 0, "fit_rows": 50,
    "permutations": 99, "progress": False, "processes": 1, "untrained": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder") / "ladder"
    influence.ladder(folder, sizes={"tiny": Size(1, 16, lr=6e-3, heads=2)}, seeds=1, tokens=2_000, vocab=512,
                     checkpoints=0, processes=1, progress=False)  # fmt: skip
    return folder


def test_a_study_has_the_table_and_an_older_one_goes_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coefficients, "search", lambda *given, **options: 1e-5)
    found = influence.study(trained, tmp_path / "s", llc=8, **QUICK)
    table, models = found.tables["llc"], found.tables["models"]
    assert len(table) == 2 * 3 and set(table["step"]) == set(models["step"]) and models["untrained"].sum() == 1
    layers = table[table["part"] == "layer"].set_index("step")["llc"]
    assert models.set_index("step")["llc_layers"].to_dict() == layers.to_dict()
    assert not any(one["part"].startswith("llc") for one in found.skipped)
    assert 'id="llc"' in write_report(found).read_text()

    settings = json.loads((tmp_path / "s" / "settings.json").read_text())
    assert settings.pop("llc_rows") == 500 and settings.pop("k95") is False, "as if made before there were these"
    before = files(tmp_path / "s" / "tables")
    (tmp_path / "s" / "settings.json").write_text(json.dumps(settings))
    influence.study(trained, tmp_path / "s", llc=8, **QUICK)
    assert files(tmp_path / "s" / "tables") == before
    del settings["llc"]
    (tmp_path / "s" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(OtherSettings, match="llc: 0 there, 8 asked for"):
        claim(tmp_path / "s", {**settings, "llc": 8, "llc_rows": 500, "k95": False}, defaults())


def test_nothing_is_asked_of_a_study_without_it(tmp_path: Path) -> None:
    """That its tables are those without it: tests/test_study_run.py."""
    assert coefficients.complete(tmp_path, Settings()) and not coefficients.complete(tmp_path, SETTINGS)
    assert not [*coefficients.gathered(tmp_path, {}), *coefficients.reasons(tmp_path, {})]
    assert defaults()["llc"] == 0 and "ladder" not in defaults()
    with pytest.raises(ValueError, match=r"llc = 3 \(at least 8\)"):
        Settings(llc=3)


SHIFT = {"layer": 0.0, "head": -0.75}


def with_llc(found: dict[str, Any]) -> dict[str, Any]:
    """A payload with the table llc of trained and untrained models; λ̂ of a layer is seed + 10 · size + depth."""
    models = found["tables"]["models"]
    twins = models.assign(step=0, untrained=True)
    lines = []
    for rank, one in enumerate([*models.to_dict("records"), *twins.to_dict("records")]):
        n = int(one["n_layers"])
        for layer in range(n):
            for head in (-1, 0, 1):
                part, depth = "layer" if head < 0 else "head", (layer + 1) / n
                value = -50.0 if one["untrained"] else one["seed"] + 10 * (rank // 3) + depth + SHIFT[part] * (1 + head)
                lines.append({"model": one["model"], "step": one["step"], "part": part, "layer": layer, "head": head,
                              "depth": depth, "llc": value, "mcse": 0.1, "rhat": 1.2 if head == 1 else 1.0, "ess": 80.0,
                              "step_size": 1e-4, "n_beta": 80.0, "gamma": 100.0, "notes": ""})  # fmt: skip
    table = pd.DataFrame(lines)
    table.loc[0, "llc"] = np.nan
    every = pd.concat([models, twins], ignore_index=True)
    tables = {**found["tables"], "llc": table, "models": coefficients.by_model(every, table)}
    return {**found, "tables": tables, "settings": {**ASKED, "measure": {**ASKED["measure"], "llc": 100}}}


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return payload(sizes=3, seeds=3, concepts=4, judged=False)


def test_the_report_shows_layers_heads_and_the_untrained(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "charts", lambda study: iter(()))  # figures that other tests draw
    given = with_llc(plain)
    text = write_study_report(tmp_path / "report.html", given).read_text("utf-8")
    part = text.split('<section id="llc"')[1].split("</section>")[0]
    for name in ("llc-layers", "llc-heads"):
        drawn = (tmp_path / "figures" / f"{name}.svg").read_text("utf-8")
        assert drawn.startswith("<svg") and f'href="figures/{name}.svg"' in part
    study = read_study(given)
    layers = study.tables["llc"].query("part == 'layer' and size == 's1'")
    means = layers.groupby("depth")["llc"].mean()
    said = re.search(r'aria-label="(Local learning coefficient of each layer[^"]*)"', part)
    assert said and all(f"{number(value, 3)} at depth {depth:.2f}" in said[1] for depth, value in means.items())
    assert said[1].count("; ") == 2 and part.count("local learning coefficients of heads over all seeds") == 3
    sums = study.models.groupby("size")["llc_layers"].mean()
    rows = [re.findall(r"<td[^>]*>(?:<data value=\"([^\"]+)\">)?", line) for line in part.split("<tr>")[2:]]
    assert [float(row[2]) for row in rows] == pytest.approx(sums.tolist())
    assert [float(row[4]) for row in rows] == [-50.0 * n for n in study.models.groupby("size")["n_layers"].first()]
    assert "<td>1</td>" in part.split("<tr>")[2], "the one that was withheld"


def test_without_the_table_there_is_no_section(plain: dict[str, Any], tmp_path: Path, undrawn: None) -> None:
    text = write_study_report(tmp_path / "report.html", plain).read_text("utf-8")
    assert 'id="llc"' not in text and "#llc" not in text and not list((tmp_path / "figures").glob("llc*"))
    assert "λ̂" not in methods_text(plain["settings"])


@pytest.fixture()
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "draw", lambda chart: '<svg xmlns="http://www.w3.org/2000/svg"/>')


def test_names_of_sizes_do_not_act(plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "charts", lambda study: iter(()))
    given = with_llc(plain)
    names = dict(zip(("s0", "s1", "s2"), PAYLOADS, strict=False))
    tables = {name: frame.assign(size=frame["size"].map(names)) if "size" in frame else frame
              for name, frame in given["tables"].items()}  # fmt: skip
    text = write_study_report(tmp_path / "report.html", {**given, "tables": tables}).read_text("utf-8")
    harmless = write_study_report(tmp_path / "other.html", given).read_text("utf-8")
    tags = [[tag for tag, _, _ in Page(one).elements if tag not in ("path", "text", "g")] for one in (text, harmless)]
    assert tags[0] == tags[1]


def test_the_methods_name_what_the_chains_have() -> None:
    told = methods_text({"llc": 100, "llc_rows": 500}).split("## Local learning coefficients")[1].split("\n## ")[0]
    for name in ("llc", "llc_rows"):
        assert f"- `{name}`: `" in told and "(" in told.split(f"`{name}`")[1]
    assert CHAINS == {"sampler": "sgld", "n_beta": None, "gamma": 100.0, "batch_size": 8, "chains": 4, "thin": 8,
                      "burn_in": 400}  # fmt: skip
    for words in ("SGLD on batches of 8 rows: 4 chains, 400 steps before the first draw and 8 for each draw",
                  "nβ = n / log n", "γ = 100", "at most 5 % to the estimate"):  # fmt: skip
        assert words in told
    assert inspect.signature(searched.search).parameters["share"].default == 0.05
    assert "λ̂" not in methods_text({"llc": 0})
