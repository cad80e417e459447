"""Concepts that somebody gives, and those of any corpus: what is asked, what bears them, what is refused or skipped."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_study_concepts import as_rows

from influence.data.files import BadData
from influence.data.statements import class_names
from influence.study.concepts import next_word_concepts, skip_reason, user_concepts

PROSE = [
    f"{who} said that the {what} of the {where} was {how} and went {to} the {place} {when} it rained in town again"
    for who in ("Ada", "Ben", "Carl", "Dora", "Emil")
    for what in ("roof", "door", "lamp")
    for where in ("house", "mill", "inn")
    for how in ("old", "new")
    for to, place in (("to", "yard"), ("into", "hall"))
    for when in ("when", "because")
]
PROSE += [f"Here is a line of another kind, number {number}, which nobody wrote down before" for number in range(400)]


def test_next_words_of_any_corpus_leave_the_last_word_undecided() -> None:
    rows = as_rows([{"text": one} for one in PROSE])
    found = next_word_concepts(rows, most=2)
    for concept in found:
        assert concept.kind == "lexical" and skip_reason(concept) is None
        names = class_names(concept.items)
        last = [(text.split()[-1], names[k]) for text, k in zip(concept.items["text"], concept.items["label"],
                                                               strict=True)]  # fmt: skip
        assert sorted(word for word, name in last if name == names[0]) == sorted(
            word for word, name in last if name == names[1]
        )
        for item in concept.items:
            place = int(item["group"].removeprefix("row "))
            assert item["prompt"] + item["completion"] in PROSE[place] and concept.bearing[place]
            assert {item["completion"], item["contrast"]} == {f" {name}" for name in names}
    with pytest.raises(BadData, match="no two common words"):
        next_word_concepts(as_rows([{"text": "one two three"}]))


CITIES = [{"text": f"{name} lies in", "where": k % 2, "group": name} for k, name in enumerate(
    f"City{number}" for number in range(48))]  # fmt: skip
ROWS = as_rows([{"text": f"{one['text']} {'Spain' if one['where'] else 'France'} at the sea of our land"}
                for one in CITIES] + [{"text": "Other words of no city stand here"}] * 5)  # fmt: skip
ENTRY = {
    "name": "cities", "statements": CITIES, "label": "where", "completions": {"0": " France", "1": " Spain"},
    "bearing": r"^City\d+",
}  # fmt: skip


def test_a_concept_of_the_user() -> None:
    (one,) = user_concepts([ENTRY], ROWS)
    assert one.kind == "user" and skip_reason(one) is None and one.bearing.sum() == 48
    for query in one.queries:
        assert query["completion"] == {"0": " France", "1": " Spain"}[query["label"]] != query["contrast"]
    assert not {" France", " Spain"} & {query["completion"] for query in one.controls}
    columns = [{**city, "yes": " x", "no": " y"} for city in CITIES]
    entry = {**{k: v for k, v in ENTRY.items() if k != "completions"}, "statements": columns, "bearing": [3, 5],
             "completion": "yes", "contrast": "no"}  # fmt: skip
    (other,) = user_concepts([entry], ROWS)
    assert set(other.items["completion"]) == {" x"} and np.flatnonzero(other.bearing).tolist() == [3, 5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "unknown fields colour"),
        ({"bearing": "("}, "no regular expression"),
        ({"bearing": [999]}, "no training row has the id 999"),
        ({"completions": {"0": " France"}}, "'1' have no completion"),
        ({"completions": {"0": " France", "1": " "}}, "expected a text that is not empty"),
        ({"completions": {"0": " France", "1": " France"}}, "the same completion"),
        ({"label": "what"}, "no column 'what'"),
        ({"name": "cities?"}, "use letters, digits"),
        ({"file": "there.csv"}, "one of them"),
        ({"expected": "maybe"}, "choose from"),
    ],
)
def test_bad_entries_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(BadData, match=re.escape(said)):
        user_concepts([{**ENTRY, **change}], ROWS)
    with pytest.raises(BadData, match="several concepts are called"):
        user_concepts([ENTRY, ENTRY], ROWS)


def test_reasons_to_skip() -> None:
    (unseen,) = user_concepts([{**ENTRY, "bearing": "Atlantis"}], ROWS)
    assert "none of the 53 training rows states it" in str(skip_reason(unseen))
    (few,) = user_concepts([{**ENTRY, "statements": CITIES[:30]}], ROWS)
    assert "fewer than 20 items" in str(skip_reason(few))
    (single,) = user_concepts([{**ENTRY, "statements": CITIES[::2]}], ROWS)
    assert "of one class" in str(skip_reason(single))
