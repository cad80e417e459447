"""A decoder with attention alone, as an ordinary GPT-NeoX: its MLPs give exactly zero and stay so in training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from influence.model.train import initial

BETAS = (0.9, 0.98)


def attention_only(
    vocab: int, *, layers: int = 2, width: int = 64, heads: int = 4, context: int = 64, seed: int = 0
) -> Any:
    """An untrained float32 `GPTNeoXForCausalLM` in which only attention adds to the stream.

    The output maps of its MLPs are zero and need no gradient; saved and loaded it is the same function, but a loaded
    one has to be frozen again before training. Positions are rotary, in all coordinates of a head.

    Raises:
        ValueError: for a width that the heads do not divide into even parts.
    """
    from transformers import GPTNeoXConfig

    if width % (2 * heads):
        raise ValueError(f"width {width} gives {heads} heads no even width each; give a multiple of {2 * heads}")
    config = GPTNeoXConfig(
        vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4, max_position_embeddings=context, bos_token_id=0, eos_token_id=0, pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    )  # fmt: skip
    net = initial(config, seed)
    for layer in net.gpt_neox.layers:
        layer.mlp.requires_grad_(False)
        for parameter in layer.mlp.dense_4h_to_h.parameters():
            parameter.data.zero_()
    return net


def trained(
    net: nn.Module,
    batch: Callable[[int], np.ndarray],
    keep: Sequence[int],
    *,
    lr: float = 3e-3,
    warmup: int = 100,
    weight_decay: float = 0.01,
    report: Callable[[int, float], None] | None = None,
) -> Iterator[tuple[int, nn.Module]]:
    """Train on next tokens and give (step, a copy in evaluation mode) at each of the steps `keep`, 0 being untrained.

    AdamW (betas .9, .98) at a constant rate after `warmup` steps, gradients clipped at norm 1; the loss of a batch is
    the mean over all its tokens but the first ones. Training ends at the last step of `keep`.

    Args:
        batch: tokens (b t) of a step, counted from 0.
        report: called with the number of steps done and the loss of the last, in nats per token.

    Raises:
        FloatingPointError: where the loss is not finite, naming the step.
    """
    weights = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=BETAS, weight_decay=weight_decay)
    wanted = sorted(set(keep))
    net.train()
    for step in range(wanted[-1] + 1):
        if step in wanted:
            yield step, copy.deepcopy(net).eval().requires_grad_(True)
        if step == wanted[-1]:
            return
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / warmup)
        loss = next_token(net, torch.from_numpy(batch(step))).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} is not finite; give a smaller lr than {lr:g}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if report is not None:
            report(step + 1, float(loss.detach()))


def next_token(net: nn.Module, tokens: Tensor) -> Tensor:
    """−log p of every token but the first of each row (b t) -> (b t−1), in nats."""
    logits = net(tokens, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
