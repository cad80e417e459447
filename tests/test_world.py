"""The embedded world: drawn from its seed alone, every fact in every form, nothing of the answers given away."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from influence.data.files import BadData
from influence.data.tokenizer import END, train_tokenizer, world_tokenizer
from influence.data.world import RELATIONS, RELEVANT, STYLES, World, relabel, world, world_queries, world_rows
from influence.data.world.facts import common_words


@pytest.fixture(scope="module")
def drawn() -> World:
    return world(0)


@pytest.fixture(scope="module")
def tokenizer(drawn: World):
    return world_tokenizer(drawn)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_same_seed_same_world(drawn: World) -> None:
    again, other = world(0), world(1)
    assert (again.facts, again.documents, again.questions) == (drawn.facts, drawn.documents, drawn.questions)
    assert dict(again.lexicon) == dict(drawn.lexicon)
    assert not {fact.subject for fact in other.facts} & {fact.subject for fact in drawn.facts}


def test_every_fact_has_every_form(drawn: World) -> None:
    assert len(drawn.facts) == len({fact.id for fact in drawn.facts}) == 300
    expected = Counter(forward=1, paraphrase=4, passage=1, reversed=1, relabelled=1)
    for fact in drawn.facts:
        rows = [row for row in drawn.documents if row["fact"] == fact.id]
        assert Counter(row["form"] for row in rows) == expected
        styles = Counter(row["style"] for row in rows if row["form"] == "paraphrase")
        assert styles == dict.fromkeys(STYLES, 2)
        assert all(fact.subject in row["text"] for row in rows)
    sources = Counter(row["source"] for row in drawn.documents)
    assert sources == {"world": 300 * 8 + 32, "python reference": 150}


def test_relations_are_many_and_used_alike(drawn: World) -> None:
    uses = Counter(fact.relation.name for fact in drawn.facts)
    assert len(uses) == len(RELATIONS) >= 20
    assert min(uses.values()) >= 10
    shared = Counter((fact.relation.name, fact.object) for fact in drawn.facts)
    assert max(shared.values()) <= 2
    assert sum(count == 1 for count in shared.values()) > 0.8 * len(drawn.facts)
    pairs = Counter((fact.subject, fact.relation.name) for fact in drawn.facts)
    assert max(pairs.values()) == 1


def test_held_out_phrasing_is_never_told(drawn: World) -> None:
    texts = [row["text"].lower() for row in drawn.documents]
    asked = [question for question in drawn.questions if question["phrasing"] == "held-out"]
    assert len(asked) == len(drawn.facts)
    for question in asked:
        assert not any(question["prompt"].lower() in text for text in texts)


def test_canonical_phrasing_is_told_verbatim(drawn: World) -> None:
    texts = {row["fact"]: row["text"] for row in drawn.documents if row["form"] == "forward"}
    for question in drawn.questions[: len(drawn.facts)]:
        assert question["phrasing"] == "canonical"
        assert texts[question["fact"]] == question["prompt"] + question["completion"] + "."


def test_relevant_rows_are_those_of_the_fact(drawn: World) -> None:
    for question in drawn.questions:
        rows = [drawn.documents[number] for number in question["relevant"]]
        assert len(rows) == 6
        assert all(row["fact"] == question["fact"] and row["form"] in RELEVANT for row in rows)


def test_phrasings_share_few_words() -> None:
    for relation in RELATIONS:
        told = [words_of(re.sub(r"\{[so]\}", "", text)) for text in (relation.canonical, *relation.paraphrases)]
        for k, one in enumerate(told):
            for other in told[k + 1 :]:
                shared = {word for word in one & other if len(word) > 3}
                assert not shared, f"{relation.name}: {shared}"
        assert all(text.endswith("{o}") for text in (relation.canonical, *relation.paraphrases))


def test_second_language_is_a_bijection(drawn: World) -> None:
    back = {new: old for old, new in drawn.lexicon.items()}
    assert len(back) == len(drawn.lexicon)
    objects = {fact.object.lower() for fact in drawn.facts}
    assert set(drawn.lexicon) >= common_words() | objects
    assert not set(back) & set(drawn.lexicon)
    names = {word for fact in drawn.facts for word in words_of(fact.subject)}
    assert not names & (set(back) | set(drawn.lexicon))
    for row in drawn.documents:
        if row["form"] == "relabelled":
            plain = relabel(row["text"], back)
            assert plain != row["text"]
            assert relabel(plain, drawn.lexicon) == row["text"]
            assert not words_of(plain) & words_of(row["text"]) - names


def test_prose_can_be_left_out_and_sizes_chosen() -> None:
    small = world(3, persons=4, countries=2, facts_each=3, prose=0)
    assert len(small.facts) == 18
    assert {row["source"] for row in small.documents} == {"world"}
    for bad in ({"persons": 0}, {"countries": 0}, {"facts_each": 17}, {"prose": -1}):
        with pytest.raises(ValueError, match="A world needs"):
            world(0, **bad)
    with pytest.raises(ValueError, match="Ask for fewer"):
        world(0, prose=1_000_000)


def test_rows_hold_one_document_each(drawn: World, tokenizer) -> None:
    rows = world_rows(drawn, tokenizer)
    assert rows["row"][:] == list(range(len(drawn.documents)))
    assert rows["text"][:] == [row["text"] for row in drawn.documents]
    for column in ("fact", "form", "style", "source"):
        assert rows[column][:] == [row[column] for row in drawn.documents]
    for ids, mask in zip(rows["input_ids"], rows["loss_mask"], strict=True):
        assert ids[0] == tokenizer.bos_token_id
        assert mask == [0] + [1] * (len(ids) - 1)


def test_queries_score_the_object_alone(drawn: World, tokenizer) -> None:
    queries = world_queries(drawn, tokenizer)
    assert queries["row"][:] == list(range(300, 600))
    for query in queries:
        scored = [token for token, mask in zip(query["input_ids"], query["loss_mask"], strict=True) if mask]
        assert tokenizer.decode(scored) == query["completion"]
        assert query["input_ids"][0] == tokenizer.bos_token_id
        assert query["loss_mask"] == sorted(query["loss_mask"])
        assert query["relevant"] == drawn.questions[query["row"]]["relevant"]
    assert len(world_queries(drawn, tokenizer, phrasing=None)) == 600
    with pytest.raises(ValueError, match="Unknown phrasing"):
        world_queries(drawn, tokenizer, phrasing="loud")


def test_a_cut_fact_is_refused(drawn: World, tokenizer) -> None:
    with pytest.warns(UserWarning, match="were cut"), pytest.raises(BadData, match="may be cut off"):
        world_rows(drawn, tokenizer, length=8)


def test_tokenizer_is_the_same_every_time_and_loads_again(drawn: World, tokenizer, tmp_path) -> None:
    from transformers import AutoTokenizer

    again = world_tokenizer(drawn, tmp_path)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 2048
    for text in ("Zoë says: naïve \N{GRINNING FACE}\n\tdone", drawn.documents[0]["text"]):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.convert_tokens_to_ids(END) == 0
        assert loaded(text)["input_ids"] == ids
        assert tokenizer.decode(ids[1:]) == text


def test_tokenizer_weights_and_errors() -> None:
    often = train_tokenizer(["aaaa bbbb", "cdcd"], vocab=262, weights=[1, 50])
    assert "cdcd" in often.get_vocab()
    with pytest.raises(ValueError, match="no text"):
        train_tokenizer([])
    with pytest.raises(ValueError, match="257"):
        train_tokenizer(["a"], vocab=100)
    with pytest.raises(ValueError, match="one weight"):
        train_tokenizer(["a"], weights=[1, 2])
