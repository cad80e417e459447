"""Which linear maps are found, named and chosen."""

from __future__ import annotations

import pytest
from cases import FAMILIES
from torch import Tensor, nn

from influence.model.load import NoBlocks, load


@pytest.mark.parametrize("family", FAMILIES)
def test_the_share_tracked(family: str) -> None:
    net = FAMILIES[family]()
    lm = load(net)
    total = sum(p.numel() for p in net.parameters())
    assert lm.tracked.of_all == pytest.approx(sum(block.size for block in lm.blocks) / total)
    assert lm.tracked.of_selected == 1.0 and not lm.tracked.untracked
    assert lm.n_layers == 2 and {block.layer for block in lm.blocks} == {0, 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_knows_its_kind(family: str) -> None:
    lm = load(FAMILIES[family]())
    for layer in range(2):
        kinds = {block.kind for block in lm.blocks if block.layer == layer}
        assert kinds == {"attn_qkv", "attn_out", "mlp_in", "mlp_out"}


def test_selection_by_kind_and_by_regular_expression() -> None:
    net = FAMILIES["llama"]()
    everything = [block.name for block in load(net).blocks]
    mlp = [block.name for block in load(net, blocks="mlp").blocks]
    attention = [block.name for block in load(net, blocks="attention").blocks]
    assert len(mlp) == 6 and len(attention) == 8 and sorted(mlp + attention) == sorted(everything)
    assert [b.name for b in load(net, blocks=r"layers\.1\..*down").blocks] == ["model.layers.1.mlp.down_proj"]
    assert [b.kind for b in load(net, blocks="attn_out").blocks] == ["attn_out"] * 2
    assert [b.name for b in load(net, blocks=["attention", "mlp"]).blocks] == everything


def test_adapters_alone() -> None:
    lm = load(FAMILIES["llama_lora"](), blocks="adapters")
    assert len(lm.blocks) == 12 and all("lora_" in block.name for block in lm.blocks)
    assert {block.d_in for block in lm.blocks if "lora_B" in block.name} == {3}


def test_one_expert_by_name() -> None:
    lm = load(FAMILIES["mixtral"](), blocks=r"layers\.0\..*down_proj\[2\]")
    assert [block.name for block in lm.blocks] == ["model.layers.0.mlp.experts.down_proj[2]"]
    assert (lm.blocks[0].d_out, lm.blocks[0].d_in) == (16, 24)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(37, 8), nn.Conv1d(8, 37, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.mix(self.embed(ids).transpose(1, 2)).transpose(1, 2)


class Bigram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(37, 37)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids)


def test_a_model_without_a_block_lists_what_was_found() -> None:
    with pytest.raises(NoBlocks, match=r"Convolution\b.*mix\.weight .*nn\.Linear"):
        load(Convolution())
    with pytest.raises(NoBlocks, match=r"Bigram\b.*Embedding.*nn\.Linear"):
        load(Bigram())


def test_a_selection_without_a_match_lists_what_there_is() -> None:
    with pytest.raises(NoBlocks, match=r"nonsense.*q_proj"):
        load(FAMILIES["llama"](), blocks="nonsense")
