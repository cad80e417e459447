"""The loss is taken a few rows at a time, and 16-bit attention is borrowed: neither shows in results or afterwards."""

from __future__ import annotations

import pytest
import torch
from captured import default_batch, make_batch
from cases import FAMILIES, Float64
from torch import Tensor

from influence.model import capture as module
from influence.model.load import load
from influence.model.loss import sampled_log_p
from influence.types import LM, Batch, Block, Pair


def taken(lm: LM, batch: Batch, sizes: list[int]) -> tuple[Tensor, dict[str, Pair]]:
    pairs: dict[str, Pair] = {}
    inner = sampled_log_p(3)

    def measure(logits: Tensor, part: Batch) -> Tensor:
        sizes.append(len(part.row))
        return inner(logits, part)

    def use(block: Block, pair: Pair) -> None:
        pairs[block.name] = pair

    with module.capture(lm) as run:
        return run(batch, measure, use), pairs


@pytest.mark.parametrize("numbers", [1, 1 << 20])
def test_rows_measured_one_by_one_give_the_pairs_of_the_batch(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = default_batch()
    b = len(batch.row)
    with Float64():
        lm = load(FAMILIES["gpt_neox"]())
        whole = taken(lm, batch, [])
        monkeypatch.setattr(module, "LOGITS", {"cpu": numbers})
        sizes: list[int] = []
        found = taken(lm, batch, sizes)
    assert sizes == ([1] * b if numbers == 1 else [b])
    torch.testing.assert_close(found[0], whole[0], rtol=1e-12, atol=1e-12)
    for name, pair in whole[1].items():
        torch.testing.assert_close(found[1][name].a, pair.a, rtol=0, atol=0)
        torch.testing.assert_close(found[1][name].g, pair.g, rtol=1e-10, atol=1e-12)


def test_a_measure_of_the_wrong_shape_is_named_with_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGITS", {"cpu": 1})
    ids, mask = default_batch()[:2]
    with pytest.raises(ValueError, match="for 1 rows"), module.capture(load(FAMILIES["gpt_neox"]())) as run:
        run(make_batch(ids, mask), lambda logits, batch: logits.sum(), lambda block, pair: None)


@pytest.mark.parametrize("before", [False, True])
def test_16_bit_attention_is_put_back(before: bool) -> None:
    flag = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed
    kept = flag()
    try:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)
        with pytest.raises(KeyError), module.capture(load(FAMILIES["gpt_neox"]()), dtype=torch.bfloat16):
            assert flag()
            raise KeyError("midway")
        assert flag() == before
        with module.capture(load(FAMILIES["gpt_neox"]())):
            assert flag() == before
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(kept)
