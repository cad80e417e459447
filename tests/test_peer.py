"""Scores agree with kronfluence 1.0.1, whose results for one case are kept in data/ (benchmarks/agreement.py --record).

Its scores are gradients of a row's loss, not divided by n, damped by 0.1 × the mean eigenvalue of each module: ours
with `raw=True` and the other sign.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import ekfac
import influence
from influence.types import LM, Rows

KEPT = Path(__file__).parent / "data" / "kronfluence.safetensors"


def part(kept: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)}


def rows_of(kept: dict[str, Tensor]) -> Rows:
    from datasets import Dataset

    ids, masks = [], []
    for tokens, scored, length in zip(kept["ids"], kept["scored"].long(), kept["lengths"].tolist(), strict=True):
        ids.append(tokens[:length].tolist())
        masks.append(scored[:length].tolist())
    return Dataset.from_dict({"input_ids": ids, "loss_mask": masks, "row": range(len(ids))})


def model_of(weights: dict[str, Tensor]) -> LM:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    vocab, width = weights["gpt_neox.embed_in.weight"].shape
    config = GPTNeoXConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * width,
        max_position_embeddings=24,
    )
    net = GPTNeoXForCausalLM(config)
    net.load_state_dict(weights)
    return influence.load(net.double().eval())


@pytest.mark.parametrize("batch_size", [7, 96])
def test_scores_per_block_agree_with_kronfluence(batch_size: int) -> None:
    kept = load_file(KEPT)
    lm = model_of(part(kept, "weights/"))
    rows, queries = rows_of(part(kept, "rows/")), rows_of(part(kept, "queries/"))
    factors = influence.fit_ekfac(lm, rows, labels="data", batch_size=batch_size, progress=False)
    solver = ekfac.solver(factors, damping=0.1)
    scores = influence.score(lm, rows, queries, solver, per="block", raw=True, batch_size=batch_size, progress=False)
    theirs = part(kept, "scores/")
    assert set(theirs) == {block.name for block in lm.blocks}
    for name, want in theirs.items():
        got = torch.from_numpy(scores.sel(block=name).values)
        assert (got + want).abs().max() <= 1e-9 * want.abs().max(), name
