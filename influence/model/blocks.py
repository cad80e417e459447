"""Find the linear maps of a model and choose which of them are tracked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from influence.types import KINDS, Block, Tracked

ATTENTION_OUT = {"o_proj", "out_proj", "dense", "c_proj", "wo", "out", "proj"}
MLP_OUT = {"down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "wo", "proj_out", "output_linear"}
FUSED = {"gate_up_proj", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
SELECTIONS = {
    "all": ("attn_qkv", "attn_out", "mlp_in", "mlp_out"),
    "attention": ("attn_qkv", "attn_out"),
    "mlp": ("mlp_in", "mlp_out"),
}
ADAPTER = re.compile(r"\.lora_[AB]\.([^.]+)$")


class NoBlocks(ValueError):
    """A model, or a selection of it, in which nothing can be tracked."""


@dataclass(frozen=True)
class LinearMap:
    """A linear map found in a model; `block` is None where this library cannot track it."""

    name: str
    kind: str
    size: int
    blocks: tuple[Block, ...]


def decoder_layers(net: nn.Module) -> tuple[str, list[nn.Module]]:
    """Path and modules of the stack of decoder blocks: the list of modules that holds most parameters.

    A model without such a list counts as one layer, the model itself.
    """
    config = getattr(net, "config", None)
    depth = getattr(config, "num_hidden_layers", None)
    best: tuple[int, str, list[nn.Module]] = (0, "", [net])
    for name, module in net.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len(module) == 0:
            continue
        if isinstance(depth, int) and len(module) != depth:
            continue
        size = sum(p.numel() for p in module.parameters())
        if size > best[0]:
            best = (size, name, list(module))
    return best[1], best[2]


def is_conv1d(module: nn.Module) -> bool:
    """Transformers' Conv1D keeps its weight as (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def kind_of(path: str, d_in: int, d_out: int) -> str:
    """attn_qkv, attn_out, mlp_in or mlp_out, from a map's path inside its decoder block."""
    path = ADAPTER.sub("", path).removesuffix(".base_layer")
    last = re.sub(r"\[\d+\]$", "", path).rsplit(".", 1)[-1]
    if re.search(r"attn|attention", path):
        return "attn_out" if last in ATTENTION_OUT else "attn_qkv"
    if last in MLP_OUT:
        return "mlp_out"
    known_input = last in FUSED or last in {"c_fc", "fc1", "fc_in", "dense_h_to_4h", "gate", "router"}
    return "mlp_in" if known_input or d_out >= d_in else "mlp_out"


def _adapter_is_idle(net: nn.Module, name: str) -> bool:
    found = ADAPTER.search(name)
    if not found:
        return False
    owner = net.get_submodule(name[: found.start()])
    if getattr(owner, "merged", False):
        raise NoBlocks(
            f"the adapters of {name[: found.start()]} are merged into its weight; unmerge them before loading"
        )
    return found.group(1) not in getattr(owner, "active_adapters", (found.group(1),))


def _module_map(name: str, path: str, layer: int, module: nn.Module) -> LinearMap | None:
    """The map of one module that applies its own weight, or None where it has none."""
    weight = getattr(module, "weight", None)
    bias = getattr(module, "bias", None)
    size = sum(p.numel() for p in module.parameters(recurse=False))
    if isinstance(module, nn.Linear):
        d_out, d_in = module.out_features, module.in_features
    elif is_conv1d(module):
        d_in, d_out = module.get_parameter("weight").shape
    elif re.search(r"router|gate", type(module).__name__, re.I) and getattr(weight, "ndim", 0) == 2:
        d_out, d_in = weight.shape  # type: ignore[union-attr]
    else:
        return None
    kind = kind_of(path, d_in, d_out)
    block = Block(name, layer, kind, d_in, d_out, bias is not None)
    return LinearMap(name, kind, size, (block,))


def _parameter_maps(name: str, path: str, layer: int, module: nn.Module) -> Iterator[LinearMap]:
    """Maps kept as bare parameters: fused experts (expert, out, in), and everything we cannot track."""
    odd = getattr(module, "is_transposed", False) or getattr(module, "has_bias", False)
    for key, value in module.named_parameters(recurse=False):
        if value.ndim < 2:
            continue
        full = f"{name}.{key}"
        if value.ndim == 3 and key in FUSED and not odd and "expert" in full.lower():
            experts, d_out, d_in = value.shape
            kind = kind_of(f"{path}.{key}", d_in, d_out)
            blocks = tuple(Block(f"{full}[{e}]", layer, kind, d_in, d_out, False) for e in range(experts))
            yield LinearMap(full, kind, value.numel(), blocks)
        else:
            yield LinearMap(full, kind_of(f"{path}.{key}", value.shape[-1], value.shape[0]), value.numel(), ())


def _inside_layers(net: nn.Module) -> Iterator[LinearMap]:
    prefix, layers = decoder_layers(net)
    outer = embeddings(net)
    for index, root in enumerate(layers):
        start = f"{prefix}.{index}" if prefix else ""
        for path, module in root.named_modules():
            name = ".".join(part for part in (start, path) if part)
            if isinstance(module, nn.Embedding) or any(module is m for _, m in outer.values()):
                continue
            if _adapter_is_idle(net, name):
                continue
            found = _module_map(name, path, index, module)
            yield from [found] if found else _parameter_maps(name, path, index, module)


def embeddings(net: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """`embed` and `unembed` with their paths, as far as the model names them."""
    found: dict[str, tuple[str, nn.Module]] = {}
    for kind, getter in (("embed", "get_input_embeddings"), ("unembed", "get_output_embeddings")):
        try:
            module = getattr(net, getter)() if hasattr(net, getter) else None
        except (NotImplementedError, AttributeError):
            module = None
        if module is not None and (names := [name for name, m in net.named_modules() if m is module]):
            found[kind] = (names[0], module)
    return found


def _outside_layers(net: nn.Module) -> Iterator[LinearMap]:
    for kind, (name, module) in embeddings(net).items():
        size = sum(p.numel() for p in module.parameters(recurse=False))
        block = None
        if kind == "embed" and type(module) is nn.Embedding:
            block = Block(name, None, kind, module.num_embeddings, module.embedding_dim, False)
        if kind == "unembed" and isinstance(module, nn.Linear):
            block = Block(name, None, kind, module.in_features, module.out_features, module.bias is not None)
        yield LinearMap(name, kind, size, (block,) if block else ())


def linear_maps(net: nn.Module) -> list[LinearMap]:
    """Every linear map inside the decoder blocks in the model's own order, then embed and unembed."""
    return [*_inside_layers(net), *_outside_layers(net)]


def matches(found: LinearMap, selection: str) -> bool:
    """Whether a map belongs to "all", "attention", "mlp", a kind, or a regular expression for its name."""
    if selection in SELECTIONS:
        return found.kind in SELECTIONS[selection]
    if selection in KINDS:
        return found.kind == selection
    if selection == "adapters":
        return bool(ADAPTER.search(found.name))
    names = [found.name, *(block.name for block in found.blocks)]
    return any(re.search(selection, name) for name in names)


def select(net: nn.Module, selection: str | Sequence[str]) -> tuple[tuple[Block, ...], Tracked]:
    """The tracked blocks in model order, and what share of the model they are.

    Args:
        net: any module whose linear maps are Linear, Conv1D, fused experts or LoRA adapters.
        selection: "all" (every map inside the decoder blocks), "attention", "mlp", "adapters", one of
            `influence.types.KINDS`, a regular expression for names, or several of these.

    Raises:
        NoBlocks: where nothing can be tracked or nothing matches; lists what was found.
    """
    choices = [selection] if isinstance(selection, str) else list(selection)
    found = linear_maps(net)
    chosen = [m for m in found if any(matches(m, choice) for choice in choices)]
    blocks = tuple(b for m in chosen for b in m.blocks if _block_matches(m, b, choices))
    if not blocks:
        raise NoBlocks(_nothing_found(net, found, chosen, choices))
    tracked = sum(b.size for b in blocks)
    wanted = sum(b.size for b in blocks) + sum(m.size for m in chosen if not m.blocks)
    total = sum(p.numel() for p in net.parameters())
    missing = tuple(m.name for m in chosen if not m.blocks)
    return blocks, Tracked(min(1.0, tracked / max(total, 1)), tracked / wanted, missing)


def _block_matches(found: LinearMap, block: Block, choices: Iterable[str]) -> bool:
    """A regular expression may single out some experts of a fused parameter."""
    for choice in choices:
        named = choice in SELECTIONS or choice in KINDS or choice == "adapters"
        if named and matches(found, choice):
            return True
        if not named and (re.search(choice, block.name) or re.search(choice, found.name)):
            return True
    return False


def _nothing_found(net: nn.Module, found: list[LinearMap], chosen: list[LinearMap], choices: list[str]) -> str:
    if chosen:
        named = ", ".join(m.name for m in chosen[:8])
        return (
            f"no block can be tracked in {type(net).__name__}: {named} hold linear maps of a form this library does "
            "not follow; tracked are nn.Linear, Conv1D, fused experts (expert, out, in) and LoRA adapters"
        )
    if not any(m.blocks for m in found):
        kinds = sorted({type(m).__name__ for m in net.modules() if any(True for _ in m.parameters(recurse=False))})
        return (
            f"no block can be tracked in {type(net).__name__}, whose modules with parameters are "
            f"{', '.join(kinds) or 'none'}; "
            "tracked are nn.Linear, Conv1D, fused experts (expert, out, in) and LoRA adapters"
        )
    some = ", ".join(m.name for m in found[:8])
    return (
        f"the selection {choices} matches none of the {len(found)} linear maps ({some}, …); "
        f"give {', '.join(SELECTIONS)}, adapters, one of {', '.join(KINDS)}, or a regular expression"
    )
