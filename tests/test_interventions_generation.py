"""Edits while text is generated: with a cache and without, beams, scores, and the mode of the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import Float64
from edit_case import ISSUE, T, every, ids_of, logits_of, opened
from torch import Tensor

import influence
from influence.interventions import Edit, freeze, noise, skip, swap
from influence.types import LM


def generated(lm: LM, ids: Tensor, mask: Tensor | None = None, **more: Any) -> Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    return lm.net.generate(
        ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0, **more
    )


def left_padded() -> tuple[Tensor, Tensor]:
    ids, mask = ids_of(), torch.ones(3, T, dtype=torch.long)
    mask[1, :4] = 0
    return ids * mask, mask


@pytest.mark.parametrize("family", ISSUE)
def test_generation_with_a_cache_and_without_agree(family: str) -> None:
    with Float64():
        lm = opened(family)
        ids, mask = left_padded()
        other = {"input_ids": ids_of(seed=9) * mask, "attention_mask": mask}
        other["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
        if family == "opt":
            del other["position_ids"]
        plain, changed = generated(lm, ids, mask), 0
        for name, one in {**every(ids, 0), "swap": swap(0, other)}.items():
            with influence.edit(lm, one):
                cached = generated(lm, ids, mask)
                assert torch.equal(cached, generated(lm, ids, mask, use_cache=False)) or name in ("noise", "shuffle")
            with influence.edit(lm, one):
                assert torch.equal(cached, generated(lm, ids, mask, use_cache=False)), name
            changed += not torch.equal(cached, plain)
        assert changed >= 3
        assert torch.equal(plain, generated(lm, ids, mask))


@pytest.mark.parametrize("beams", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_with_a_cache_and_without_agree(beams: dict[str, int]) -> None:
    with Float64():
        lm, (ids, mask) = opened("llama"), left_padded()
        plain = generated(lm, ids, mask, **beams)
        for one in (freeze(0), skip(1), noise(0)):
            with influence.edit(lm, one):
                cached = generated(lm, ids, mask, **beams)
            with influence.edit(lm, one):
                assert torch.equal(cached, generated(lm, ids, mask, use_cache=False, **beams)) or one.kind == "noise"
            assert cached.shape == plain.shape and not torch.equal(cached, plain)


@pytest.mark.parametrize("family", ISSUE)
def test_scores_of_generated_tokens_are_those_of_the_prompt_mode(family: str) -> None:
    """Scoring prompt and completion at once with the prompt's tokens edited gives what generation saw."""
    with Float64():
        lm, ids = opened(family), ids_of()
        for name, one in every(ids, 0).items():
            with influence.edit(lm, one):
                out = generated(lm, ids, return_dict_in_generate=True, output_logits=True)
            mask = torch.arange(T + 6) < (T + 6 if name == "skip" else T - 1)
            full = Edit(name, 0, mask, other=one.other)
            if name == "swap":
                full = swap(0, one.other, mask, other_tokens=torch.arange(T) < T - 1)
            with influence.edit(lm, full):
                scored = logits_of(lm, out.sequences)
            assert torch.allclose(torch.stack(out.logits, 1), scored[:, T - 1 : -1], atol=1e-9), name


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
def test_paper_mode_edits_the_whole_sequence_at_every_step(family: str) -> None:
    with Float64():
        lm, ids = opened(family), ids_of()
        before = lm.net.generation_config.use_cache
        for name, one in every(ids, 1).items():
            with influence.edit(lm, one, mode="paper"):
                out = generated(lm, ids, return_dict_in_generate=True, output_logits=True)
            for step in range(3):
                now = out.sequences[:, : T + step]
                if name in ("noise", "shuffle"):
                    from influence.interventions.edit import edited

                    keys = torch.tensor([[row, step] for row in range(3)]).numpy()
                    with edited(lm, [one], mode="paper", keys=keys):
                        wanted = logits_of(lm, now)[:, -1]
                else:
                    mask = torch.arange(T + step) < (T if name == "swap" else T + step - 1)
                    mask[-1] = name == "skip"
                    own = Edit(name, 1, mask, other=one.other)
                    if name == "swap":
                        own = swap(1, one.other, mask, other_tokens=torch.arange(T) < (T - 1 if step == 0 else T))
                    with influence.edit(lm, own):
                        wanted = logits_of(lm, now)[:, -1]
                assert torch.allclose(out.logits[step], wanted, atol=1e-9), (name, step)
        assert lm.net.generation_config.use_cache == before
        with influence.edit(lm, noise(1), mode="paper"), pytest.raises(ValueError, match="cannot use a cache"):
            generated(lm, ids, use_cache=True)
