"""What a study's report and methods say in words is what the code does."""

from __future__ import annotations

import importlib
import inspect

import pandas as pd

from influence.analysis import powerlaw_fit
from influence.attribution.fit import fit_ekfac
from influence.probing.probe import probe
from influence.report.study import methods_text
from influence.report.study.verdicts import NAMES, PRIMARIES, STATES, forest, state
from influence.study.hypotheses import verdict as judged
from influence.study.measure import spread


def test_methods_are_inert_markdown_and_say_what_is_missing() -> None:
    told = methods_text({}, concepts=pd.DataFrame({"concept": ["<b>*x*</b>"], "kind": ["user"]}))
    assert r"\<b\>\*x\*\</b\>" in told and "<b>" not in told
    assert "No command was stored." in told and "No versions were stored." in told and "Nothing was skipped." in told


def test_what_the_report_says_of_the_tests_is_what_they_are() -> None:
    assert judged.NAMES == NAMES and judged.PRIMARIES == PRIMARIES
    assert state(judged.UNTESTABLE) == "untestable" and state(judged.DESCRIPTIVE) == "descriptive"
    for name in ("centroid", "excess", "margin", "scale", "tail_slope"):
        module = importlib.import_module(f"influence.study.hypotheses.{name}")
        assert {state(decision) for decision in module.WEAKER.values()} == {"weaker"}
    assert [state(one) for one in ("relation", "trend", "no relation", "no trend")] == [
        "found",
        "found",
        "none",
        "none",
    ]
    assert len(set(STATES.values())) == len(STATES) == 5


def test_what_the_methods_say_of_measurements_is_what_they_are() -> None:
    """Numbers and names that no setting holds stand in the words; they are those of the code."""
    told = methods_text({})
    asked = {name: one.default for name, one in inspect.signature(probe).parameters.items()}
    assert asked["probe"] == "logistic" and asked["position"] == "last" and asked["sites"] == ("resid_post",)
    assert "(logistic)" in told and "residual stream after every block, at the last token" in told
    assert asked["metric"] == "auc" and "as AUC" in told
    assert inspect.signature(fit_ekfac).parameters["labels"].default == "sampled" and "labels sampled" in told
    assert f"{spread.TOP} largest scores" in told and f"the {powerlaw_fit.LEAST} largest of the rows" in told


def test_the_drawn_interval_holds_zero_where_the_interval_does() -> None:
    inside, outside = forest(0.1, -0.2, 0.4), forest(0.3, 0.1, 0.5)
    assert inside is not None and inside["low"] < inside["zero"] < inside["effect"] < inside["high"] < 100
    assert outside is not None and 0 < outside["zero"] < outside["low"]
    assert forest(0.3, float("nan"), 0.5) is None
