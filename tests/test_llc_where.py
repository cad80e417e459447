"""Parts of a model by name: the weights that belong to a head in every layout, sub-blocks, tied weights."""

from __future__ import annotations

import pytest
import torch
from cases import FAMILIES
from llc_case import chains
from small import token_rows

import influence
from influence.llc.run import llc
from influence.llc.target import of_model
from influence.llc.where import NoPart, as_bool, heads, layers, masks

SHARED = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "phi3", "falcon", "mixtral"}


def opened(name: str):
    lm = influence.load(FAMILIES[name](), accept_untracked=["*"])
    return lm, of_model(lm, token_rows(6, 0))


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt_neox", "gpt_neo", "llama", "olmo2", "phi3", "falcon", "live", "gpt2_lora"]
)
def test_heads_share_out_the_attention_of_a_layer(name: str) -> None:
    lm, target = opened(name)
    assert heads(lm) == [f"layer {layer} head {head}" for layer in range(2) for head in range(2)]
    first, second = (as_bool(target, masks(target, f"layer 1 head {head}")) for head in range(2))
    whole = as_bool(target, masks(target, "layer 1 attention"))
    for parameter, value in target.point.items():
        one, two = first[parameter], second[parameter]
        assert not ((one | two) & ~whole[parameter]).any()
        if name not in SHARED and value.ndim == 2 and "lora_A" not in parameter:
            assert not (one & two).any() and torch.equal(one | two, whole[parameter])
        if value.ndim == 2 and one.any():
            assert one.sum() == two.sum()
    assert sum(int(value.sum()) for value in first.values()) > 0


@pytest.mark.parametrize(("name", "own"), [("gpt2", "c_attn"), ("gpt_neox", "query_key_value"), ("olmo2", "q_proj")])
def test_another_heads_weights_do_not_move_what_a_head_hands_on(name: str, own: str) -> None:
    """Zeroing the value rows of head 0 empties the slice of head 0 and leaves that of head 1."""
    lm, target = opened(name)
    mask = masks(target, "layer 0 head 0")
    found = {key: value for key, value in mask.items() if own in key}
    assert found and all(isinstance(value, torch.Tensor) and not value.all() for value in found.values())


def test_the_rest_stays_bit_for_bit_and_only_its_own_weights_enter_the_buffer() -> None:
    lm, target = opened("gpt_neox")
    trace = chains(target, masks(target, "layer 0 head 1"), step_size=1e-4, n_beta=5.0, gamma=1.0, chains=2, draws=8,
                   thin=1, burn_in=2, batch_size=3)  # fmt: skip
    mask = trace.space.mask
    assert mask is not None and len(trace.space.shapes) == 3
    assert torch.equal(trace.ends[:, mask == 0], trace.space.center[mask == 0].repeat(2, 1))
    assert (trace.ends[:, mask == 1] != trace.space.center[mask == 1]).all()
    assert trace.space.free == 8 * (3 * 16 + 3 + 16)


def test_names_join_and_tied_weights_move_together() -> None:
    lm, target = opened("gpt2")
    assert layers(lm)[:2] == ["layer 0 attention", "layer 0 mlp"]
    assert masks(target, "embed") == masks(target, "unembed") == {"transformer.wte.weight": True}
    both = masks(target, ["layer 0 head 0", "layer 0 head 1", "embed"])
    weight = both["transformer.h.0.attn.c_attn.weight"]
    assert isinstance(weight, torch.Tensor) and weight.all() and both["transformer.wte.weight"] is True
    assert masks(target, None) is None and masks(target, "all") is None
    assert set(masks(target, "transformer.h.1.mlp.*")) == set(masks(target, "layer 1 mlp"))
    assert len(masks(target, "mlp")) == 8


@pytest.mark.parametrize("name", ["layer 2", "layer 0 head 2", "layer 0 heads", "head 0", "nothing*", ""])
def test_unknown_parts_are_refused_with_what_there_is(name: str) -> None:
    _, target = opened("live")
    with pytest.raises(NoPart, match=r"2 layers, from 0.*head H` with H below 2"):
        masks(target, name)


@pytest.mark.parametrize("name", ["mixtral", "bloom"])
def test_models_that_vmap_cannot_follow_run_one_by_one(name: str) -> None:
    lm = influence.load(FAMILIES[name](), accept_untracked=["*"])
    found = llc(
        lm, token_rows(6, 0), where="layer 0 mlp", step_size=1e-5, n_beta=5.0, chains=2, draws=8, thin=1, burn_in=1,
        batch_size=3, progress=False,
    )  # fmt: skip
    assert found.settings["where"] == "layer 0 mlp" and torch.isfinite(found.trace.ends).all()
