"""One forward and one backward give every block's input and output gradient, used up one block at a time.

No weight gradient is computed: parameters are frozen and the first tracked outputs start the graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from influence.model.batches import counted
from influence.model.blocks import is_conv1d
from influence.model.experts import ExpertTap, by_sequence, expert_of, routing_modules
from influence.model.loss import Measure
from influence.model.quiet import quiet
from influence.types import LM, Batch, Block, Pair

Use = Callable[[Block, Pair], None]

LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}  # numbers that a measure sees at a time


class NotFinite(FloatingPointError):
    """A value that would be NaN or infinite; names rows and block."""


@dataclass
class _Pass:
    """What the hooks need to know of the batch in flight."""

    batch: Batch | None = None
    keep: Tensor | None = None
    count: int = 0
    use: Use | None = None
    seen: list[str] = field(default_factory=list)


@contextmanager
def capture(
    lm: LM, *, blocks: Sequence[Block] | None = None, dtype: torch.dtype | None = None
) -> Iterator[Callable[[Batch, Measure, Use], Tensor]]:
    """A function (batch, measure, use) -> measurements (b), that calls use(block, pair) once per block.

    The pair is that of the gradient of Σ_rows measure, which is called on a few rows at a time. Pairs come in backward
    order, and hold the block's input a (b t i) with the constant 1 last where it has a bias, and g (b t o), zero at
    positions that do not count (padding, and from the last scored token on).

    Args:
        lm: the model; hooks live only inside the context, flags are restored on leaving it.
        blocks: a part of lm.blocks, default all.
        dtype: compute in this type (torch.bfloat16) with copies of the weights; default the model's own.

    Raises:
        NotFinite: where a measurement is NaN or infinite; names the rows.
        RuntimeError: where a block did not take part in the forward pass, or took part twice.
    """
    blocks = list(lm.blocks if blocks is None else blocks)
    state = _Pass()
    weights = _weights(lm.net, dtype)
    with ExitStack() as stack:
        stack.enter_context(quiet(lm.net))
        stack.enter_context(_narrow_attention(dtype or next(iter(weights.values())).dtype))
        tap = _install(stack, lm.net, blocks, state, weights)

        def run(batch: Batch, measure: Measure, use: Use) -> Tensor:
            keep = counted(batch.loss_mask)
            state.batch, state.keep, state.use, state.seen = batch, keep, use, []
            state.count = int(keep.sum())
            with torch.enable_grad(), tap or ExitStack():
                values, root = _measured(measure, _logits(lm.net, weights, dtype, batch.input_ids), batch)
                _check_seen(blocks, state.seen)
                if root.requires_grad:
                    root.backward()
            state.batch = state.use = None
            return values

        yield run


@contextmanager
def _narrow_attention(dtype: torch.dtype) -> Iterator[None]:
    """Math attention keeps a 16-bit type that was asked for in its products; torch widens them by default."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # holds for CPUs too
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before or dtype in (torch.bfloat16, torch.float16))
    try:
        yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def _weights(net: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    own: dict[str, Tensor] = dict(net.named_parameters(remove_duplicate=False))
    if dtype is None or all(p.dtype == dtype for p in own.values()):
        return own
    return {name: p.detach().to(dtype) if p.is_floating_point() else p for name, p in own.items()}


def forward(net: nn.Module, ids: Tensor) -> Tensor:
    """Logits (b t v) of a Hugging Face model or of any module ids -> logits (or an output with `.logits`)."""
    return _logits(net, None, None, ids)


def call(net: nn.Module, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """The same logits with these weights in place of the model's own; a tied weight is replaced where it is named."""
    kwargs: dict[str, Any] = {"use_cache": False} if _takes_cache(net) else {}
    out = functional_call(net, weights, (ids,), kwargs, tie_weights=False)
    return out if isinstance(out, Tensor) else out.logits


def _logits(net: nn.Module, weights: dict[str, Tensor] | None, dtype: torch.dtype | None, ids: Tensor) -> Tensor:
    if dtype is not None and weights is not None:
        return call(net, weights, ids)
    kwargs: dict[str, Any] = {"use_cache": False} if _takes_cache(net) else {}
    out = net(ids, **kwargs)
    return out if isinstance(out, Tensor) else out.logits


def _measured(measure: Measure, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Measurements (b), and a root whose backward starts from their gradient at the logits.

    It is found a few rows at a time, since the graph of a loss is several times as large as its logits.
    """
    size = max(1, LOGITS.get(logits.device.type, 1 << 20) // max(logits[0].numel(), 1))
    grad, values = torch.zeros_like(logits), []
    for start in range(0, len(logits), size):
        part = slice(start, start + size)
        leaf = logits.detach()[part].requires_grad_()
        found = measure(leaf, Batch(*(x[part] for x in batch)))
        _check_values(found, batch.row[part])
        values.append(found.detach())
        if found.requires_grad:
            grad[part] = torch.autograd.grad(found.sum(), leaf)[0]
    return torch.cat(values), _Known.apply(logits, grad)


class _Known(torch.autograd.Function):
    """A number whose gradient at the logits is known; nothing but the graph holds either, and both go early."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, grad: Tensor) -> Tensor:
        ctx.grad = grad
        return logits.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        grad, ctx.grad = ctx.grad, None
        return grad, None


def _takes_cache(net: nn.Module) -> bool:
    return hasattr(net, "config") and (
        hasattr(net.config, "use_cache") or "use_cache" in inspect.signature(net.forward).parameters
    )


def _install(
    stack: ExitStack, net: nn.Module, blocks: list[Block], state: _Pass, weights: dict[str, Tensor]
) -> ExpertTap | None:
    modules = dict(net.named_modules(remove_duplicate=False))
    bare = [b for b in blocks if expert_of(b) or not _applies_itself(modules[b.name])]
    for block in blocks:
        if block in bare:
            continue
        hook = _embed_hook(block, state) if block.kind == "embed" else _module_hook(block, state)
        handle = modules[block.name].register_forward_hook(hook, with_kwargs=True)
        stack.callback(handle.remove)
    if not bare:
        return None

    def seen(block: Block, a: Tensor, out: Tensor, tokens: Tensor | None) -> Tensor:
        return _watch(block, a, out, state, tokens)

    tap = ExpertTap(weights, bare, seen)
    for module in routing_modules(net, bare):
        stack.callback(module.register_forward_pre_hook(tap.enter, with_kwargs=True).remove)
    return tap


def _applies_itself(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Embedding) or is_conv1d(module)


def _module_hook(block: Block, state: _Pass) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if state.batch is None or not torch.is_grad_enabled():
            return None
        return _watch(block, _only_input(args, kwargs), output, state)

    return hook


def _embed_hook(block: Block, state: _Pass) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if state.batch is None or not torch.is_grad_enabled():
            return None
        tokens = F.one_hot(_only_input(args, kwargs), block.d_in)
        return _watch(block, tokens.to(output.dtype), output, state)

    return hook


def _only_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The input of a linear map, however it was passed."""
    return args[0] if args else next(iter(kwargs.values()))


def _watch(block: Block, a: Tensor, out: Tensor, state: _Pass, tokens: Tensor | None = None) -> Tensor:
    if block.name in state.seen and tokens is None:
        raise RuntimeError(f"{block.name} runs twice in one forward pass, which is not supported; leave it out by name")
    state.seen.append(block.name)
    if tokens is None:
        _check_layout(block, a, state)
    if not out.requires_grad:
        out = out.detach().requires_grad_()
    a = a.detach()
    version = a._version

    def deliver(g: Tensor) -> None:
        assert state.use is not None
        if a._version != version:
            raise RuntimeError(
                f"the input of {block.name} is overwritten later in the forward pass; leave it out by name"
            )
        state.use(block, _pair(block, a, g, state, tokens))

    return _Tap.apply(out, deliver)


class _Tap(torch.autograd.Function):
    """Passes an output on and its gradient to `deliver`.

    A tensor hook would not do: outputs of linear maps are views, whose hooks see the gradient AFTER an operation in
    place that follows (ReLU(inplace=True)). Nothing saves a linear map's output, so sharing its memory is safe.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, deliver: Callable[[Tensor], None]) -> Tensor:
        ctx.deliver = deliver
        return out.data

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        deliver, ctx.deliver = ctx.deliver, None  # it holds the block's input, which is not needed again
        deliver(g)
        return g, None


def _check_layout(block: Block, a: Tensor, state: _Pass) -> None:
    assert state.keep is not None
    b, t = state.keep.shape
    if tuple(a.shape[:-1]) not in ((b, t), (b * t,)):
        raise RuntimeError(
            f"{block.name} saw an input of shape {tuple(a.shape)}, but expected is (sequence, position, width) = "
            f"({b}, {t}, {a.shape[-1]}) or with the first two flattened; leave this block out by name"
        )


def _pair(block: Block, a: Tensor, g: Tensor, state: _Pass, tokens: Tensor | None) -> Pair:
    assert state.keep is not None
    keep = state.keep
    b, t = keep.shape
    if tokens is not None:
        chosen = keep.flatten()[tokens]
        count = int(chosen.sum())
        a, g, position = by_sequence(a[chosen], g[chosen], tokens[chosen], (b, t))
        return Pair(a, g, count, position)
    a, g = a.reshape(b, t, -1), g.reshape(b, t, -1)
    if block.bias:
        a = F.pad(a, (0, 1), value=1.0)
    if state.count < b * t:
        a, g = a * keep[..., None], g * keep[..., None]
    return Pair(a, g, state.count)


def _check_values(values: Tensor, row: Tensor) -> None:
    if values.shape != row.shape:
        raise ValueError(
            f"the measure returned shape {tuple(values.shape)} for {len(row)} rows; it must return one number per row"
        )
    bad = ~torch.isfinite(values.detach())
    if bad.any():
        rows = row[bad.cpu()].tolist()
        raise NotFinite(f"the measurement is not finite for rows {rows[:8]}; check the weights and these rows")


def _check_seen(blocks: list[Block], seen: list[str]) -> None:
    missing = {b.name for b in blocks if not expert_of(b)} - set(seen)
    if missing:
        raise RuntimeError(
            f"the blocks {sorted(missing)[:5]} took no part in the forward pass; select blocks that the model runs"
        )
