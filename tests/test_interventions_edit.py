"""Laws of the five edits on every family: what they change, what they leave, and that nothing is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import FAMILIES, VOCAB, Float64
from edit_case import ISSUE, T, every, ids_of, layer_inputs, logits_of, opened
from state import assert_same, state_of
from torch import Tensor, nn

import influence
from influence.interventions import Edit, freeze, noise, shuffle, skip, swap
from influence.interventions.source import inputs_of
from influence.model.anatomy import parts
from influence.model.load import load

# ---- what each edit does


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_keeps_the_norm_of_every_token_and_nothing_else(family: str) -> None:
    with Float64():
        lm, ids = opened(family), ids_of()
        plain, found = inputs_of(lm, ids, [0, 1]), layer_inputs(lm, ids, noise(1))
    assert torch.equal(plain[0], found[0]) and torch.equal(plain[1][:, -1], found[1][:, -1])
    before, after = plain[1][:, :-1], found[1][:, :-1]
    assert torch.allclose(before.norm(dim=-1), after.norm(dim=-1), rtol=1e-12)
    cosine = torch.cosine_similarity(before, after, -1)
    assert cosine.abs().max() < 0.95 and cosine.mean().abs() < 0.25


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_tokens_keep_what_they_were(family: str) -> None:
    with Float64():
        lm, ids = opened(family), ids_of()
        plain, found = inputs_of(lm, ids, [0, 1]), layer_inputs(lm, ids, freeze(0))
    assert torch.equal(found[1][:, :-1], plain[0][:, :-1])
    assert torch.equal(found[1][:, -1], plain[1][:, -1])  # layer 0 sees for its last token what it always saw


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_frozen_changes_no_prediction_of_the_last_token(family: str) -> None:
    with Float64():
        lm, ids = opened(family), ids_of()
        plain = logits_of(lm, ids)
        with influence.edit(lm, freeze([1])):
            found = logits_of(lm, ids)
    assert torch.equal(found[:, -1], plain[:, -1]) and not torch.allclose(found[:, 0], plain[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_shuffling_permutes_inside_each_token(family: str) -> None:
    with Float64():
        lm, ids = opened(family), ids_of()
        plain, found = inputs_of(lm, ids, [1])[1], layer_inputs(lm, ids, shuffle(1))[1]
    assert torch.equal(plain.sort(-1).values, found.sort(-1).values)
    assert torch.equal(plain[:, -1], found[:, -1]) and not torch.allclose(plain[:, :-1], found[:, :-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_injecting_a_prompts_own_states_changes_nothing(family: str) -> None:
    with Float64():
        lm, ids = opened(family), ids_of()
        plain = logits_of(lm, ids)
        with influence.edit(lm, swap([0, 1], ids, tokens="all")):
            assert torch.equal(logits_of(lm, ids), plain)
        with influence.edit(lm, swap([0, 1], ids[:1], tokens="all")):  # one prompt for all rows
            found = logits_of(lm, ids)
    assert torch.allclose(found, plain[:1].expand_as(found), atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_swapping_all_but_the_last_token_at_the_embeddings_is_another_prompt(family: str) -> None:
    """At layer 0 nothing has been mixed yet, so swapped states are swapped words."""
    with Float64():
        lm, ids, other = opened(family), ids_of(), ids_of(seed=5)
        with influence.edit(lm, swap(0, other)):
            found = logits_of(lm, ids)
        wanted = logits_of(lm, torch.cat([other[:, :-1], ids[:, -1:]], 1))
    assert torch.allclose(found, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_attention_the_last_logit_depends_on_no_other_token(family: str) -> None:
    with Float64():
        lm, ids = opened(family), ids_of()
        other = ids_of(seed=5)
        other[:, -1] = ids[:, -1]
        with influence.edit(lm, skip(0)):
            one, two = logits_of(lm, ids), logits_of(lm, other)
        if family in ("mixtral", "qwen3_moe", "olmoe"):  # products of experts hold the tokens of all rows
            assert torch.allclose(one[:, -1], two[:, -1], atol=1e-12)
        else:
            assert torch.equal(one[:, -1], two[:, -1])
        assert not torch.allclose(one[:, 0], two[:, 0])
        assert not torch.allclose(one[:, -1], logits_of(lm, ids)[:, -1])


def test_skipping_adds_the_mlp_alone() -> None:
    for family in ISSUE:
        with Float64(), torch.no_grad():
            lm, ids = opened(family), ids_of()
            part = parts(lm.net)[0]
            silent = copy.deepcopy(lm.net)
            place = silent.get_submodule(part.places["attn_out"].path)
            for parameter in place.parameters():  # a norm or projection with nothing in it adds nothing
                parameter.zero_()
            if family == "gemma2":  # its norm multiplies by 1 + weight
                place.weight.fill_(-1)
            with influence.edit(lm, skip([0])):
                found = logits_of(lm, ids)
            wanted = logits_of(load(silent), ids) if not part.parallel or family == "gpt_neox" else found
            assert torch.allclose(found, wanted, atol=1e-12), family


# ---- rows, padding, masks


@pytest.mark.parametrize("family", ISSUE)
@pytest.mark.parametrize("side", ["right", "left"])
def test_each_row_is_edited_on_its_own_and_padding_is_respected(family: str, side: str) -> None:
    """Rows of different lengths in one batch give what each gives alone, with the positions that padding needs."""
    lengths = (9, 6, 4)
    with Float64():
        lm, ids = opened(family), ids_of()
        batch, mask = torch.zeros(3, T, dtype=torch.long), torch.zeros(3, T, dtype=torch.long)
        for row, length in enumerate(lengths):
            part = slice(0, length) if side == "right" else slice(T - length, T)
            batch[row, part], mask[row, part] = ids[row, :length], 1
        more: dict[str, Any] = {"attention_mask": mask}
        if side == "left" and family != "opt":  # it finds its positions from the mask
            more["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
        others = [ids_of(1, length, seed=20 + length) for length in lengths]
        padded = {name: torch.zeros(3, T, dtype=torch.long) for name in ("input_ids", "attention_mask")}
        for row, one in enumerate(others):
            padded["input_ids"][row, : one.shape[1]], padded["attention_mask"][row, : one.shape[1]] = one[0], 1
        for name in every(ids):
            here = swap(1, padded) if name == "swap" else every(ids)[name]
            with influence.edit(lm, here, rows=[7, 8, 9]):
                found = logits_of(lm, batch, **more)
            for row, length in enumerate(lengths):
                alone = swap(1, others[row]) if name == "swap" else every(ids)[name]
                with influence.edit(lm, alone, rows=[7 + row]):
                    wanted = logits_of(lm, ids[row : row + 1, :length])[0]
                part = slice(0, length) if side == "right" else slice(T - length, T)
                assert torch.allclose(found[row, part], wanted, atol=1e-10, rtol=1e-10), (name, row)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "live"])
def test_masks_say_row_by_row_which_tokens_are_edited(family: str) -> None:
    with Float64():
        lm, ids = opened(family), ids_of()
        mask = torch.zeros(3, T, dtype=torch.bool)
        mask[0, 2], mask[1, :3] = True, True
        plain = inputs_of(lm, ids, [1])[1]
        for one in (noise(1, mask), shuffle(1, mask), swap(1, ids_of(seed=3), mask)):
            found = layer_inputs(lm, ids, one)[1]
            assert torch.equal((found != plain).any(-1), mask), one
        found = layer_inputs(lm, ids, freeze([True, False], mask))[1]
        assert torch.equal((found != plain).any(-1), mask)
        with influence.edit(lm, noise(1, mask[0])):  # one mask for all rows
            assert torch.equal((inputs_of(lm, ids, [1])[1] != plain).any(-1), mask[:1].expand(3, -1))


def test_chosen_tokens_of_another_prompt_go_where_they_are_wanted() -> None:
    with Float64():
        lm, ids, other = opened("llama"), ids_of(), ids_of(1, 5, seed=3)
        mask, there = torch.zeros(T, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)
        mask[[1, 6]], there[[0, 3]] = True, True
        found = layer_inputs(lm, ids, swap(1, other, mask, other_tokens=there))[1]
        states = inputs_of(lm, other, [1])[1][0]
        plain = inputs_of(lm, ids, [1])[1]
    assert torch.equal(found[:, 1], states[0].expand(3, -1)) and torch.equal(found[:, 6], states[3].expand(3, -1))
    assert torch.equal(found[:, ~mask], plain[:, ~mask])


def test_random_numbers_depend_on_seed_row_and_place_alone() -> None:
    with Float64():
        lm, ids = opened("gpt2"), ids_of()
        state = torch.random.get_rng_state()

        def noisy(seed: int, rows: list[int], places: list[int]) -> Tensor:
            with influence.edit(lm, noise(1, seed=seed), rows=rows):
                return logits_of(lm, ids[places])

        first = noisy(0, [0, 1, 2], [0, 1, 2])
        assert torch.equal(first, noisy(0, [0, 1, 2], [0, 1, 2]))
        assert torch.allclose(first[[2, 0]], noisy(0, [2, 0], [2, 0]), atol=1e-12)
        assert not torch.allclose(first, noisy(1, [0, 1, 2], [0, 1, 2]))
        assert not torch.allclose(first, noisy(0, [3, 4, 5], [0, 1, 2]))
        with influence.edit(lm, noise(1)):  # each pass of a context draws anew
            assert torch.equal(logits_of(lm, ids), first) and not torch.allclose(logits_of(lm, ids), first)
    assert torch.equal(state, torch.random.get_rng_state())


def test_several_edits_act_together() -> None:
    with Float64():
        lm, ids = opened("llama"), ids_of()
        noisy = layer_inputs(lm, ids, noise(0))[0]
        found = layer_inputs(lm, ids, noise(0), freeze(0))
    assert torch.equal(found[0], noisy) and torch.equal(found[1][:, :-1], noisy[:, :-1])


# ---- nothing is left behind


@pytest.mark.parametrize("family", FAMILIES)
def test_after_the_block_the_logits_are_the_old_ones_and_nothing_is_left(family: str) -> None:
    net = FAMILIES[family]()
    with Float64():
        lm, ids = load(net), ids_of()
        plain = logits_of(lm, ids)
        before = state_of(net)
        for one in every(ids, 0).values():
            with influence.edit(lm, one):
                assert not torch.allclose(logits_of(lm, ids)[:, -1], plain[:, -1])
        assert_same(before, state_of(net))
        assert torch.equal(logits_of(lm, ids), plain)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "live"])
def test_nothing_is_left_after_a_failure(family: str) -> None:
    net = FAMILIES[family]()
    with Float64():
        lm, ids = load(net), ids_of()
        before = state_of(net)
        config = copy.deepcopy(getattr(net, "generation_config", None))

        def fail(*_: Any) -> None:
            raise ZeroDivisionError("midway through the forward pass")

        for mode in ("prompt", "paper"):
            with pytest.raises(ZeroDivisionError), influence.edit(lm, *every(ids, 0).values(), mode=mode):
                handle = net.get_submodule(parts(net)[1].block).register_forward_hook(fail)
                try:
                    logits_of(lm, ids)
                finally:
                    handle.remove()
            with pytest.raises(KeyboardInterrupt), influence.edit(lm, noise(1), mode=mode):
                raise KeyboardInterrupt
            with pytest.raises(ValueError, match="layers 0 to 1"), influence.edit(lm, noise(0), skip(2), mode=mode):
                pass
        assert_same(before, state_of(net))
        assert config is None or config.to_dict() == net.generation_config.to_dict()


def test_hooks_of_the_user_survive_and_act_first() -> None:
    with Float64():
        lm, ids = opened("gpt_neox"), ids_of()
        module, seen = lm.net.get_submodule(parts(lm.net)[1].block), []

        def steer(_: nn.Module, args: tuple[Any, ...]) -> Any:
            seen.append(len(seen))
            return (args[0] * torch.arange(16), *args[1:])

        handle = module.register_forward_pre_hook(steer)
        steered = logits_of(lm, ids)
        with influence.edit(lm, swap(1, ids, tokens="all")):  # its own states, which were steered too
            assert torch.equal(logits_of(lm, ids), steered)
        assert len(seen) == 3 and list(module._forward_pre_hooks) == [handle.id]
        assert torch.equal(logits_of(lm, ids), steered)
        handle.remove()
        assert not torch.allclose(logits_of(lm, ids), steered)


def test_gradients_pass_through_edits() -> None:
    with Float64():
        lm, ids = opened("gpt2"), ids_of()
        with influence.edit(lm, freeze(1), noise(0)):
            lm.net(ids).logits[:, -1].sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in lm.net.parameters() if p.grad is not None)
        assert lm.net.transformer.h[0].mlp.c_fc.weight.grad.abs().sum() > 0


# ---- what cannot be done


def bad_calls() -> dict[str, tuple[Callable[[Tensor], Edit], str]]:
    return {
        "layer": (lambda ids: noise(2), "layers=2 for noise: the model has layers 0 to 1"),
        "negative": (lambda ids: freeze(-1), "layers 0 to 1"),
        "several": (lambda ids: skip([0, 5]), "at least one layer out of 0 to 1"),
        "none": (lambda ids: skip([]), "at least one layer"),
        "words": (lambda ids: skip("last"), "give a layer, a list of layers, or a mask"),
        "layer mask": (lambda ids: freeze([True, False, True]), "the mask has 3 entries and the model 2 layers"),
        "mask": (lambda ids: freeze(1, torch.ones(7)), r"for 1 row\(s\) of 7 tokens and the batch has 3 of 9"),
        "rows": (lambda ids: freeze(1, torch.ones(2, T)), r"for 2 row\(s\) of 9 tokens and the batch has 3 of 9"),
        "values": (lambda ids: freeze(1, torch.full((T,), 2)), "True where a token is edited"),
        "name": (lambda ids: noise(1, "first"), "previous, prompt, all"),
        "unaligned": (lambda ids: swap(1, ids[:, :7]), "row 0 has 9 tokens and the other prompt 7.*not aligned"),
        "prompts": (lambda ids: swap(1, ids[:2]), "2 other prompts for 3 rows"),
        "chosen": (lambda ids: swap(1, ids, other_tokens=torch.ones(T)), "choose as many in other_tokens="),
        "other mask": (lambda ids: swap(1, ids, other_tokens=torch.ones(4)), "other_tokens is for 1"),
        "floats": (lambda ids: swap(1, ids.double()), "give whole numbers"),
    }


@pytest.mark.parametrize("name", bad_calls())
def test_what_cannot_be_done_is_said(name: str) -> None:
    make, said = bad_calls()[name]
    with Float64():
        lm, ids = opened("gpt2"), ids_of()
        with pytest.raises(ValueError, match=said), influence.edit(lm, make(ids)):
            logits_of(lm, ids)


class Mixer(nn.Module):
    """A layer of a model without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(self.up(hidden).relu())


class NoAttentionAtAll(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)
        self.layers = nn.ModuleList(Mixer() for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.tokens(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


def test_a_family_without_attention_cannot_skip_it() -> None:
    lm = load(NoAttentionAtAll())
    said = "no attention sub-block of its own.*use noise, freeze, swap or shuffle"
    with pytest.raises(ValueError, match=said), influence.edit(lm, skip(0)):
        pass
    with influence.edit(lm, freeze(0), noise(0)):
        assert logits_of(lm, ids_of()).shape == (3, T, VOCAB)


def test_other_misuse_is_said() -> None:
    with Float64():
        lm, ids = opened("llama"), ids_of()
        with pytest.raises(ValueError, match="mode='both'"), influence.edit(lm, noise(0), mode="both"):
            pass
        with pytest.raises(ValueError, match="at least one edit"), influence.edit(lm):
            pass
        with (
            pytest.raises(ValueError, match="names 2 rows and the batch has 3"),
            influence.edit(lm, noise(0), rows=[1, 2]),
        ):
            logits_of(lm, ids)
        wide = torch.zeros(3, 1, T, T)
        with pytest.raises(ValueError, match="which tokens are padding"), influence.edit(lm, noise(0)):
            logits_of(lm, ids, attention_mask=wide)
        cache = lm.net(ids, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="filled before the edit"), influence.edit(lm, noise(0)):
            logits_of(lm, ids[:, -1:], past_key_values=cache)
        one = load(nn.Sequential(nn.Embedding(VOCAB, 8), nn.Linear(8, VOCAB)))
        with pytest.raises(ValueError, match="layer"), influence.edit(one, noise(0)):
            logits_of(one, ids)
