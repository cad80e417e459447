"""The sweep over layers, edits and seeds: prefixes reused or not, by hand, by generation; tasks, curves, depths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from cases import FAMILIES, VOCAB, Float64
from small import token_rows
from state import assert_same, state_of
from test_interventions_edit import ISSUE, Mixer, NoAttentionAtAll, opened
from tokenizers_tiny import byte_bpe
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import influence
from influence.data.world import world
from influence.interventions import Edit, Metric, freeze, noise, skip, tasks, worth
from influence.interventions.edit import edited
from influence.interventions.layout import NO_PARTNER, Question, layouts, partners
from influence.interventions.measure import MAKERS, outcomes, plan_of
from influence.interventions.metrics import EXACT, LOG_P, PERPLEXITY
from influence.interventions.result import Interventions
from influence.interventions.stack import stack
from influence.model.anatomy import parts
from influence.model.load import load
from influence.model.recall import recall
from influence.types import LM

ALL = tuple(MAKERS)


def questions(n: int = 6, seed: int = 0, tokens: int = 2) -> datasets.Dataset:
    """Rows of which the last tokens are scored; two of each length, so that each has a partner."""
    rng = np.random.default_rng(seed)
    lengths = [5 + place // 2 for place in range(n)]
    ids = [rng.integers(3, VOCAB, length).tolist() for length in lengths]
    masks = [[0] * (length - tokens) + [1] * tokens for length in lengths]
    return datasets.Dataset.from_dict({"input_ids": ids, "loss_mask": masks, "row": list(range(10, 10 + n))})


def swept(lm: LM, rows: datasets.Dataset, mode: str, reuse: bool, batch_size: int = 7) -> Any:
    task = tasks.task(rows, lm)
    plan = plan_of(ALL, range(lm.n_layers), (0, 1), lm.n_layers)
    with stack(lm) as opened_:
        return outcomes(
            lm, opened_, task.questions(), rows.to_list(), (LOG_P, EXACT), plan, mode=mode, batch_size=batch_size,
            reuse=reuse,
        )  # fmt: skip


# ---- the same numbers, however they are made


@pytest.mark.parametrize(
    ("family", "mode"),
    [*((family, "paper") for family in (*ISSUE, "live", "mixtral", "bloom")), ("gpt2", "prompt"), ("gemma2", "prompt")],
)
def test_reusing_the_prefix_gives_the_same_numbers(family: str, mode: str) -> None:
    with Float64():
        lm, rows = opened(family), questions()
        reused, again = swept(lm, rows, mode, True), swept(lm, rows, mode, False, batch_size=5)
    for name in ALL:
        one, two = reused.edited[name]["log p"], again.edited[name]["log p"]
        assert one.shape == (1 if name in ("freeze", "skip") else 2, 2, 6) and np.isfinite(one).all()
        assert np.abs(one - two).max() < 1e-10
        assert np.abs(one - reused.unedited["log p"]).max() > 1e-3
    last = reused.edited["freeze"]["log p"][0, 1]
    if mode == "paper":  # frozen in the last layer, nobody looks at the others' states any more
        assert np.abs(last - reused.unedited["log p"]).max() < 1e-10


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_numbers_are_those_of_prefixes_edited_one_by_one(family: str) -> None:
    with Float64():
        lm, rows = opened(family), questions()
        found = swept(lm, rows, "paper", True)
        own = tasks.task(rows, lm).questions()
        for place, one in enumerate(own):
            for name, maker in {key: MAKERS[key] for key in ALL if key != "swap"}.items():
                for layer in (0, 1):
                    total = 0.0
                    for step, end in enumerate(one.scored):
                        made, key = maker(layer, 0), np.array([[one.row, step]])
                        with torch.no_grad(), edited(lm, [made], keys=key, mode="prompt"):
                            logits = lm.net(torch.from_numpy(one.ids[None, :end])).logits[0, -1]
                        total += float(logits.log_softmax(-1)[one.ids[end]])
                    assert found.edited[name]["log p"][0, layer, place] == pytest.approx(total, abs=1e-9), name


@pytest.mark.parametrize("mode", ["paper", "prompt"])
def test_exact_match_is_what_generation_under_the_edit_says(mode: str) -> None:
    """Greedy generation under the edit gives the completion in exactly the questions counted as right."""
    with Float64():
        lm = opened("llama")
        rows, right = questions(8), 0
        for name in ("freeze", "noise", "skip"):
            said = []
            for place, one in enumerate(tasks.task(rows, lm).questions()):
                key = np.array([[one.row, 0]])
                with edited(lm, [MAKERS[name](1, 0)], keys=key, mode=mode):
                    out = lm.net.generate(
                        torch.from_numpy(one.ids[None, : one.prompt]), max_new_tokens=2, do_sample=False,
                        eos_token_id=None, pad_token_id=0, attention_mask=torch.ones(1, one.prompt, dtype=torch.long),
                    )[0].tolist()  # fmt: skip
                said.append(out if place % 2 else rows[place]["input_ids"])  # half of the questions get its answer
            asked = datasets.Dataset.from_dict({**rows.to_dict(), "input_ids": said})
            found = swept(lm, asked, mode, True).edited[name]["exact match"][0, 1]
            assert found[1::2].all(), name
            right += int(found.sum())
        assert right < 3 * 8


def test_batches_hold_whole_questions_and_every_scored_token_once() -> None:
    own = tasks.task(token_rows(9, 3), opened("gpt2")).questions()
    for mode in ("paper", "prompt"):
        seen: dict[int, list[int]] = {}
        for batch in layouts(own, mode, 6):
            assert mode == "paper" or len(batch.ids) <= 6
            for place, target in batch.split(batch.target[..., None]).items():
                assert place not in seen
                seen[place] = target[:, 0].tolist()
            chosen = batch.tokens("previous")
            assert not bool((chosen & ~batch.tokens("all")).any())
            for row, place in enumerate(batch.question):
                assert int(chosen[row].sum()) == (int(batch.length[row]) if mode == "paper" else own[place].prompt) - 1
        assert seen == {place: one.ids[one.scored].tolist() for place, one in enumerate(own)}


def test_partners_have_prompts_as_long_and_not_the_same() -> None:
    ids = [np.array(row) for row in ([1, 2, 3, 4], [1, 2, 3, 5], [4, 2, 3, 4], [1, 2, 9])]
    own = [Question(one, np.array([len(one) - 1]), row) for row, one in enumerate(ids)]
    assert partners(own, 0).tolist() == [2, 2, partners(own, 0)[2], NO_PARTNER] and partners(own, 0)[2] in (0, 1)


# ---- the stack


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_can_be_entered_at_any_layer_and_is_left_as_it_was(family: str) -> None:
    net = FAMILIES[family]()
    with Float64():
        lm = load(net)
        ids = torch.randint(3, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
        before = state_of(net)
        with stack(lm) as entered:
            plain = entered.record(ids)
            places = torch.tensor([[1, 8], [0, 3], [2, 2]])
            for layer in (0, 1):
                assert torch.equal(entered.run(layer), plain)
            some = entered.record(ids, places)
            for layer in (0, 1):
                assert torch.equal(entered.run(layer), some)
            assert torch.allclose(some, plain.gather(1, places[..., None].expand_as(some)), atol=1e-12)
            assert not torch.allclose(entered.inputs[0], entered.inputs[1])
        assert_same(before, state_of(net))


def test_nothing_is_left_after_a_failure_in_the_stack() -> None:
    net = FAMILIES["gpt_neox"]()
    before = state_of(net)
    with Float64():
        lm, ids = load(net), torch.arange(3, 12)[None]
        for layer in (0, 1):
            with pytest.raises(ZeroDivisionError), stack(lm) as entered:
                entered.record(ids)
                net.get_submodule(parts(net)[1].block).register_forward_pre_hook(_fail)
                try:
                    entered.run(layer)
                finally:
                    net.get_submodule(parts(net)[1].block)._forward_pre_hooks.popitem()
        with stack(lm, [1]) as entered, pytest.raises(ValueError, match="record a batch first"):
            entered.run(1)
        with stack(lm, [1]) as entered:
            entered.record(ids)
            with pytest.raises(ValueError, match=r"layer 0 was not recorded; recorded are \[1\]"):
                entered.run(0)
    assert_same(before, state_of(net))


def _fail(*_: Any) -> None:
    raise ZeroDivisionError


def test_layers_below_do_not_run_again() -> None:
    with Float64():
        lm, seen = opened("llama"), []
        handle = lm.net.model.layers[0].mlp.register_forward_hook(lambda *_: seen.append(1))
        with stack(lm) as entered:
            entered.record(torch.arange(3, 12)[None])
            entered.run(1)
            assert len(seen) == 1
            entered.run(0)
        assert len(seen) == 2
        handle.remove()


# ---- curves and depths of planted numbers


def planted(costs: list[float], better: str = "higher", n: int = 40, noise_: float = 0.0) -> worth.Curve:
    rng = np.random.default_rng(0)
    unedited = np.full(n, 0.8) + noise_ * rng.normal(size=n)
    sign = -1 if better == "higher" else 1
    values = np.stack([unedited * (1 + sign * cost) for cost in costs])[None]
    metric = Metric("planted", lambda logits, row: 0.0, better)
    drawn = worth.draws(np.arange(n), 200, 0)
    return worth.curve(values, unedited, np.ones(n), drawn, np.arange(len(costs)), len(costs), metric, 0)


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize(
    ("costs", "depth"),
    [
        ([0.9, 0.5, 0.04, 0.0], 0.5),
        ([0.9, 0.04, 0.2, 0.0], 0.75),
        ([0.9, 0.9, 0.9, 0.06], 1.0),
        ([0.04, 0.0, 0.0, 0.0], 0.0),
        ([0.9, -0.5, 0.0, 0.0], 0.25),  # what helps costs nothing
    ],
)
def test_the_depth_is_the_first_from_which_on_nothing_is_lost(costs: list[float], depth: float, better: str) -> None:
    found = worth.depth_within(planted(costs, better), 0.05, 0.95)
    assert tuple(found) == (depth, depth, depth)
    noisy = worth.depth_within(planted(costs, better, noise_=0.1), 0.05, 0.95)
    assert noisy == found  # a share of each question's own value


def test_no_depth_without_a_cost_of_all() -> None:
    for costs in ([0.0, 0.0], [-0.3, 0.0]):
        assert math.isnan(worth.depth_within(planted(costs), 0.05, 0.95).value)


def test_means_count_questions_by_weight_groups_and_draws() -> None:
    drawn = worth.draws(np.array(["a", "a", "b"]), 500, 0)
    assert (drawn[0] == 1).all() and (drawn[:, 0] == drawn[:, 1]).all() and (drawn[:, 0] + drawn[:, 2] == 2).all()
    values, weight = np.array([1.0, 3.0, 5.0]), np.array([1.0, 1.0, 2.0])
    assert worth.means(values, weight, drawn, LOG_P)[0] == pytest.approx(14 / 4)
    assert worth.means(values, weight, drawn, PERPLEXITY)[0] == pytest.approx(math.exp(14 / 4))
    gone = np.array([1.0, np.nan, 5.0])
    assert worth.means(gone, weight, drawn, LOG_P)[0] == pytest.approx(11 / 3)
    shares = worth.seed_draws(3, 500, 0)
    assert (
        np.allclose(shares.sum(1), 1)
        and np.allclose(shares[0], 1 / 3)
        and np.allclose(shares[1:].mean(0), 1 / 3, atol=0.05)
    )


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Metric values drawn around a known mean: the 90 % interval of 30 groups of 2 holds it in about 9 of 10 draws."""
    rng, held = np.random.default_rng(0), 0
    metric = Metric("planted", lambda logits, row: 0.0)
    for trial in range(200):
        values = np.repeat(rng.normal(size=30), 2) + 0.1 * rng.normal(size=60)
        drawn = worth.draws(np.repeat(np.arange(30), 2), 300, trial)
        found = worth.interval(worth.means(values, np.ones(60), drawn, metric), 0.9)
        held += found.low <= 0 <= found.high
    assert 0.82 <= held / 200 <= 0.96


# ---- tasks and results


@pytest.fixture(scope="module")
def small() -> LM:
    """A random GPT-2 with a tokenizer, large enough a vocabulary for any text."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=340, n_positions=128, n_embd=16, n_layer=3, n_head=2, bos_token_id=0)
        net = GPT2LMHeadModel(config).eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(4)
    return load(net, tokenizer=byte_bpe("<s> $A"))


def test_tasks_ask_what_they_say(small: LM) -> None:
    capitals = tasks.capitals(small)
    assert ("The capital of France is", " Paris") in list(
        zip(capitals.rows["prompt"], capitals.rows["completion"], strict=True)
    )
    assert len(set(capitals.rows["prompt"])) == len(capitals) > 120
    for row in tasks.arithmetic(small, n=50, high=9).rows:
        assert eval_sum(row["prompt"]) == int(row["completion"])
    drawn = world(0, persons=12, facts_each=8, prose=0)
    facts = tasks.recall(drawn, small)
    assert len(facts) == len(drawn.facts) and set(facts.groups()) == {fact.id.split(".")[0] for fact in drawn.facts}
    assert len(tasks.recall(drawn, small, phrasing="held-out", limit=5)) == 5
    hops, hidden = tasks.two_hop(drawn, small), tasks.two_hop(drawn, small, told=False)
    for row, other in zip(hops.rows, hidden.rows, strict=True):
        first, second = row["prompt"].split(". ")
        person, town = first.split(" was born in ")
        assert second == other["prompt"] == f"On the map {person} is drawn inside"
        assert any(f"The town of {town} lies in{row['completion']}." == one["text"] for one in drawn.documents)
    towns = tasks.second_hop(drawn, small)
    told = {one["text"] for one in drawn.documents if one["form"] == "premise"}
    assert {f"{row['prompt']}{row['completion']}." for row in towns.rows} == told
    text = tasks.perplexity(["one two three four five six seven eight nine ten"] * 3, small, tokens=4)
    assert [int(np.sum(mask)) for mask in text.rows["loss_mask"]] == [4] * 3


def eval_sum(prompt: str) -> int:
    a, sign, b, _ = prompt.split()
    return int(a) + int(b) if sign == "+" else int(a) - int(b)


def test_unedited_values_are_those_of_the_model(small: LM) -> None:
    drawn = world(0, persons=4, facts_each=4, prose=0)
    facts = tasks.recall(drawn, small)
    text = tasks.perplexity([one["text"] for one in drawn.documents][:6], small)
    found = influence.intervene(small, [facts, text], edits=("freeze",), bootstrap=20, progress=False)
    values = found.depths.set_index(["task", "metric"])["unedited"]
    assert values["recall", "exact match"] == recall(small, facts.rows).mean()
    total, count = 0.0, 0
    for row in text.rows:
        with torch.no_grad():
            log_p = small.net(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for place in np.flatnonzero(row["loss_mask"]):
            total, count = total - float(log_p[place - 1, row["input_ids"][place]]), count + 1
    assert values["perplexity", "perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def longest_margin(logits: Tensor, row: Mapping[str, Any]) -> float:
    assert row["prompt"] and len(row["targets"]) == len(logits)
    return float(logits.max() - logits.min())


def test_results_show_and_keep_themselves(small: LM) -> None:
    own = tasks.task(
        [{"prompt": f"The dog {k} is", "completion": " lazy", "group": k % 3} for k in range(6)], small, name="dogs",
        metrics=("log p", longest_margin),
    )  # fmt: skip
    edits = {"late noise": lambda layer, seed: [noise(layer, seed=seed), freeze(layer)], "skip": MAKERS["skip"]}
    found = influence.intervene(small, own, edits=edits, seeds=2, layers=[2], bootstrap=50, progress=False)
    assert set(found.depths["metric"]) == {"log p", "longest_margin"} and sorted(set(found.curves["layer"])) == [0, 2]
    frame = found.to_frame()
    assert {"task", "edit", "metric", "layer", "depth", "value", "low", "cost", "unedited"} - set(frame) == {"low"}
    assert (frame["value_low"] <= frame["value"] + 1e-9).all() and (frame["value"] <= frame["value_high"] + 1e-9).all()
    text = str(found)
    assert len(text.splitlines()) <= 20 and "mode 'paper'" in text and "GPT2LMHeadModel, 3 layers" in text
    assert "<b>" not in replace(found, notes=("<b>",))._repr_html_() and "dogs" in found._repr_html_()
    again = Interventions.from_dict(found.to_dict())
    assert str(again) == text and again.depth("dogs", "skip") == pytest.approx(found.depth("dogs", "skip"), nan_ok=True)
    same = influence.intervene(small, own, edits=edits, seeds=2, layers=[2], bootstrap=50, progress=False, batch_size=1)
    assert np.allclose(same.curves["value"], found.curves["value"], atol=1e-4)
    with pytest.raises(KeyError, match="dogs / skip / log p"):
        found.depth("cats", "skip")


def test_parallel_residuals_and_partners_are_noted() -> None:
    with Float64():
        lm = opened("gpt_neox")
        rows = questions(5)  # the last has no partner
        own = tasks.task(rows, lm)
        found = influence.intervene(
            lm, own, edits=("skip", "swap"), seeds=1, bootstrap=20, mode="prompt", progress=False
        )
    assert found.info["parallel"] and any("parallel residuals" in note for note in found.notes)
    assert found.depths.set_index(["edit", "metric"])["questions"].to_dict()["swap", "log p"] == 4
    assert any("swap has fewer questions" in note for note in found.notes)


def test_what_cannot_be_asked_is_said(small: LM) -> None:
    own = tasks.arithmetic(small, n=4, high=3)
    for settings, said in (
        ({"edits": ("nois",)}, "give some of noise, freeze, shuffle, skip, swap"),
        ({"edits": {"bad": lambda layer, seed: 3}}, "must give influence.interventions edits"),
        ({"edits": {"mask": lambda layer, seed: freeze(layer, [True, False])}}, "in a sweep name them"),
        ({"layers": [3]}, "out of 0 to 2"),
        ({"mode": "both"}, "mode='both'"),
        ({"share": 0}, "share=0"),
        ({"seeds": 0}, "give at least one, all different"),
    ):
        with pytest.raises(ValueError, match=said):
            influence.intervene(small, own, progress=False, **settings)
    with pytest.raises(ValueError, match="two tasks have one name"):
        influence.intervene(small, [own, own])
    with pytest.raises(ValueError, match="give at least one task"):
        influence.intervene(small, [])
    with pytest.raises(ValueError, match="no two have"):
        rows = questions(1)
        influence.intervene(small, tasks.task(rows, small), edits=("swap",), progress=False)
    with pytest.raises(ValueError, match="metric='acc'"):
        tasks.task(own.rows, small, metrics="acc")
    with pytest.raises(ValueError, match="it must be finite"):
        nan = tasks.task(own.rows, small, metrics=lambda logits, row: float("nan"))
        influence.intervene(small, nan, progress=False)
    with pytest.raises(ValueError, match=r"does not contain \{country\}"):
        tasks.capitals(small, template="Capital?")
    with pytest.raises(ValueError, match="no attention sub-block"):
        bare = load(NoAttentionAtAll())
        influence.intervene(bare, tasks.task(questions(), bare), edits=("skip",), progress=False)
    assert isinstance(Mixer(), nn.Module) and isinstance(skip(0), Edit)
