"""Planted text, attention-only models and scores of heads: rules that hold, losses that are known, exact zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import influence
from influence.data import planted
from influence.llc.head_scores import induction, looking, patterns, previous, without
from influence.llc.where import heads
from influence.model.attention_only import attention_only, next_token, trained


@pytest.fixture(scope="module")
def own() -> planted.Language:
    return planted.language(3)


@pytest.fixture(scope="module")
def some(own: planted.Language) -> planted.Text:
    return planted.text(own, 400, np.random.default_rng(0))


def test_bigrams_hold(own: planted.Language, some: planted.Text) -> None:
    head, filler = own.starts[2], own.starts[3]
    before = some.tokens[:, :-1]
    row, place = np.nonzero((before >= head) & (before < filler))
    assert (some.rule[row, place + 1] == planted.BIGRAM).all() and (some.rule == planted.BIGRAM).sum() == len(row)
    hit = some.tokens[row, place + 1] == own.successor[before[row, place] - head]
    expected = own.sure + (1 - own.sure) / own.fillers
    assert abs(hit.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(hit))


def test_skip_trigrams_hold(own: planted.Language, some: planted.Text) -> None:
    trigger, key, head = own.starts[:3]
    seen = [0, 0]
    for row, rule, where in zip(some.tokens, some.rule, some.trigger, strict=True):
        active = own.triggers
        for t in range(1, len(row)):
            if trigger <= row[t] < key:
                active, place = int(row[t]) - trigger, t
            if key <= row[t] < head:
                assert row[t + 1] == own.answer[active, row[t] - key] and rule[t + 1] == planted.SKIP
                assert where[t] == (place if active < own.triggers else planted.NOWHERE)
                seen[active < own.triggers] += 1
            else:
                assert where[t] == planted.NOWHERE
    assert min(seen) > 200
    assert all(len(set(column)) == own.triggers + 1 for column in own.answer.T), "no key answers two triggers alike"


def test_second_copies_are_copies(own: planted.Language) -> None:
    found = planted.text(own, 200, np.random.default_rng(1))
    stretch = found.tokens >= own.starts[4]
    row, place = np.nonzero(found.first != planted.NOWHERE)
    assert (found.tokens[row, place] == found.tokens[row, found.first[row, place]]).all()
    assert (found.first[row, place] < place).all() and stretch.sum() == 2 * len(row)
    row, place = np.nonzero(found.rule == planted.COPY)
    assert (found.tokens[row, place] == found.tokens[row, found.first[row, place - 1] + 1]).all()
    for tokens, inside in zip(found.tokens, stretch, strict=True):
        assert set(np.unique(tokens[inside], return_counts=True)[1].tolist()) == {2}, "a token stands once in a copy"


def test_scored_tokens_are_those_of_the_rules(some: planted.Text) -> None:
    rows = some.rows(("second copy",))
    assert (np.array(rows["loss_mask"]) == (some.rule == planted.COPY)).all()
    assert np.array(some.rows()["loss_mask"])[:, 1:].all() and not np.array(some.rows()["loss_mask"])[:, 0].any()


def test_the_least_loss_is_that_of_who_knows_the_tables(own: planted.Language, some: planted.Text) -> None:
    head, filler = own.starts[2], own.starts[3]
    row, place = np.nonzero(some.rule == planted.BIGRAM)
    p = np.full(len(row), (1 - own.sure) / own.fillers)
    p += own.sure * (some.tokens[row, place] == own.successor[some.tokens[row, place - 1] - head])
    loss = -np.log(p)
    assert abs(loss.mean() - own.optimum()["bigram"]) < 4 * loss.std() / np.sqrt(len(loss))
    assert filler <= some.tokens[row, place].min() and some.tokens[row, place].max() < own.starts[4]
    every = np.full(own.fillers, (1 - own.sure) / own.fillers)
    every[0] += own.sure
    assert own.optimum() == pytest.approx(
        {"bigram": -(every * np.log(every)).sum(), "skip-trigram": 0, "second copy": 0}
    )
    assert planted.language(0, sure=1.0).optimum()["bigram"] == 0


def test_texts_that_do_not_fit_are_refused(own: planted.Language) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="do not fit"):
        planted.text(own, 1, rng, length=20)
    with pytest.raises(ValueError, match="do not fit"):
        planted.text(own, 1, rng, stretch=(5, 61), length=200)
    with pytest.raises(ValueError, match="more fillers than triggers"):
        planted.language(triggers=9, fillers=9)
    with pytest.raises(ValueError, match="multiple of 16"):
        attention_only(10, width=24, heads=8)


@pytest.fixture(scope="module")
def steps(own: planted.Language) -> dict[int, torch.nn.Module]:
    rng = np.random.default_rng(5)
    net = attention_only(own.size, width=32, heads=4, seed=1)
    return dict(trained(net, lambda step: planted.text(own, 8, rng).tokens, [0, 40], warmup=5))


def test_the_mlp_gives_nothing_also_after_training_and_loading(
    own: planted.Language, steps: dict[int, torch.nn.Module], some: planted.Text, tmp_path: Path
) -> None:
    tokens = torch.from_numpy(some.tokens[:8])
    before, after = (next_token(steps[step], tokens).mean().item() for step in (0, 40))
    assert after < before - 0.5, "it learns"
    net = steps[40]
    net.save_pretrained(tmp_path)
    loaded = influence.load(str(tmp_path)).net
    given: list[torch.Tensor] = []
    for layer in loaded.gpt_neox.layers:
        layer.mlp.register_forward_hook(lambda module, args, output: given.append(output))
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, net(tokens).logits)
    assert len(given) == 2 and all((one == 0).all() for one in given)
    moved = [(a != b).any() for a, b in zip(steps[0].parameters(), net.parameters(), strict=True)]
    names = [name for name, _ in net.named_parameters()]
    still = [name for name, m in zip(names, moved, strict=True) if not m]
    assert still and all(".mlp." in name or "post_attention_layernorm" in name for name in still)


def test_places_to_look_at() -> None:
    """On patterns made by hand: a head that looks where it should has the score 1, an even one 1 / places."""
    first = np.array([[-1, -1, -1, -1, 1, 2, 3]])
    tokens = np.array([[0, 5, 6, 7, 5, 6, 7]])
    pattern = np.zeros((1, 3, 1, 7, 7))
    pattern[0, 0, 0, range(7), [0, 0, 1, 2, 2, 3, 4]] = 1  # the token after the first occurrence
    pattern[0, 1, 0, range(7), [0, 0, 1, 2, 3, 4, 5]] = 1  # the token before
    pattern[0, 2, 0] = np.tril(np.ones((7, 7))) / np.arange(1, 8)[:, None]
    assert looking(pattern, induction(first))[0] == pytest.approx([1, 0, (1 / 5 + 1 / 6 + 1 / 7) / 3])
    assert looking(pattern, previous(tokens))[0, 1] == 1
    with pytest.raises(ValueError, match="no position"):
        looking(pattern, np.full((1, 7), -1))


def test_patterns_and_losses_without_a_head(steps: dict[int, torch.nn.Module], some: planted.Text) -> None:
    lm, tokens = influence.load(steps[40]), some.tokens[:8]
    kind = lm.net.config._attn_implementation
    found = patterns(lm, tokens)
    assert found.shape == (2, 4, 8, 64, 64) and lm.net.config._attn_implementation == kind
    assert np.allclose(found.sum(-1), 1, atol=1e-5) and (np.triu(found, 1) == 0).all()

    def measure() -> float:
        with torch.no_grad():
            return float(next_token(lm.net, torch.from_numpy(tokens)).mean())

    whole = measure()
    silenced = without(lm, measure)
    assert list(silenced) == heads(lm) and measure() == whole
    dense = lm.net.gpt_neox.layers[1].attention.dense
    kept = dense.weight.detach().clone()
    with torch.no_grad():
        dense.weight[:, 8:16] = 0
        assert silenced["layer 1 head 1"] == pytest.approx(measure(), abs=1e-6) != whole
        dense.weight.copy_(kept)
