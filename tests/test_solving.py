"""The choice of a solver: solved once, certified, the same bytes after a kill, refused where another was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import job_case
import numpy as np
import pandas as pd
import pytest
import torch

import ekfac
import influence
from influence.cli import job, parts, solving, stages
from influence.cli.app import command
from influence.store import OtherSettings, Run, read_log, read_manifest
from influence.types import Solution

STEPS = 3


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Few rows, so that products are quick."""
    return {**job_case.make(tmp_path_factory.mktemp("case")), "limit": 40}


@pytest.fixture(scope="module")
def accurate(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("accurate") / "run"
    again(given, out, report=True)
    return out


def again(given: dict[str, Any], out: Path, **changes: Any) -> Any:
    settings = {**job_case.SETTINGS, "report": False, "solver": "accurate", "solver_steps": STEPS}
    return influence.run(**{**given, **settings, **changes}, out=out)


def test_accurate_is_preconditioned_conjugate_gradients(given: dict[str, Any], accurate: Path) -> None:
    lm = influence.load(given["model"])
    rows = influence.corpus(given["data"], lm, length=48, pack=False, limit=40)
    queries = influence.queries(given["queries"], lm)
    plain = ekfac.solver(influence.fit_ekfac(lm, rows, batch_size=16, progress=False), 0.1)
    solver = influence.cg_solver(lm, rows, precondition=plain, steps=STEPS, batch_size=16, progress=False)
    wanted = influence.score(lm, rows, queries, solver, per="layer", row_norm=plain, batch_size=16, progress=False)
    found = parts.from_zarr(accurate / "scores.zarr")
    np.testing.assert_allclose(found.values, wanted.values, rtol=2e-4, atol=1e-7 * float(abs(wanted).max()))
    np.testing.assert_allclose(found["row_norm"].values, wanted["row_norm"].values, rtol=1e-6)
    table = pd.read_parquet(accurate / "tables" / "certificate.parquet")
    np.testing.assert_allclose(table["residual"], wanted.attrs["residual"], rtol=1e-3)
    np.testing.assert_allclose(table["change"], wanted.attrs["certificate"]["change"], rtol=1e-3)
    assert (table["floor"] == 0).all() and (table["residual_all_rows"] == table["residual"]).all()
    told = read_manifest(accurate)
    assert told["settings"]["solver"] == "accurate" and told["settings"]["solver_steps"] == STEPS
    assert told["certificate"]["products"] == STEPS + 1 and told["certificate"]["precondition"] == "ekfac"
    assert not (accurate / "parts").exists()


def test_tokens_are_of_the_same_solution(accurate: Path) -> None:
    total = parts.from_zarr(accurate / "scores.zarr").sum("layer")
    sums = pd.read_parquet(accurate / "tables" / "tokens.parquet").groupby(["query", "row"])["score"].sum()
    for (query, row), value in sums.items():
        assert value == pytest.approx(float(total.sel(query=query, row=row)), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("piece", ["parts/solved.safetensors", "scores.zarr", "tables/certificate.parquet"])
def test_killed_it_ends_with_the_same_bytes_and_solves_once(
    given: dict[str, Any], accurate: Path, tmp_path: Path, piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Run.write

    def dying(run: Run, name: str, writer: Any) -> Path:
        path = real(run, name, writer)
        if name == piece:
            raise KeyboardInterrupt
        return path

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "write", dying)
        again(given, tmp_path / "run")
    again(given, tmp_path / "run")
    assert job_case.numbers(tmp_path / "run") == job_case.numbers(accurate)
    solved = [event for event in read_log(tmp_path / "run") if event["stage"] == "solve" and event["event"] == "start"]
    assert len(solved) == 1


def test_a_finished_run_solves_nothing_again(
    given: dict[str, Any], accurate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solving, "iterative", None)
    written: list[str] = []
    monkeypatch.setattr(Run, "write", lambda self, name, writer: written.append(name))
    again(given, accurate)
    assert not written


def test_another_solver_is_refused_there_and_takes_the_factors_elsewhere(
    given: dict[str, Any], accurate: Path, tmp_path: Path
) -> None:
    with pytest.raises(OtherSettings, match="solver: 'accurate' there, 'cg' now"):
        again(given, accurate, solver="cg", solver_steps=None)
    with pytest.raises(OtherSettings, match="solver_steps: 3 there, 20 now"):
        again(given, accurate, solver_steps=None)
    same = job.score(accurate, queries=given["queries"], out=tmp_path / "same", top=3, report=False, progress=False)
    assert job_case.numbers(tmp_path / "same") == job_case.numbers(accurate)
    assert same.manifest["settings"]["solver_steps"] == STEPS
    job.score(
        accurate, queries=given["queries"], out=tmp_path / "b", solver="identity", top=3, report=False, progress=False
    )
    assert not any(e["stage"] == "factors" and e["event"] == "start" for e in read_log(tmp_path / "b"))
    assert read_manifest(tmp_path / "b")["settings"]["solver_steps"] is None


def test_scores_of_another_solver_are_never_taken_for_these(
    given: dict[str, Any], accurate: Path, tmp_path: Path
) -> None:
    """A run from before there was a choice has no solver among its settings, and EK-FAC's scores."""
    out = tmp_path / "run"
    again(given, out, solver="ekfac", solver_steps=None)
    text = (out / "manifest.json").read_text()
    with pytest.MonkeyPatch.context() as patch:
        real = read_manifest(out)
        older = {k: v for k, v in real["settings"].items() if not k.startswith("solver")}
        from influence.store.manifest import as_json

        (out / "manifest.json").write_bytes(as_json({**real, "settings": older}))
        patch.setattr(solving, "iterative", None)
        with pytest.raises(OtherSettings, match="solver: 'ekfac' there, 'accurate' now"):
            again(given, out)
    (out / "manifest.json").write_text(text)
    again(given, out, solver="ekfac", solver_steps=None)


def test_direct_solvers_share_damping_and_norms(given: dict[str, Any], accurate: Path, tmp_path: Path) -> None:
    lm = influence.load(given["model"])
    rows = influence.corpus(given["data"], lm, length=48, pack=False, limit=40)
    queries = influence.queries(given["queries"], lm)
    factors = ekfac.load(accurate / stages.FACTORS)
    lam = ekfac.solver(factors, 0.1).lam
    options: dict[str, Any] = {"batch_size": 16, "progress": False}
    shapes = {block.name: block.shape for block in lm.blocks}
    wanted = {
        "kfac": ekfac.solver(ekfac.kfac(factors), absolute=lam),
        "diagonal": ekfac.solver(influence.fit_diagonal(lm, rows, **options), absolute=lam),
        "identity": ekfac.solver(ekfac.identity(shapes), 0.0),
    }
    norms = parts.from_zarr(accurate / "scores.zarr")["row_norm"].values
    for name, solver in wanted.items():
        own = {"solver": name, "report": False, "progress": False, "top": 3}
        found = job.score(accurate, queries=given["queries"], out=tmp_path / name, **own).scores
        one = influence.score(lm, rows, queries, solver, per="layer", **options)
        np.testing.assert_allclose(found.values, one.values, rtol=1e-4, atol=1e-7 * float(abs(one).max()))
        np.testing.assert_array_equal(found["row_norm"].values, norms)


def test_lissa_runs_with_a_sampling_floor(given: dict[str, Any], accurate: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    own = {"solver": "ekfac-lissa", "solver_steps": 2, "report": False, "progress": False, "top": 3}
    result = job.score(accurate, queries=given["queries"], out=out, **own)
    table = result.table("certificate")
    assert np.isfinite(table["residual"]).all() and (table["change"] > 0).all()
    assert "ekfac-lissa" in str(result) and "worst" in str(result)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--solver ekfak", "did you mean ekfac"),
        ("--solver ekfac --solver-steps 5", "takes no steps"),
        ("--solver-steps 5", "takes no steps"),
        ("--solver cg --solver-steps 0", "at least one step"),
    ],
)
def test_combinations_that_do_nothing_are_errors(flags: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["run", "none", "--data", "d", "--queries", "q", *flags.split()]) == 2
    assert said in capsys.readouterr().err


def test_steps_are_filled_in_and_the_runs_own_are_kept() -> None:
    assert solving.choice("accurate", None) == {"solver": "accurate", "solver_steps": 20}
    assert solving.choice("ekfac", None) == {"solver": "ekfac", "solver_steps": None}
    had = {"solver": "cg", "solver_steps": 7}
    assert job._solver(had, None, None) == had and job._solver(had, "cg", 9)["solver_steps"] == 9
    assert job._solver(had, "accurate", None)["solver_steps"] == 20
    assert job._solver({}, None, None) == {"solver": "ekfac", "solver_steps": None}


def test_a_solution_survives_its_file_and_is_cut_by_query(tmp_path: Path) -> None:
    value = {name: torch.arange(12.0).reshape(3, 2, 2) * k for k, name in enumerate(("b", "a"), 1)}
    whole = Solution(value, torch.tensor([0.1, 0.2, 0.3]), 4, True, {"change": [1.0, 2.0, 3.0]})
    solving.save(whole, tmp_path / "x.safetensors")
    found = solving.load(tmp_path / "x.safetensors", "cpu")
    assert list(found.value) == ["b", "a"] and (found.steps, found.converged, found.info) == (4, True, whole.info)
    solver = solving.Solved("cg", 0.1, found)
    assert solver(value) is found
    alone = solver.of(1)({name: part[:1] for name, part in value.items()})
    assert torch.equal(alone.value["a"], value["a"][1:2]) and alone.residual.tolist() == pytest.approx([0.2])
    with pytest.raises(ValueError, match="gradients of 1 queries came and 3 were solved"):
        solver({name: part[:1] for name, part in value.items()})


def test_the_report_shows_the_certificate(accurate: Path) -> None:
    text = (accurate / "report.html").read_text(encoding="utf-8")
    for words in ("The residual alone misleads", "Change of the scores since step", "0: measured on all rows", "λ"):
        assert words in text, words
    assert 'aria-label="Per query the residual' in text and "Not certified" not in text
