"""Tiny random models of every supported family, and the slow, obvious way to get their gradients.

`FAMILIES` maps a name to a function that builds the model: float64, evaluation mode, 2 layers, a vocabulary of 37
tokens and a context of at least 24, every bias and norm random so that nothing is zero by accident. The same name gives
the same weights on every call. A new family is one function and one line in `FAMILIES`.
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
GPT = MARKS | {"vocab_size": VOCAB, "n_positions": CONTEXT, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24}
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


class LiveLayer(nn.Module):
    """Attention with a fused q/k/v map, then a two-map perceptron with dropout."""

    def __init__(self, width: int, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.drop = nn.Dropout(0.1)

    def forward(self, hidden: Tensor) -> Tensor:
        b, t, d = hidden.shape
        parts = self.qkv(self.norm_1(hidden)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden = hidden + self.drop(self.out(mixed.transpose(1, 2).reshape(b, t, d)))
        return hidden + self.drop(self.down(F.gelu(self.up(self.norm_2(hidden)))))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**GPT))


def gpt_neo() -> nn.Module:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(
        **MARKS,
        vocab_size=VOCAB,
        max_position_embeddings=CONTEXT,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=24,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        resid_dropout=0.1,
    )
    return GPTNeoForCausalLM(config)


def gpt_neox() -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, intermediate_size=24, hidden_dropout=0.1))


def opt() -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=24, word_embed_proj_dim=16, dropout=0.1))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**GATED, attention_dropout=0.1))


def mistral() -> nn.Module:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**GATED, sliding_window=8))


def qwen2() -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**GATED))


def qwen3() -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**GATED, head_dim=8))


def gemma2() -> nn.Module:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**GATED, head_dim=8, sliding_window=8, query_pre_attn_scalar=8))


def gemma3() -> nn.Module:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**GATED, head_dim=8, sliding_window=8, query_pre_attn_scalar=8))


def phi() -> nn.Module:
    from transformers import PhiConfig, PhiForCausalLM

    return PhiForCausalLM(PhiConfig(**SIZES, intermediate_size=24, resid_pdrop=0.1))


def olmo2() -> nn.Module:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    return Olmo2ForCausalLM(Olmo2Config(**GATED))


def mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(MixtralConfig(**EXPERTS, num_local_experts=4))


def qwen3_moe() -> nn.Module:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(**EXPERTS, head_dim=8, num_experts=4, moe_intermediate_size=12, mlp_only_layers=[0])
    return Qwen3MoeForCausalLM(config)


def olmoe() -> nn.Module:
    from transformers import OlmoeConfig, OlmoeForCausalLM

    return OlmoeForCausalLM(OlmoeConfig(**EXPERTS, num_experts=4))


def phi3() -> nn.Module:
    from transformers import Phi3Config, Phi3ForCausalLM

    return Phi3ForCausalLM(Phi3Config(**GATED, resid_pdrop=0.1))


def gptj() -> nn.Module:
    from transformers import GPTJConfig, GPTJForCausalLM

    return GPTJForCausalLM(GPTJConfig(**GPT, rotary_dim=4))


def bloom() -> nn.Module:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(**MARKS, vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=2, hidden_dropout=0.1))


def falcon() -> nn.Module:
    from transformers import FalconConfig, FalconForCausalLM

    return FalconForCausalLM(FalconConfig(**SIZES, ffn_hidden_size=24, bias=True, hidden_dropout=0.1))


def _adapted(base: nn.Module, targets: Sequence[str], fan_in_fan_out: bool) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=3, lora_alpha=6, target_modules=list(targets), fan_in_fan_out=fan_in_fan_out, task_type="CAUSAL_LM"
    )
    return get_peft_model(base, config)


def gpt2_lora() -> nn.Module:
    return _adapted(gpt2(), ("c_attn", "c_fc"), fan_in_fan_out=True)


def llama_lora() -> nn.Module:
    return _adapted(llama(), ("q_proj", "v_proj", "down_proj"), fan_in_fan_out=False)


_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": gpt2,
    "gpt_neo": gpt_neo,
    "gpt_neox": gpt_neox,
    "opt": opt,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "phi": phi,
    "olmo2": olmo2,
    "mixtral": mixtral,
    "gpt2_lora": gpt2_lora,
    "llama_lora": llama_lora,
    "qwen3_moe": qwen3_moe,
    "olmoe": olmoe,
    "phi3": phi3,
    "gptj": gptj,
    "bloom": bloom,
    "falcon": falcon,
    "live": Live,
}


def _build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        net = _BUILDERS[name]().double().eval()
        shake(net)
    return net


def shake(net: nn.Module) -> None:
    """Give every parameter generic values: matrices of unit gain, vectors (norms, biases) moved off 0 and 1."""
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

    Families cast norms, attention or the router to float32 whatever the model's type; without this their gradients
    depend on the batch in the 7th digit and nothing could be compared to 1e-12.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        args = [torch.float64 if a is torch.float32 else a for a in args]
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


def sequences(lengths: Iterable[int] = (9, 14, 6), prompt: int = 3, seed: int = 0) -> list[Row]:
    """Random rows of these lengths; the first `prompt` tokens of each are not scored, nor is one in the middle."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        mask = [int(position >= prompt) for position in range(length)]
        mask[prompt + 1] = 0
        rows.append((ids, mask))
    return rows


def padded(rows: Sequence[Row], pad: int = 0, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as (ids (b t) int64, mask (b t) bool), padded on the right to the longest and `extra` places more."""
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

    The sequence is cut after its last scored token, alone in its batch, and the weights of a copy are unfrozen:
    nothing is shared with how the library does it. `i` is one larger where the block's module has a bias.
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
    """The gradient (o i) stored on a block's weight, the bias as last column: Linear, Conv1D or fused expert."""
    path, bracket, index = name.partition("[")
    module = dict(net.named_modules(remove_duplicate=False)).get(path)
    if module is None:
        weight = net.get_parameter(path)
        gradient = _grad(weight)
        return gradient[int(index.rstrip("]"))] if bracket else gradient
    gradient = _grad(module.weight)
    if type(module).__name__ == "Conv1D":
        gradient = gradient.T
    bias = getattr(module, "bias", None)
    return gradient if bias is None else torch.cat([gradient, _grad(bias)[:, None]], dim=1)


def _grad(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
