"""The whole job: its pieces agree with the functions below, it resumes, and it refuses what is not its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import job_case
import numpy as np
import pandas as pd
import pytest

import ekfac
import influence
from influence.cli import fitting, job, parts
from influence.store import OtherSettings, Run, read_log, read_manifest


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return job_case.make(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def whole(given: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    influence.run(**given, out=out, **job_case.SETTINGS)
    return out


ROWS = 40


@pytest.fixture(scope="module")
def in_parts(given: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The numbers of an undisturbed run whose rows are scored in several parts."""
    out = tmp_path_factory.mktemp("parts") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "ROWS", ROWS)
        patch.setattr(fitting, "ROWS", ROWS)
        again(given, out)
    return job_case.numbers(out)


def again(given: dict[str, str], out: Path, **changes: Any) -> Any:
    return influence.run(**{**given, **job_case.SETTINGS, "report": False, **changes}, out=out)


def test_the_pieces_say_what_the_functions_say(given: dict[str, str], whole: Path) -> None:
    lm = influence.load(given["model"])
    rows = influence.corpus(given["data"], lm, length=48, pack=False)
    queries = influence.queries(given["queries"], lm)
    factors = influence.fit_ekfac(lm, rows, batch_size=16, progress=False)
    solver = ekfac.solver(factors, damping=0.1)
    wanted = influence.score(lm, rows, queries, solver, per="layer", row_norm=True, batch_size=16, progress=False)
    found = parts.from_zarr(whole / "scores.zarr")
    assert found.dims == ("query", "row", "layer") and found.attrs["units"] == "nats"
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-6, atol=0)
    np.testing.assert_allclose(found["row_norm"].values, wanted["row_norm"].values, rtol=1e-6)

    top = pd.read_parquet(whole / "tables" / "top.parquet")
    first = top[(top["ranking"] == "normalised") & (top["side"] == "for") & (top["place"] == 1)]
    best = influence.rank(wanted, normalize="row").sel(place=1)
    assert dict(zip(first["query"], first["row"], strict=True)) == dict(
        zip(best["query"].values.tolist(), best.values.tolist(), strict=True)
    )
    tokens = pd.read_parquet(whole / "tables" / "tokens.parquet")
    sums = tokens.groupby(["query", "row"])["score"].sum()
    total = found.sum("layer")
    for (query, row), value in sums.items():
        assert value == pytest.approx(float(total.sel(query=query, row=row)), rel=1e-4, abs=1e-9)
    layered = tokens["by_layer"].map(np.sum).to_numpy()
    np.testing.assert_allclose(layered, tokens["score"], rtol=1e-6, atol=1e-12)
    assert set(sums.index) == set(top[["query", "row"]].itertuples(index=False, name=None))


def test_the_tables_have_the_columns_that_are_promised(whole: Path) -> None:
    promised = {
        "queries": ["query", "prompt", "completion", "log_p", "n_tokens", "label"],
        "rows": ["row", "text", "source", "n_tokens", "fact", "form", "style"],
        "top": ["query", "ranking", "side", "place", "row", "score", "normalised", "copies", "source", "text", "form"],
        "tokens": ["query", "row", "position", "token", "score", "by_layer"],
        "layers": ["query", "layer", "signed", "positive", "negative", "absolute", "share"],
        "tails": ["query", "rule", "xmin", "n_tail", "alpha_density", "low", "high", "verdict", "top1_share"],
        "tail_points": ["query", "score", "survival"],
        "blocks": ["block", "layer", "kind", "d_out", "d_in", "bias", "parameters", "mean_eigenvalue", "damping"],
    }
    for name, columns in promised.items():
        frame = pd.read_parquet(whole / "tables" / f"{name}.parquet")
        assert set(columns) <= set(frame.columns), name
        assert len(frame) or name in ("tail_points",), name
    rows = pd.read_parquet(whole / "tables" / "rows.parquet")
    assert rows["fact"].notna().any() and rows["form"].notna().all()
    tokens = pd.read_parquet(whole / "tables" / "tokens.parquet")
    texts = rows.set_index("row")["text"]
    for (_, row), part in tokens.groupby(["query", "row"]):
        assert "".join(part["token"]).removeprefix("<|endoftext|>") == texts[row]


def test_the_manifest_says_what_was_asked_and_from_what(given: dict[str, str], whole: Path) -> None:
    manifest = read_manifest(whole)
    assert manifest["settings"]["model"] == given["model"] and manifest["settings"]["damping"] == 0.1
    assert set(manifest["hashes"]) == {"model", "tokenizer", "rows", "queries"}
    assert all(len(digest) == 64 for digest in manifest["hashes"].values())
    assert 0 < manifest["tracked"]["of_all"] < 1 and manifest["tracked"]["of_selected"] == 1
    assert manifest["facts"]["n_rows"] == manifest["facts"]["factor_rows"] > 50
    assert {"influence", "torch", "python"} <= set(manifest["versions"])
    assert not list(whole.rglob("*.partial*")) and not (whole / "parts").exists()
    stages = [e["stage"] for e in read_log(whole) if e["event"] == "done"]
    assert stages == ["model", "queries", "rows", "factors", "scores", "tables", "tokens", "report"]


def test_scoring_in_parts_changes_nothing_but_the_last_digits(
    given: dict[str, str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROWS", ROWS)
    again(given, tmp_path / "run")
    one, many = parts.from_zarr(whole / "scores.zarr"), parts.from_zarr(tmp_path / "run" / "scores.zarr")
    np.testing.assert_allclose(many.values, one.values, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(many["row_norm"], one["row_norm"], rtol=1e-6)
    np.testing.assert_array_equal(many["row"], one["row"])
    assert many.attrs == one.attrs


def test_factors_in_parts_are_those_of_one_pass(whole: Path, in_parts: dict[str, bytes], tmp_path: Path) -> None:
    """Sums agree to rounding; directions of nearly equal eigenvalues are free, so single Λ are not compared."""
    (tmp_path / "ekfac.safetensors").write_bytes(in_parts["factors/ekfac.safetensors"])
    one, many = ekfac.load(whole / "factors" / "ekfac.safetensors"), ekfac.load(tmp_path / "ekfac.safetensors")
    assert many.how["rows"] == one.how["rows"] and list(many) == list(one)
    for name, factor in one.items():
        other = many[name]
        assert (other.count, other.positions) == (factor.count, factor.positions)
        assert other.mean == pytest.approx(factor.mean, rel=1e-5)
        for part in ("values_in", "values_out"):
            x, y = getattr(other, part).numpy(), getattr(factor, part).numpy()
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6 * y.max())


def test_the_same_run_in_another_place_has_the_same_bytes(given: dict[str, str], whole: Path, tmp_path: Path) -> None:
    again(given, tmp_path / "run")
    assert job_case.numbers(tmp_path / "run") == job_case.numbers(whole)


def test_a_finished_run_computes_nothing_again(
    given: dict[str, str], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(Run, "write", lambda self, name, writer: written.append(name))
    result = influence.run(**given, out=whole, **job_case.SETTINGS)
    assert not written and result.report == whole.resolve() / "report.html"


def dying(name: str, before: bool) -> Callable[[Run, str, Any], Path]:
    """`Run.write`, interrupted before or after it writes the piece `name`."""
    real = Run.write

    def write(run: Run, piece: str, writer: Any) -> Path:
        if piece == name and before:
            raise KeyboardInterrupt
        path = real(run, piece, writer)
        if piece == name:
            raise KeyboardInterrupt
        return path

    return write


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("tables/rows.parquet", False),
        ("parts/covariance.safetensors", False),
        ("parts/eigenvalues.safetensors", True),
        ("parts/eigenvalues.safetensors", False),
        ("factors/ekfac.safetensors", True),
        ("parts/scores-00001.safetensors", False),
        ("scores.zarr", True),
        ("scores.zarr", False),
        ("tables/tokens.parquet", True),
    ],
)
def test_interrupted_anywhere_the_same_call_ends_the_same(
    given: dict[str, str],
    in_parts: dict[str, bytes],
    tmp_path: Path,
    name: str,
    before: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "ROWS", ROWS)
    monkeypatch.setattr(fitting, "ROWS", ROWS)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "write", dying(name, before))
        again(given, tmp_path / "run")
    again(given, tmp_path / "run")
    assert job_case.numbers(tmp_path / "run") == in_parts
    resumed = {event["piece"] for event in read_log(tmp_path / "run") if event["event"] == "resumed"}
    assert ("factors/ekfac.safetensors" in resumed) == (name.startswith(("scores", "parts/scores", "tables/tokens")))


def test_killed_for_real_it_goes_on(given: dict[str, str], whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--no-pack", "--length=48", "--batch-size=16", "--top=3", "--no-progress", "--no-report"]
    asked = [given["model"], f"--data={given['data']}", f"--queries={given['queries']}", f"--out={out}", *flags]
    code = "from influence.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", code, "run", *asked], stderr=subprocess.PIPE, text=True) as process:
        while not (out / "factors" / "ekfac.safetensors").exists() and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.stderr is not None
        assert "Error" not in (said := process.stderr.read()), said
    assert (out / "factors" / "ekfac.safetensors").exists()
    again(given, out)
    assert job_case.numbers(out) == job_case.numbers(whole)


@pytest.mark.parametrize("name", ["factors/ekfac.safetensors", "tables/top.parquet", "scores.zarr/score/zarr.json"])
def test_a_damaged_piece_is_made_again(given: dict[str, str], whole: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    data = (out / name).read_bytes()
    (out / name).write_bytes(data[:-20])
    with pytest.warns(UserWarning, match="damaged piece"):
        again(given, out)
    assert job_case.numbers(out) == job_case.numbers(whole)


def test_other_settings_model_or_rows_are_refused(given: dict[str, str], whole: Path, tmp_path: Path) -> None:
    before = job_case.numbers(whole)
    with pytest.raises(OtherSettings, match=r"damping: 0\.1 there, 0\.2 now"):
        again(given, whole, damping=0.2)
    out, data = tmp_path / "run", tmp_path / "corpus.jsonl"
    shutil.copy(given["data"], data)
    again({**given, "data": str(data)}, out)
    data.write_text(data.read_text() + json.dumps({"text": "One more row."}) + "\n")
    with pytest.raises(OtherSettings, match="rows"):
        again({**given, "data": str(data)}, out)
    assert job_case.numbers(whole) == before


def test_fit_then_score_is_run(given: dict[str, str], whole: Path, tmp_path: Path) -> None:
    settings = {k: v for k, v in job_case.SETTINGS.items() if k != "top"}
    fitted = job.fit(given["model"], data=given["data"], out=tmp_path / "a", **settings)
    assert "influence score" in fitted.next and "mlp_in" in str(fitted)
    job.score(tmp_path / "a", queries=given["queries"], top=3, report=False, progress=False)
    assert job_case.numbers(tmp_path / "a") == job_case.numbers(whole)
    other = tmp_path / "other.jsonl"
    other.write_text(Path(given["queries"]).read_text().splitlines()[0] + "\n")
    job.score(tmp_path / "a", queries=str(other), out=tmp_path / "b", top=3, report=False, progress=False)
    assert len(parts.from_zarr(tmp_path / "b" / "scores.zarr")["query"]) == 1
    assert not any(e["stage"] == "factors" and e["event"] == "start" for e in read_log(tmp_path / "b"))
    with pytest.raises(OtherSettings, match="queries"):
        job.score(tmp_path / "a", queries=str(other), top=3, report=False, progress=False)
    with pytest.raises(TypeError, match="lenght"):
        job.fit(given["model"], data=given["data"], lenght=3)


def test_live_objects_are_named_by_type_and_asked_for_again(given: dict[str, str], whole: Path, tmp_path: Path) -> None:
    lm = influence.load(given["model"])
    rows = influence.corpus(given["data"], lm, length=48, pack=False)
    live = {"model": lm, "data": rows, "queries": [{"prompt": "A", "completion": " b"}]}
    again(live, tmp_path / "run")
    settings = read_manifest(tmp_path / "run")["settings"]
    assert settings["model"] == "<LM>" and settings["queries"] == "<list>"
    np.testing.assert_array_equal(
        pd.read_parquet(tmp_path / "run" / "tables" / "rows.parquet")["text"],
        pd.read_parquet(whole / "tables" / "rows.parquet")["text"],
    )
    with pytest.raises(ValueError, match="model, data"):
        job.score(tmp_path / "run", queries=given["queries"], out=tmp_path / "b")
    again(live, tmp_path / "run")


def test_a_result_shows_itself(whole: Path, given: dict[str, str]) -> None:
    result = influence.run(**given, out=whole, **job_case.SETTINGS)
    text = str(result)
    assert len(text.splitlines()) <= 26 and "tracked" in text and "report" in text and "next" in text
    assert result.scores.dims == ("query", "row", "layer") and len(result.factors) == 8
    assert "<table>" in result._repr_html_() and "<script" not in result._repr_html_()
    with pytest.raises(FileNotFoundError, match="tails"):
        result.table("nothing")
    assert len(result.table("queries")) == 3
