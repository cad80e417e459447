"""`influence llc`: the numbers of the function, curves over checkpoints, resumed without computing anything twice."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import job_case
import numpy as np
import pytest
import torch

import influence
from influence.cli import coefficients
from influence.cli import llc as here
from influence.cli.app import command
from influence.store import OtherSettings

QUICK: dict[str, Any] = {
    "n_beta": 5.0, "gamma": 50.0, "step_size": 1e-5, "batch_size": 4, "chains": 2, "draws": 8, "thin": 1, "burn_in": 2,
    "length": 32, "limit": 12, "report": False, "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("given")
    made = job_case.make(folder)
    lm = influence.load(made["model"])
    for step in (10, 20):
        with torch.no_grad():
            next(lm.net.parameters()).mul_(1.01)
        lm.net.save_pretrained(folder / f"step-{step}")
    return {"model": made["model"], "data": made["data"], "folder": str(folder)}


def test_the_command_and_the_functions_have_the_same_names_and_defaults() -> None:
    ours, theirs = (inspect.signature(one).parameters for one in (here.llc, influence.run_llc))
    assert [name for name in ours if name not in ("config", "python")] == list(theirs)
    assert all(ours[name].default == theirs[name].default for name in theirs)
    below = inspect.signature(influence.llc).parameters
    shared = set(theirs) & set(below) - {"where", "model"}
    assert set(coefficients.CHAINS) | {"step_size"} <= shared
    assert all(theirs[name].default == below[name].default for name in shared)


def test_numbers_are_those_of_the_function(given: dict[str, str], tmp_path: Path) -> None:
    found = influence.run_llc(
        given["model"], data=given["data"], out=tmp_path / "run", where=["all", "layers"], **QUICK
    )
    table = found.table("llc")
    lm = influence.load(given["model"])
    rows = influence.corpus(given["data"], lm, length=32, limit=12)
    settings = {name: value for name, value in QUICK.items() if name not in ("length", "limit", "report")}
    one = influence.llc(lm, rows, where="layer 0 mlp", **settings)
    line = table[table["part"] == "layer 0 mlp"].iloc[0]
    assert line["value"] == pytest.approx(one.value) and line["mcse"] == pytest.approx(one.mcse)
    assert table["part"].iloc[0] == "all" and len(table) > 3
    draws = found.table("llc_draws")
    assert draws[draws["part"] == "layer 0 mlp"]["energy"].mean() == pytest.approx(one.value)
    assert len(str(found).splitlines()) <= 20 and "--where heads" in found.next


def test_a_finished_run_computes_nothing_and_other_settings_are_refused(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"data": given["data"], "out": tmp_path / "run", **QUICK}
    first = influence.run_llc(given["model"], **asked)

    def never(*_: Any) -> None:
        raise AssertionError("computed twice")

    monkeypatch.setattr(coefficients, "_one", never)
    assert influence.run_llc(given["model"], **asked).table("llc").equals(first.table("llc"))
    with pytest.raises(OtherSettings):
        influence.run_llc(given["model"], **{**asked, "gamma": 1.0})


def test_killed_between_two_parts_it_goes_on(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [str(Path(given["folder"]) / f"step-{step}") for step in (10, 20)]
    asked = {"data": given["data"], "where": ["layer 0 head 0", "embed"], "checkpoints": states, **QUICK}
    whole = influence.run_llc(given["model"], out=tmp_path / "whole", **asked)
    real, calls = coefficients._one, []

    def dies(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(coefficients, "_one", dies)
    with pytest.raises(KeyboardInterrupt):
        influence.run_llc(given["model"], out=tmp_path / "cut", **asked)
    again = influence.run_llc(given["model"], out=tmp_path / "cut", **asked)
    assert len(calls) == 4 + 3
    for name in ("llc", "llc_draws", "llc_curves"):
        assert again.table(name).equals(whole.table(name))
    assert whole.table("llc")["step"].tolist() == [10, 10, 20, 20, 21, 21]
    assert len(whole.table("llc_curves")) == 2


def test_a_withheld_estimate_is_a_line_that_says_so(given: dict[str, str], tmp_path: Path) -> None:
    found = influence.run_llc(given["model"], data=given["data"], out=tmp_path / "run", **{**QUICK, "step_size": 1e3})
    line = found.table("llc").iloc[0]
    assert np.isnan(line["value"]) and line["kept"] < 2 and "diverged" in line["notes"]
    assert "diverged" in str(found)


def test_the_command_line(given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in QUICK.items() if name not in ("report", "progress")
    )
    line = f"llc {given['model']} --data {given['data']} --out {tmp_path / 'run'} {flags} --no-report --no-progress"
    assert command(line.split() + ["--where", "layer 0 mlp"]) == 0
    assert "layer 0 mlp" in capsys.readouterr().out
    assert command(line.replace("run ", "other ").split() + ["--where", "layer 9"]) == 2
    assert "names no part of this model" in capsys.readouterr().err
    assert command(["llc", "m", "--data", "a.txt", "--where", "heads", "--python"]) == 0
    assert "influence.run_llc(" in capsys.readouterr().out
