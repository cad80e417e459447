"""What a study is asked for: keywords, TOML files, patterns, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from influence.data.files import BadData
from influence.study.measure.settings import Settings
from influence.study.spec import KEYS, Spec, from_toml, spec_of

TOML = """
ladder = "models"
concepts = ["answer*", "truth"]
queries = 4
removal = 8

[[concept]]
name = "mine"
file = "mine.csv"
"""


def test_a_file_says_what_keywords_say(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "mine.csv").write_text("text,label\n")
    (tmp_path / "study.toml").write_text(TOML)
    found = from_toml(tmp_path / "study.toml")
    assert found["ladder"] == str(tmp_path / "models") and found["concept"][0]["file"] == str(tmp_path / "mine.csv")
    spec = spec_of(found)
    assert spec.measured == Settings(queries=4) and spec.removal == 8 and spec.concepts == ("answer*", "truth")
    assert json.loads(json.dumps(spec.told()))["queries"] == 4


def test_names_of_a_hub_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('data = "c.txt"\n[ladder]\n"70m" = "EleutherAI/pythia-70m"\n')
    found = from_toml(tmp_path / "study.toml")
    assert found["ladder"] == {"70m": "EleutherAI/pythia-70m"} and found["data"] == "c.txt"


def test_every_setting_is_known_and_told() -> None:
    told = spec_of({"ladder": "x"}).told()
    assert set(KEYS) - {"out", "processes", "device"} == set(told)
    assert Spec("x", Settings()).told() == told


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ladder": "x", "querys": 3}, "'querys'"),
        ({}, "ladder"),
        ({"ladder": "x", "queries": 0}, "queries"),
        ({"ladder": "x", "removal_seeds": 0}, "removal_seeds"),
        ({"ladder": "x", "permutations": 5}, "permutations"),
        ({"ladder": "x", "damping": -1.0}, "damping"),
    ],
)
def test_settings_that_cannot_be(given: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        spec_of(given)


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text("ladder = [")
    with pytest.raises(BadData, match="TOML"):
        from_toml(path)
    with pytest.raises(FileNotFoundError):
        from_toml(tmp_path / "none.toml")


def test_patterns_keep_the_order_and_must_fit_something() -> None:
    spec = spec_of({"ladder": "x"})
    assert spec.names(["b", "a1", "a2"], ["a*", "b"], "concept") == ["b", "a1", "a2"]
    with pytest.raises(BadData, match="no concept is called 'z\\*'; there are: b"):
        spec.names(["b"], ["z*"], "concept")
