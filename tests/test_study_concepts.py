"""Concepts of a study: what is asked is true, rows that bear it say so, others are comparable, bad input is named."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from functools import cache

import datasets
import numpy as np
import pytest
import torch

import influence
from influence.data.files import BadData
from influence.data.material import world_material
from influence.data.statements import class_names
from influence.data.world import World, world
from influence.model.sizes import Size, neox
from influence.model.train import initial
from influence.probing.splits import splits
from influence.study.concepts import (
    Concept,
    mastery,
    skip_reason,
    tried,
    world_concepts,
)
from influence.study.presets import PRESETS

PRESET = ["minutes", "hour"]


@cache
def drawn(preset: str) -> World:
    return world(0, **PRESETS[preset].world)


def as_rows(documents: list[dict[str, str]] | tuple[dict[str, str], ...], **columns: list[object]) -> datasets.Dataset:
    """Rows whose tokens are numbered words: all that concepts read of tokens is how many there are."""
    names = [name for name in ("text", "fact", "form", "style") if name in documents[0]]
    told = {name: [one[name] for one in documents] for name in names}
    ids = [list(range(1 + len(one["text"].split()))) for one in documents]
    return datasets.Dataset.from_dict({"input_ids": ids, "row": list(range(len(ids))), **told, **columns})


@cache
def made(preset: str) -> tuple[datasets.Dataset, tuple[Concept, ...], dict[str, str]]:
    rows = as_rows(drawn(preset).documents)
    found, left = tried(drawn(preset), rows)
    return rows, tuple(found), left


@pytest.mark.parametrize("preset", PRESET)
def test_both_worlds_give_twenty_concepts_of_all_kinds(preset: str) -> None:
    _, found, left = made(preset)
    names = [one.name for one in found]
    assert len(found) >= 20 and len(set(names)) == len(names)
    kinds = [one.kind for one in found]
    assert set(kinds) == {"answer", "lexical", "syntactic", "truth", "two-hop"}
    assert kinds.count("lexical") >= 4 and kinds.count("syntactic") >= 4 and kinds.count("answer") >= 6
    for one in found:
        assert one.expected == ("chance" if one.kind in ("truth", "two-hop") else "knowable")
        assert skip_reason(one) is None and one.about.endswith(".")
        assert len(one.queries) == 6 and len(one.controls) == 3
    assert left and all(left.values())


@pytest.mark.parametrize("preset", PRESET)
def test_items_can_be_split_by_group(preset: str) -> None:
    for one in made(preset)[1]:
        labels = np.array(class_names(one.items))[one.items["label"]]
        assert set(np.unique(splits(labels, one.items["group"], seeds=5))) == {0, 1, 2}, one.name
        counts = np.bincount(one.items["label"])
        assert counts.min() >= 20 and counts.max() <= 2 * counts.min(), one.name


@pytest.mark.parametrize("preset", PRESET)
def test_answers_are_true_and_contrasts_are_not(preset: str) -> None:
    """Each prompt belongs to a fact, its completion is that fact's object, the others are no object of the subject."""
    _, found, _ = made(preset)
    fact = {}
    true = defaultdict(set)
    for one in drawn(preset).facts:
        true[one.subject].add(f" {one.object}")
        for template in (one.relation.canonical, *one.relation.paraphrases):
            text = template.replace("{s}", one.subject).replace("{o}", "").rstrip()
            fact[text[0].upper() + text[1:]] = one
    for concept in (one for one in found if one.kind == "answer"):
        for item in concept.items:
            one = fact[item["text"]]
            assert item["prompt"] == item["text"] and item["group"] == one.subject
            assert item["completion"] == f" {one.object}" and item["contrast"] not in true[one.subject]
        for query in concept.queries:
            assert query["completion"] == f" {fact[query['prompt']].object}"
            assert query["contrast"] not in true[query["group"]]
        for control in concept.controls:
            assert control["completion"] != control["contrast"]
            assert not {control["completion"], control["contrast"]} & true[control["group"]]


@pytest.mark.parametrize("preset", PRESET)
def test_rows_that_bear_an_answer_hold_subject_and_object(preset: str) -> None:
    """And all rows of the first language that hold both a subject and its answer are found."""
    rows, found, _ = made(preset)
    facts = {one.id: one for one in drawn(preset).facts}
    fact, texts, forms = (list(rows[name]) for name in ("fact", "text", "form"))
    for concept in (one for one in found if one.kind == "answer"):
        asked = set(zip(concept.items["group"], concept.items["completion"], strict=True))
        for place in np.flatnonzero(concept.bearing):
            one, text = facts[fact[place]], texts[place].lower()
            assert (one.subject, f" {one.object}") in asked
            assert one.subject.lower() in text and one.object.lower() in text
        pool = {facts[one].relation.pool for one in np.array(fact)[concept.bearing]}
        for place, (name, form) in enumerate(zip(fact, forms, strict=True)):
            one = facts.get(name)
            if one and form in ("forward", "paraphrase", "passage", "reversed") and one.relation.pool in pool:
                assert concept.bearing[place] == ((one.subject, f" {one.object}") in asked)


def test_the_label_is_the_answer_or_its_set_and_queries_are_balanced() -> None:
    for preset in PRESET:
        for concept in made(preset)[1]:
            names = class_names(concept.items)
            if concept.kind in ("answer", "two-hop"):
                pairs = {(names[k], end) for k, end in zip(concept.items["label"], concept.items["completion"],
                                                           strict=True)}  # fmt: skip
                assert len({end for _, end in pairs}) == len(pairs), "an answer has two labels"
            counts = [sum(query["label"] == name for query in concept.queries) for name in names]
            assert max(counts) - min(counts) <= 1 or len(names) > len(concept.queries)
            assert len({query["prompt"] for query in concept.queries}) == len(concept.queries)


@pytest.mark.parametrize("preset", PRESET)
def test_next_words_stand_in_the_rows_and_can_be_told(preset: str) -> None:
    """A prompt and its completion begin a training row, the contrast never follows; lengths say nothing."""
    rows, found, _ = made(preset)
    texts = "\n" + "\n".join(rows["text"]) + "\n"
    for concept in (one for one in found if one.kind in ("lexical", "syntactic")):
        label, groups = {}, defaultdict(set)
        for item in concept.items:
            assert f"\n{item['prompt']}{item['completion']}" in texts
            assert item["completion"] != item["contrast"]
            if item["completion"].strip().islower() and item["contrast"].strip().islower():
                assert re.search(rf"\n{re.escape(item['prompt'] + item['contrast'])}\b", texts) is None
            assert label.setdefault(item["text"], item["label"]) == item["label"]
            groups[re.sub("^Dear friend, ", "", item["text"]).lower()].add(item["group"])
        assert all(len(some) == 1 for some in groups.values()), "two groups share a text"
        y, long = np.array(concept.items["label"]), np.array([len(one.split()) for one in concept.items["text"]])
        assert (np.sort(long[y == 0]) == np.sort(long[y == 1])).all()


def test_after_one_word_the_last_word_is_the_same() -> None:
    for preset in PRESET:
        after = [one for one in made(preset)[1] if re.match("after (a|of|the):", one.name)]
        assert len(after) == 3
        for concept in after:
            word = concept.name.split()[1].strip(":")
            assert {text.split()[-1].lower() for text in concept.items["text"]} == {word}


@pytest.mark.parametrize("preset", PRESET)
def test_strata_hold_comparable_rows_on_both_sides(preset: str) -> None:
    rows, found, _ = made(preset)
    form, style = (np.array(rows[name]) for name in ("form", "style"))
    form = np.where(form == "premise", "forward", form)
    for concept in found:
        assert concept.bearing.shape == concept.stratum.shape == (len(rows),)
        assert (concept.stratum[form == "relabelled"] == -1).all()
        for value in np.unique(concept.stratum[concept.stratum >= 0]):
            mine = concept.stratum == value
            assert len(set(form[mine])) == len(set(style[mine])) == 1
            assert concept.bearing[mine].any() and not concept.bearing[mine].all()
        assert (concept.bearing & (concept.stratum >= 0)).sum() >= 50


def test_truth_has_both_twins_and_asks_the_true_object() -> None:
    objects = {one.id: one.object for one in drawn("minutes").facts}
    for concept in (one for one in made("minutes")[1] if one.kind == "truth"):
        for item in concept.items:
            shown = item["text"].rstrip(".").removeprefix(item["prompt"])
            true = class_names(concept.items)[item["label"]] == "true"
            assert shown == (item["completion"] if true else item["contrast"])
            assert item["completion"].strip() in {objects[one] for one in item["group"].split(" / ")}
        assert concept.bearing.sum() < 0.6 * len(concept.bearing)


def test_two_hops_bear_the_town_and_its_country() -> None:
    rows, found, _ = made("hour")
    concept = next(one for one in found if one.kind == "two-hop")
    texts = np.array(rows["text"])[concept.bearing]
    lies = dict(re.fullmatch(r"The town of (\w+) lies in (\w+)\.", one).groups() for one in rows["text"]
                if re.fullmatch(r"The town of (\w+) lies in (\w+)\.", one))  # fmt: skip
    home = {
        (one.subject, one.object) for one in drawn("hour").facts if one.relation.name in ("birthplace", "residence")
    }
    for prompt, town, end in zip(*(concept.items[name] for name in ("prompt", "group", "completion")), strict=True):
        assert lies[town] == end.strip() and any(town in text for text in texts)
        assert any(subject in prompt for subject, where in home if where == town)
    assert {"premise", "forward", "reversed"} <= set(np.array(rows["form"])[concept.bearing])


def test_the_same_seed_gives_the_same_concepts_in_any_order_of_rows() -> None:
    rows, found, _ = made("minutes")
    again = world_concepts(drawn("minutes"), rows.remove_columns(["form", "style", "fact"]))
    for one, other in zip(found, again, strict=True):
        assert one.items.to_dict() == other.items.to_dict() and one.queries == other.queries
        assert one.controls == other.controls and (one.bearing == other.bearing).all()
    other = world_concepts(drawn("minutes"), rows, seed=1, queries=4, controls=1)
    assert [len(one.queries) for one in other] == [4] * len(other) and len(other[0].controls) == 1
    assert any(one.queries[0] != two.queries[0] for one, two in zip(found, other, strict=False))


def test_rows_of_another_world_are_refused_and_what_is_left_out_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BadData, match="not those of this world"):
        world_concepts(drawn("minutes"), as_rows(drawn("hour").documents[:2000]))
    with caplog.at_level(logging.INFO, "influence"):
        world_concepts(drawn("minutes"), made("minutes")[0])
    assert "left out of the concepts: currency: 0 of its 10 objects" in caplog.text


def test_mastery_is_that_of_a_direct_computation() -> None:
    small = world(0, persons=24, countries=4, prose=0)
    material = world_material(small, vocab=600)
    net = initial(neox(Size(1, 16, 1e-2, heads=2), len(material.tokenizer)), seed=0)
    lm = influence.load(net, tokenizer=material.tokenizer)
    concept = world_concepts(small, material.rows)[0]
    recall, loss = mastery(lm, concept)
    asked = {tuple(item[name] for name in ("prompt", "completion", "contrast")) for item in concept.items}
    found = []
    for prompt, *ends in asked:
        told = []
        for end in ends:
            ids = torch.tensor(material.tokenizer(prompt + end)["input_ids"])
            start = len(material.tokenizer(prompt)["input_ids"])
            with torch.no_grad():
                p = net(ids[None]).logits[0].double().log_softmax(-1)
            told.append(float(p[torch.arange(start - 1, len(ids) - 1), ids[start:]].sum()))
        found.append(told)
    right, wrong = np.array(found).T
    assert recall == (right > wrong).mean() and loss == pytest.approx(-right.mean(), rel=1e-5)
    done = influence.probe(lm, concept.items, seeds=1, bootstrap=20, controls=("majority",), progress=False)
    assert done.concept == concept.name
