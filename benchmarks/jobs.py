"""What is measured: one model, its training rows and its queries, the same in every process and tool.

Imports torch and transformers only, so that a peer's own environment can run it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

IGNORE = -100
Stages = dict[str, Callable[[], Any]]  # in the order in which they run; the last returns scores (q n)


@dataclass(frozen=True)
class Job:
    """The size of a measurement; the defaults are the configuration of the project's speed goal."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    vocab: int = 2048
    length: int = 128
    rows: int = 64
    batch: int = 16
    queries: int = 16
    ragged: bool = False  # rows of different lengths, with prompts that are not scored
    labels: str = "sampled"
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    share: float = 1.0  # of the rows, for covariances; ours only
    weights: str = ""  # a safetensors file to load into the model

    @property
    def type(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> Job:
        return Job(**json.loads(path.read_text()))


@dataclass(frozen=True)
class Tokens:
    """Rows padded on the right: ids (n t), scored (n t) marks the tokens that carry a loss, lengths (n)."""

    ids: Tensor
    scored: Tensor
    lengths: Tensor

    @property
    def labels(self) -> Tensor:
        return self.ids.masked_fill(~self.scored, IGNORE)

    @property
    def counted(self) -> Tensor:
        """(n t) the positions on which a scored prediction depends: all before a row's last scored token."""
        after = self.scored.flip(1).cumsum(1).flip(1)
        return after - self.scored.long() > 0


def network(job: Job, dtype: torch.dtype | None = None) -> nn.Module:
    """A GPT-NeoX with weights that depend on the seed alone, in evaluation mode."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=job.vocab,
        hidden_size=job.width,
        num_hidden_layers=job.layers,
        num_attention_heads=job.heads,
        intermediate_size=4 * job.width,
        max_position_embeddings=job.length,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        net = GPTNeoXForCausalLM(config)
        with torch.no_grad():
            for parameter in net.parameters():
                spread = 0.1 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
                parameter.add_(spread * torch.randn_like(parameter))
    if job.weights:
        from safetensors.torch import load_model

        load_model(net, job.weights)
    return net.to(job.device, dtype or job.type).eval()


def tokens(job: Job, count: int, seed: int) -> Tokens:
    """`count` random rows: walks through the vocabulary in which few tokens can follow each, so there is something
    to learn."""
    generator = torch.Generator().manual_seed(job.seed)
    followers = torch.randint(3, job.vocab, (job.vocab, 4), generator=generator)
    generator.manual_seed(1000 * job.seed + seed)
    ids = torch.randint(3, job.vocab, (count, job.length), generator=generator)
    turns = torch.randint(0, 4, (count, job.length), generator=generator)
    jumps = torch.rand(count, job.length, generator=generator) < 0.1
    for place in range(1, job.length):
        walked = followers[ids[:, place - 1], turns[:, place]]
        ids[:, place] = torch.where(jumps[:, place], ids[:, place], walked)
    return masked(job, ids, generator)


def masked(job: Job, ids: Tensor, generator: torch.Generator) -> Tokens:
    """Rows with the lengths and scored tokens that the job asks for."""
    count = len(ids)
    lengths = torch.full((count,), job.length)
    first = torch.ones(count, dtype=torch.long)
    if job.ragged:
        lengths = torch.randint(job.length // 2, job.length + 1, (count,), generator=generator)
        first = torch.randint(1, job.length // 4, (count,), generator=generator)
    place = torch.arange(job.length)
    inside = place < lengths[:, None]
    scored = inside & (place >= first[:, None])
    return Tokens(ids.masked_fill(~inside, 0), scored, lengths)


def train(job: Job, path: Path, steps: int) -> None:
    """Weights after some steps on other rows of the same kind, so that gradients look like those of a model in use."""
    from safetensors.torch import save_model

    net = network(job, torch.float32).requires_grad_(True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.95))
    rows = tokens(job, steps * job.batch, 3)
    for start in range(0, len(rows.ids), job.batch):
        batch = slice(start, start + job.batch)
        optimizer.zero_grad()
        loss = summed_loss(net, rows.ids[batch].to(job.device), rows.labels[batch].to(job.device))
        (loss / rows.scored[batch].sum()).backward()
        optimizer.step()
    save_model(net, str(path))


def data(job: Job) -> tuple[Tokens, Tokens]:
    """Training rows and queries."""
    return tokens(job, job.rows, 1), tokens(job, job.queries, 2)


def summed_loss(net: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    """Sum over scored tokens of −log p, in nats, over all rows of the batch."""
    logits = net(ids).logits[:, :-1]
    flat = logits.reshape(-1, logits.shape[-1])
    return nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1), reduction="sum", ignore_index=IGNORE)


def plain_pass(job: Job) -> Callable[[], None]:
    """Float32 forward and backward with weight gradients over all rows: the unit of every ratio."""
    net = network(job, torch.float32).requires_grad_(True)
    rows, _ = data(job)
    ids, labels = rows.ids.to(job.device), rows.labels.to(job.device)

    def run() -> None:
        for start in range(0, len(ids), job.batch):
            net.zero_grad(set_to_none=True)
            summed_loss(net, ids[start : start + job.batch], labels[start : start + job.batch]).backward()

    return run


def seconds(call: Callable[[], Any], device: str) -> float:
    """Process time on the CPU (what one thread worked), synchronised wall time on an accelerator."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start
