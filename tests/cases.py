"""Tiny random models of every supported family, and the slow, obvious way to get their gradients.

`FAMILIES` maps a name to a function that builds the model: float64, evaluation mode, 2 layers, 37 tokens, a
context of 32, every bias and norm random so that nothing is zero by accident. The same name gives the same
weights on every call. A new family is one line.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

VOCAB = 37
CONTEXT = 32
Row = tuple[list[int], list[int]]  # input_ids and loss_mask of one sequence

MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = MARKS | {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"max_position_embeddings": CONTEXT}
GATED = SIZES | {"intermediate_size": 24, "num_key_value_heads": 1}
GPT = MARKS | {
    "vocab_size": VOCAB,
    "n_positions": CONTEXT,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": 24,
}
# grouped_mm, the default of fused experts, has no float64
EXPERTS = GATED | {"num_experts_per_tok": 2, "experts_implementation": "eager"}


class Live(nn.Module):
    """A hand-written model: `forward(ids) -> logits`, no config, no tokenizer, no transformers."""

    def __init__(self, width: int = 16, layers: int = 2):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, width)
        self.places = nn.Embedding(CONTEXT, width)
        self.layers = nn.ModuleList(LiveLayer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(self.norm(hidden))


class LiveAttention(nn.Module):
    """Causal attention with one fused map for queries, keys and values."""

    def __init__(self, width: int, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        b, t, d = hidden.shape
        q, k, v = self.qkv(hidden).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(b, t, d))


class LiveLayer(nn.Module):
    """Attention, then a perceptron of two maps, one without a bias; dropout after both."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = LiveAttention(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.drop = nn.Dropout(0.1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.drop(self.attention(self.norm_1(hidden)))
        return hidden + self.drop(self.down(F.gelu(self.up(self.norm_2(hidden)))))


def _hub(name: str, config: str, **settings: Any) -> nn.Module:
    """A transformers model class with a small configuration of its own."""
    import transformers

    return getattr(transformers, name)(getattr(transformers, config)(**settings))


def _causal(stem: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: _hub(f"{stem}ForCausalLM", f"{stem}Config", **settings)


def _gpt2() -> nn.Module:
    return _hub("GPT2LMHeadModel", "GPT2Config", **GPT)


def _gpt_neo() -> nn.Module:
    sizes = {"max_position_embeddings": CONTEXT, "hidden_size": 16, "num_layers": 2, "num_heads": 2}
    kinds = {"attention_types": [[["global", "local"], 1]], "window_size": 8, "resid_dropout": 0.1}
    return _hub("GPTNeoForCausalLM", "GPTNeoConfig", **MARKS, **sizes, **kinds, vocab_size=VOCAB, intermediate_size=24)


def _adapted(base: nn.Module, *targets: str, fan_in_fan_out: bool = False) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=3, lora_alpha=6, target_modules=list(targets), fan_in_fan_out=fan_in_fan_out, task_type="CAUSAL_LM"
    )
    return get_peft_model(base, config)


GEMMA = GATED | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
_llama = _causal("Llama", **GATED, attention_dropout=0.1)

_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _causal("GPTNeoX", **SIZES, intermediate_size=24, hidden_dropout=0.1),
    "opt": _causal("OPT", **SIZES, ffn_dim=24, word_embed_proj_dim=16, dropout=0.1),
    "llama": _llama,
    "mistral": _causal("Mistral", **GATED, sliding_window=8),
    "qwen2": _causal("Qwen2", **GATED),
    "qwen3": _causal("Qwen3", **GATED, head_dim=8),
    "gemma2": _causal("Gemma2", **GEMMA),
    "gemma3": lambda: _hub("Gemma3ForCausalLM", "Gemma3TextConfig", **GEMMA),
    "phi": _causal("Phi", **SIZES, intermediate_size=24, resid_pdrop=0.1),
    "olmo2": _causal("Olmo2", **GATED),
    "mixtral": _causal("Mixtral", **EXPERTS, num_local_experts=4),
    "gpt2_lora": lambda: _adapted(_gpt2(), "c_attn", "c_fc", fan_in_fan_out=True),
    "llama_lora": lambda: _adapted(_llama(), "q_proj", "v_proj", "down_proj"),
    "qwen3_moe": _causal(
        "Qwen3Moe", **EXPERTS, head_dim=8, num_experts=4, moe_intermediate_size=12, mlp_only_layers=[0]
    ),
    "olmoe": _causal("Olmoe", **EXPERTS, num_experts=4),
    "phi3": _causal("Phi3", **GATED, resid_pdrop=0.1),
    "gptj": _causal("GPTJ", **GPT, rotary_dim=4),
    "bloom": _causal("Bloom", **MARKS, vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=2, hidden_dropout=0.1),
    "falcon": _causal("Falcon", **SIZES, ffn_hidden_size=24, bias=True, hidden_dropout=0.1),
    "live": Live,
}


def _build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        net = _BUILDERS[name]().double().eval()
        shake(net)
    return net


def shake(net: nn.Module) -> None:
    """Give every parameter generic values: matrices of unit gain, vectors (norms, biases) off 0 and 1."""
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.2 * noise)


def _bind(name: str) -> Callable[[], nn.Module]:
    return lambda: _build(name)


FAMILIES: dict[str, Callable[[], nn.Module]] = {name: _bind(name) for name in _BUILDERS}


class Float64(TorchFunctionMode):
    """`with Float64():` turns every request for float32 into float64.

    Families cast norms, attention or the router to float32 whatever the model's type; without this their
    gradients depend on the batch in the 7th digit and nothing could be compared to 1e-12.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        args = [torch.float64 if a is torch.float32 else a for a in args]
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


def sequences(lengths: Iterable[int] = (9, 14, 6), prompt: int = 3, seed: int = 0) -> list[Row]:
    """Random rows of these lengths; the first `prompt` tokens are not scored, nor is one in the middle."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        mask = [int(position >= prompt) for position in range(length)]
        mask[prompt + 1] = 0
        rows.append((ids, mask))
    return rows


def padded(rows: Sequence[Row], pad: int = 0, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as (ids (b t) int64, mask (b t) bool), padded on the right to the longest and `extra` more."""
    t = max(len(ids) for ids, _ in rows) + extra
    ids = torch.tensor([row + [pad] * (t - len(row)) for row, _ in rows])
    mask = torch.tensor([[bool(m) for m in mask] + [False] * (t - len(mask)) for _, mask in rows])
    return ids, mask


def sequence_loss(net: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Sum over the scored tokens of −log p(token | prefix) of one sequence, in nats; ids and mask (t)."""
    output = net(ids[None])
    logits = getattr(output, "logits", output)[0]
    losses = F.cross_entropy(logits[:-1], ids[1:], reduction="none")
    return (losses * mask[1:]).sum()


def oracle_all(net: nn.Module, ids: Tensor, mask: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Per-sequence gradients (b o i) of the summed loss, one ordinary backward per sequence, by block name.

    The sequence is cut after its last scored token, alone in its batch, and the weights of a copy are
    unfrozen: nothing is shared with how the library does it. `i` is one larger where the module has a bias.
    """
    copied = copy.deepcopy(net).eval().requires_grad_(True)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for row_ids, row_mask in zip(ids, mask, strict=True):
        end = int(row_mask.nonzero().max()) + 1
        copied.zero_grad(set_to_none=True)
        sequence_loss(copied, row_ids[:end], row_mask[:end]).backward()
        for name in names:
            found[name].append(weight_gradient(copied, name))
    return {name: torch.stack(grads) for name, grads in found.items()}


def oracle_gradients(net: nn.Module, ids: Tensor, mask: Tensor, name: str) -> Tensor:
    """Per-sequence gradients (b o i) of one block; see `oracle_all`."""
    return oracle_all(net, ids, mask, [name])[name]


def weight_gradient(net: nn.Module, name: str) -> Tensor:
    """The gradient (o i) stored on a block's weight, its bias as last column."""
    path, bracket, index = name.partition("[")
    module = dict(net.named_modules(remove_duplicate=False)).get(path)
    if module is None:
        weight = net.get_parameter(path)
        gradient = _grad(weight)
        return gradient[int(index.rstrip("]"))] if bracket else gradient
    gradient = _grad(module.weight)  # (o i) for Linear, (i o) for Conv1D and Embedding
    if type(module).__name__ == "Conv1D" or isinstance(module, nn.Embedding):
        gradient = gradient.T
    bias = getattr(module, "bias", None)
    return gradient if bias is None else torch.cat([gradient, _grad(bias)[:, None]], dim=1)


def _grad(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
