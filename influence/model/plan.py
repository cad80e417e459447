"""What a training will do, worked out and checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from influence.model.batches import columns
from influence.model.schedule import kept_steps, steps_for

if TYPE_CHECKING:
    from influence.types import Rows

_PASSING = ("transformers_version", "dtype", "architectures", "_name_or_path")


class TokenRows(NamedTuple):
    """Rows as plain arrays: tokens and masks of each row, and the rows' ids."""

    ids: list[np.ndarray]
    masks: list[np.ndarray]
    row: np.ndarray


class Plan(NamedTuple):
    """A checked training: `settings` (JSON) say everything on which its result depends."""

    folder: Path
    config: Any
    rows: TokenRows
    lengths: np.ndarray
    settings: dict[str, Any]
    steps: int
    kept: list[int]


def plan(folder: str | Path, config: Any, rows: Rows | TokenRows, tokenizer: Any, options: Mapping[str, Any]) -> Plan:
    """Work out and check the training that `influence.model.train.train` describes; `options` are its keywords."""
    config = as_config(config)
    plain = rows if isinstance(rows, TokenRows) else TokenRows(*columns(rows))
    lengths = _checked(plain, config, tokenizer)
    _check_options(options)
    steps, seed, batch_tokens = options["steps"], options["seed"], options["batch_tokens"]
    shown = {name: options[name] for name in ("lr", "seed", "batch_tokens", "warmup", "weight_decay", "clip")}
    shown |= {"checkpoints": options["checkpoints"], "config": _described(config), "rows": _fingerprint(plain)}
    shown |= {"tokens": options["tokens"]} if steps is None else {"steps": steps}
    total = steps_for(lengths, seed, batch_tokens, options["tokens"]) if steps is None else steps
    return Plan(Path(folder), config, plain, lengths, shown, total, kept_steps(total, options["checkpoints"]))


def as_config(config: Any) -> Any:
    """A configuration object from itself or from such as a dict (a GPT-NeoX's where it does not say)."""
    if not isinstance(config, dict):
        return config
    from transformers import AutoConfig

    return AutoConfig.for_model(**{"model_type": "gpt_neox", **config})


def _described(config: Any) -> dict[str, Any]:
    told = {key: value for key, value in config.to_diff_dict().items() if key not in _PASSING}
    return {**told, "model_type": config.model_type}


def _fingerprint(rows: TokenRows) -> str:
    digest = hashlib.sha256(np.array([len(ids) for ids in rows.ids], np.int64).tobytes())
    digest.update(np.concatenate(rows.ids).astype(np.int64).tobytes())
    digest.update(np.concatenate(rows.masks).astype(np.int8).tobytes())
    return digest.hexdigest()


def _checked(rows: TokenRows, config: Any, tokenizer: Any) -> np.ndarray:
    lengths = np.array([len(ids) for ids in rows.ids])
    highest, vocab = max(int(ids.max()) for ids in rows.ids), config.vocab_size
    if highest >= vocab:
        raise ValueError(f"The rows hold token {highest}, but the model's vocabulary has {vocab}; give a larger one.")
    if tokenizer is not None and not isinstance(tokenizer, str | Path) and len(tokenizer) > vocab:
        raise ValueError(f"The tokenizer has {len(tokenizer)} tokens, but the model only {vocab}; give a larger one.")
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and lengths.max() > context:
        longest = rows.row[int(lengths.argmax())]
        raise ValueError(
            f"Row {longest} has {lengths.max()} tokens, but the model's context is {context}; cut the rows "
            "shorter, or give a configuration with a longer one."
        )
    return lengths


def _check_options(options: Mapping[str, Any]) -> None:
    amount = "tokens" if options["steps"] is None else "steps"
    for name in ("lr", amount, "batch_tokens", "save_every", "clip"):
        if not options[name] > 0:
            raise ValueError(f"{name} is {options[name]}; it must be positive")
