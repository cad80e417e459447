"""Train one small causal language model from token rows; killed at any moment, the same call goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from influence.model.batches import pad
from influence.model.checkpoint import (
    State,
    claim,
    compare,
    finish,
    finished,
    load_state,
    only_writer,
    save_checkpoint,
    save_state,
    step_folder,
)
from influence.model.loss import log_p
from influence.model.plan import Plan, TokenRows, as_config, plan
from influence.model.schedule import batches, rate
from influence.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from influence.types import Rows

Report = Callable[[int, int, float], None]
_BETAS = (0.9, 0.98)


class Trained(NamedTuple):
    """A finished training: `final` and every checkpoint are folders that `influence.load` opens.

    `checkpoints` maps the step after which it was kept to its folder, 0 being the untrained model; `losses` has the
    mean loss of every step's batch, in nats per token.
    """

    folder: Path
    final: Path
    checkpoints: dict[int, Path]
    losses: list[float]


def train(
    folder: str | Path,
    config: PreTrainedConfig | dict[str, Any],
    rows: Rows | TokenRows,
    tokenizer: Any = None,
    *,
    lr: float,
    tokens: int = 350_000,
    steps: int | None = None,
    batch_tokens: int = 256,
    seed: int = 0,
    warmup: int = 100,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    checkpoints: int | Sequence[float] = 8,
    save_every: int = 200,
    device: str = "cpu",
    progress: bool | Report = True,
) -> Trained:
    """Train the model of `config` on `rows` in `folder`, or go on, or recognise that it is done.

    AdamW (betas .9, .98), a linear rise over `warmup` steps and a cosine to zero, gradients clipped at norm `clip`,
    float32; the loss of a batch is the mean over its scored tokens. It ends after `steps` steps, or else when
    `tokens` tokens have been seen. Batches follow from (seed, epoch) and the initial weights from seed, so with the
    same number of threads (the caller's choice: `torch.set_num_threads`) an interrupted training ends with the same
    bits as an undisturbed one.

    Args:
        config: of a transformers causal language model, see `influence.model.sizes.neox`; or such as a dict.
        rows: token rows, every row with at least one scored token.
        tokenizer: saved with each checkpoint; an object with `save_pretrained`, or a folder to copy it from.
        batch_tokens: rows × longest row of a batch at most, padding included.
        checkpoints: how many to keep between the first and the last step, log-spaced; or at which shares of the
            training. The untrained and the final model are always kept.
        save_every: after how many steps the state is saved from which an interrupted training goes on.
        progress: a bar, nothing, or a function called with (steps done, steps, loss of the last).

    Raises:
        OtherSettings: (a ValueError) where the folder holds a training with other settings, with the differences.
        BadRows: (a ValueError) for rows that cannot be trained on.
        ValueError: for tokens or rows beyond the model's vocabulary or context, and settings out of range.
        FloatingPointError: where the loss or the gradient is not finite, naming step and rows.
        WriteFailed: (an OSError) for a full disk or a folder that cannot be written; what was saved before is whole,
            and the same call goes on from it.
        Busy: where another process trains in the folder.
    """
    options = {name: value for name, value in locals().items() if name in OPTIONS}
    asked = plan(folder, config, rows, tokenizer, options)
    with only_writer(asked.folder):
        claim(asked.folder, asked.settings)
        if (done := finished(asked.folder)) is not None:
            return _trained(asked, done["losses"])
        run = _Run(asked, tokenizer, lr, seed, warmup, weight_decay, clip, save_every, torch.device(device))
        losses = _go(run, batches(asked.lengths, seed, batch_tokens), progress)
        finish(asked.folder, asked.kept, losses)
    return _trained(asked, losses)


def trained_already(
    folder: str | Path, config: Any, rows: Rows | TokenRows, tokenizer: Any = None, **options: Any
) -> Trained | None:
    """The finished training that `train` with the same arguments would recognise, or None; nothing is written.

    Raises what `train` raises for bad rows and settings, and OtherSettings.
    """
    asked = plan(folder, config, rows, tokenizer, {**DEFAULTS, **options})
    if not (asked.folder / "settings.json").exists():
        return None
    compare(asked.folder, asked.settings)
    done = finished(asked.folder)
    return None if done is None else _trained(asked, done["losses"])


def _trained(asked: Plan, losses: list[float]) -> Trained:
    folder = asked.folder
    return Trained(folder, folder / "final", {step: step_folder(folder, step) for step in asked.kept}, losses)


class _Run(NamedTuple):
    plan: Plan
    tokenizer: Any
    lr: float
    seed: int
    warmup: int
    weight_decay: float
    clip: float
    save_every: int
    device: torch.device


def _go(run: _Run, order: Iterator[np.ndarray], progress: bool | Report) -> list[float]:
    folder, steps, rows = run.plan.folder, run.plan.steps, run.plan.rows
    net = initial(run.plan.config, run.seed).to(run.device).train()
    decay = run.weight_decay
    optimizer = torch.optim.AdamW(net.parameters(), lr=run.lr, betas=_BETAS, weight_decay=decay, fused=True)
    state = _restored(run, net, optimizer)
    losses = state.losses
    if state.step == 0:
        save_checkpoint(step_folder(folder, 0), net, run.tokenizer)
    with _progress(progress, run, state.step) as report:
        for step, places in enumerate(islice(order, state.step, steps), start=state.step):
            batch = pad([rows.ids[p] for p in places], [rows.masks[p] for p in places], rows.row[places], run.device)
            losses.append(_step(run, net, optimizer, batch, step))
            _keep(run, net, optimizer, step + 1, losses)
            report(step + 1, steps, losses[-1])
    save_checkpoint(folder / "final", net, run.tokenizer)
    return losses


def _step(run: _Run, net: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate(step, run.plan.steps, run.lr, run.warmup)
    logits = net(input_ids=batch.input_ids, use_cache=False).logits
    loss = -log_p(logits, batch).sum() / batch.loss_mask.sum()
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(net.parameters(), run.clip)
    value = float(loss.detach())
    if not np.isfinite(value) or not bool(torch.isfinite(norm)):
        raise FloatingPointError(
            f"At step {step + 1} of {run.plan.steps} the loss is {value} and the gradient's norm {float(norm)}, with "
            f"learning rate {rate(step, run.plan.steps, run.lr, run.warmup):.2g} and {_named(batch)}. Give a "
            f"smaller lr than {run.lr}, a smaller clip or a longer warmup, and another folder."
        )
    optimizer.step()
    return value


def _named(batch: Batch) -> str:
    ids = [str(int(row)) for row in batch.row[:8]]
    return f"rows {', '.join(ids)}" + (f" and {len(batch.row) - 8} more" if len(batch.row) > 8 else "")


def _keep(run: _Run, net: Any, optimizer: torch.optim.Optimizer, step: int, losses: list[float]) -> None:
    """Checkpoints go before the state that has passed them, so a state never misses one."""
    if step in run.plan.kept:
        save_checkpoint(step_folder(run.plan.folder, step), net, run.tokenizer)
    if step % run.save_every == 0 or step == run.plan.steps:
        save_state(run.plan.folder, State(step, _tensors(net, optimizer), losses))


def _tensors(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, parameter in net.named_parameters():
        moments = optimizer.state[parameter]
        found |= {f"parameter/{name}": parameter, f"first/{name}": moments["exp_avg"]}
        found[f"second/{name}"] = moments["exp_avg_sq"]
    return found


def _restored(run: _Run, net: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """The saved state, put into model and optimizer; step 0 where there is none that can be gone on from."""
    state = load_state(run.plan.folder)
    begun = [step for step in run.plan.kept if state is not None and step <= state.step]
    if state is None or not all(step_folder(run.plan.folder, step).exists() for step in begun):
        return State(0, {}, [])
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(state.tensors[f"parameter/{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state.step), device=run.device),
                "exp_avg": state.tensors[f"first/{name}"].to(run.device),
                "exp_avg_sq": state.tensors[f"second/{name}"].to(run.device),
            }
    return state


class _progress:
    """A bar over the steps, or the caller's own function, or nothing."""

    def __init__(self, progress: bool | Report, run: _Run, done: int) -> None:
        from tqdm.auto import tqdm

        self.report = None if isinstance(progress, bool) else progress
        off = progress is not True
        self.bar = tqdm(
            total=run.plan.steps, initial=done, desc=f"training {run.plan.folder.name}", disable=off, unit="step"
        )

    def __enter__(self) -> Report:
        return self._tell

    def _tell(self, done: int, steps: int, loss: float) -> None:
        self.bar.update()
        if done % 20 == 0:
            self.bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
        if self.report is not None:
            self.report(done, steps, loss)

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def initial(config: PreTrainedConfig | dict[str, Any], seed: int) -> Any:
    """The untrained float32 model of `config` with weights drawn from `seed`; the global generator stays as it was."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(as_config(config), dtype=torch.float32)


_KEYWORDS = [p for p in inspect.signature(train).parameters.values() if p.kind is p.KEYWORD_ONLY]
OPTIONS = frozenset(p.name for p in _KEYWORDS)
DEFAULTS = {p.name: p.default for p in _KEYWORDS if p.default is not p.empty}
