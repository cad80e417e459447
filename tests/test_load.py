"""Opening models: by folder, live, adapted; and every way in which one cannot be opened or trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import PreTrainedTokenizerFast

from influence.model.load import BadModel, load


def words(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `count` words w0, w1, …"""
    inner = Tokenizer(WordLevel({f"w{k}": k for k in range(count)}, unk_token="w0"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", eos_token="w1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    cases.FAMILIES["gpt_neox"]().float().save_pretrained(place)
    words(cases.VOCAB).save_pretrained(place)
    return place


def test_a_folder(folder: Path) -> None:
    lm = load(folder, device="cpu")
    assert (lm.n_layers, len(lm.blocks), len(lm.tokenizer)) == (2, 8, cases.VOCAB)
    assert next(lm.net.parameters()).dtype == torch.float32
    assert load(folder, dtype="float64", device="cpu").net.dtype == torch.float64
    assert "tracked" in str(lm)
    assert "<table" in lm._repr_html_()


def test_an_adapter_folder(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = load(folder, device="cpu").net
    base.name_or_path = str(folder)
    config = LoraConfig(r=2, target_modules=["query_key_value"], base_model_name_or_path=str(folder))
    get_peft_model(base, config).save_pretrained(tmp_path)
    lm = load(tmp_path, blocks="adapters", tokenizer=folder, device="cpu")
    assert [b.name.rsplit(".", 2)[1] for b in lm.blocks] == ["lora_A", "lora_B"] * 2


def test_a_live_module_without_config_or_tokenizer() -> None:
    lm = load(cases.FAMILIES["live"]())
    assert lm.tokenizer is None
    assert lm.n_layers == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    net = cases.FAMILIES["gpt2"]()
    net.transformer.h[1].mlp.c_fc.weight.data[3, 4] = value
    with pytest.raises(BadModel, match=r"transformer\.h\.1\.mlp\.c_fc\.weight holds NaN or infinite"):
        load(net)


def test_a_tokenizer_with_more_tokens_than_the_embedding() -> None:
    with pytest.raises(BadModel, match="tokenizer has 40 tokens but the model's embedding only 37"):
        load(cases.FAMILIES["gpt_neox"](), tokenizer=words(40))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float32"}, "live module"),
        ({"device": "cpu"}, "live module"),
        ({"blocks": "nothing"}, "matches none"),
    ],
)
def test_settings_that_do_not_apply(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(cases.FAMILIES["gpt2"](), **settings)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="cannot open a causal language model"):
        load(tmp_path)


def test_a_truncated_weight_file(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadModel, match="cannot open"):
        load(tmp_path, device="cpu")


def test_an_unknown_dtype(folder: Path) -> None:
    with pytest.raises(BadModel, match="dtype is 'int8'"):
        load(folder, dtype="int8")


class Odd(nn.Module):
    """A decoder most of whose weight sits where it cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"in": nn.Linear(4, 4), "conv": nn.Conv1d(8, 8, 3)})])


def test_less_than_nine_tenths_is_an_error_unless_accepted_by_name() -> None:
    with pytest.raises(BadModel, match=r"only 9\.\d%.*layers\.0\.conv\.weight.*accept_untracked"):
        load(Odd())
    lm = load(Odd(), accept_untracked=["layers.*.conv.weight"])
    assert lm.tracked.untracked == ("layers.0.conv.weight",)
    assert lm.tracked.of_selected < 0.1
    with pytest.raises(BadModel, match="left out"):
        load(Odd(), accept_untracked=["layers.1.*"])
