"""Per-sequence gradients of every family, and a model that is left exactly as it was found."""

from __future__ import annotations

import copy

import pytest
import torch
from captured import default_batch, gradients_of, make_batch, pairs_of
from cases import FAMILIES, Float64, oracle_all, padded, sequences
from state import assert_same, state_of
from torch import Tensor

from influence.model.capture import NotFinite, capture
from influence.model.load import load
from influence.model.loss import log_p
from influence.types import Batch, Block, Pair

EXACT = {"rtol": 0.0, "atol": 1e-12}


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_give_the_gradient_of_one_backward_per_sequence(family: str) -> None:
    with Float64():
        net, batch = FAMILIES[family](), default_batch()
        lm = load(net)
        got = gradients_of(lm, batch)
        want = oracle_all(net, batch.input_ids, batch.loss_mask, list(got))
    assert len(got) >= 8
    for name in got:
        torch.testing.assert_close(got[name], -want[name], **EXACT, msg=lambda m, name=name: f"{name}: {m}")
    assert sum(float(g.abs().sum()) > 0 for g in got.values()) >= 0.7 * len(got)


@pytest.mark.parametrize("family", ["llama", "phi", "mixtral"])
def test_embedding_and_unembedding_when_asked(family: str) -> None:
    with Float64():
        net, batch = FAMILIES[family](), default_batch()
        lm = load(net, blocks=["embed", "unembed"])
        got = gradients_of(lm, batch)
        want = oracle_all(net, batch.input_ids, batch.loss_mask, list(got))
    assert [block.kind for block in lm.blocks] == ["embed", "unembed"]
    for name in got:
        torch.testing.assert_close(got[name], -want[name], **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family: str) -> None:
    rows = sequences((7, 15, 10))
    with Float64():
        lm = load(FAMILIES[family]())
        together = gradients_of(lm, make_batch(*padded(rows, extra=3)))
        other_pad = gradients_of(lm, make_batch(*padded(rows, pad=5, extra=3)))
        for place, row in enumerate(rows):
            alone = gradients_of(lm, make_batch(*padded([row])))
            for name in alone:
                torch.testing.assert_close(together[name][place], alone[name][0], **EXACT)
                torch.testing.assert_close(other_pad[name][place], alone[name][0], **EXACT)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_positions_that_do_not_count_are_zero(family: str) -> None:
    ids, mask = padded(sequences((8, 12)), extra=2)
    mask[1, 9:] = False  # two real tokens on which nothing scored depends
    last = mask.long().cumsum(1).argmax(1)
    counts = torch.arange(ids.shape[1]) < last[:, None]
    for name, pair in pairs_of(load(FAMILIES[family]()), make_batch(ids, mask)).items():
        assert not pair.a[~counts].any() and not pair.g[~counts].any(), name
        assert pair.a[counts].any(-1).all(), name
        assert pair.counted == int(counts.sum())


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "phi3", "falcon", "live"])
def test_train_mode_with_dropout_gives_what_evaluation_gives(family: str) -> None:
    net, batch = FAMILIES[family](), default_batch()
    want = gradients_of(load(net), batch)
    net.train()
    odd = list(net.modules())[-2]
    odd.training = False
    got = gradients_of(load(net), batch)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=0)
    assert all(module.training != (module is odd) for module in net.modules())


def test_dropout_would_have_been_seen() -> None:
    net, batch = FAMILIES["gpt2"](), default_batch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moved = net.train()(batch.input_ids).logits - net.eval()(batch.input_ids).logits
    assert moved.abs().max() > 1e-3


def test_weights_are_frozen_inside_and_no_weight_gradient_is_made() -> None:
    net, batch = FAMILIES["llama"](), default_batch()
    seen = []
    with capture(load(net)) as run:
        run(batch, log_p, lambda block, pair: seen.append(any(p.requires_grad for p in net.parameters())))
    assert seen and not any(seen)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_it_works_under_no_grad_and_inference_settings_of_the_caller() -> None:
    lm, batch = load(FAMILIES["gpt_neox"]()), default_batch()
    want = gradients_of(lm, batch)
    with torch.no_grad():
        got = gradients_of(lm, batch)
    for name in want:
        assert torch.equal(got[name], want[name])


def test_a_forward_of_the_user_between_two_batches_is_not_captured() -> None:
    lm, batch = load(FAMILIES["gpt2"]()), default_batch()
    want = gradients_of(lm, batch)
    found: dict[str, Tensor] = {}

    def use(block: Block, pair: Pair) -> None:
        found[block.name] = torch.einsum("bto,bti->boi", pair.g, pair.a)

    with capture(lm) as run:
        lm.net(batch.input_ids)
        run(batch, log_p, use)
        lm.net(batch.input_ids).logits.sum()
    for name in want:
        assert torch.equal(found[name], want[name])


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe"])
def test_fused_experts_as_users_load_them(family: str) -> None:
    """float32 and grouped products, the default of transformers, which no float64 model can have."""
    net, batch = FAMILIES[family]().float(), default_batch()
    want = oracle_all(net, batch.input_ids, batch.loss_mask, [block.name for block in load(net).blocks])
    net.set_experts_implementation("grouped_mm")
    before = state_of(net)
    got = gradients_of(load(net), batch)
    assert_same(before, state_of(net))
    for name in want:
        torch.testing.assert_close(got[name].float(), -want[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "live"])
def test_bfloat16_on_request_is_near_and_leaves_the_weights(family: str) -> None:
    net, batch = FAMILIES[family]().float(), default_batch()
    before = state_of(net)
    want = gradients_of(load(net), batch)
    got = gradients_of(load(net), batch, dtype=torch.bfloat16)
    assert_same(before, state_of(net))
    flat = [torch.cat([g[name].double().flatten() for name in want]) for g in (got, want)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.99


def test_a_part_of_the_blocks() -> None:
    lm, batch = load(FAMILIES["llama"]()), default_batch()
    some = [block for block in lm.blocks if block.layer == 1]
    everything, part = pairs_of(lm, batch), pairs_of(lm, batch, blocks=some)
    assert set(part) == {block.name for block in some}
    for name, pair in part.items():
        torch.testing.assert_close(pair.g, everything[name].g, **EXACT)


def test_a_measure_that_is_not_finite_names_the_rows() -> None:
    batch = default_batch()._replace(row=torch.tensor([10, 11, 12]))

    def measure(logits: Tensor, batch: Batch) -> Tensor:
        return log_p(logits, batch) / torch.tensor([1.0, 0.0, 1.0]).to(logits)

    with pytest.raises(NotFinite, match="11"), capture(load(FAMILIES["gpt2"]())) as run:
        run(batch, measure, lambda block, pair: None)


def test_a_measure_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="one number per row"), capture(load(FAMILIES["gpt2"]())) as run:
        run(default_batch(), lambda logits, batch: logits.sum(), lambda block, pair: None)


def test_the_oracle_leaves_its_model_alone() -> None:
    net, batch = FAMILIES["gpt2"](), default_batch()
    weights = copy.deepcopy(net.state_dict())
    oracle_all(net, batch.input_ids, batch.loss_mask, ["transformer.h.0.mlp.c_fc"])
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
