"""A study's payload for its report: simulated tables, and small made-up ones of what is not simulated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from influence.study.hypotheses import Design, Effect, Verdict, read, simulate, verdicts

KINDS = ("answer", "lexical", "syntactic", "truth", "two-hop")
SETTINGS: dict[str, Any] = {
    "ladder": {"preset": "hour", "tokens": 1_000_000, "batch_tokens": 256, "seeds": [0, 1, 2], "compute_dtype": None,
               "sizes": {"s0": {"width": 32, "lr": 6e-3, "weight_decay": 0.03}},
               "corpus": {"sha256": "ab" * 32, "world": {"persons": 48, "seed": 0}}, "tokenizer": "trained",
               "vocab": 2048},
    "measure": {"splits": 3, "bootstrap": 200, "damping": 0.1, "fit_rows": 2000, "queries": 6, "controls": 3,
                "margin": 8,
                "signature": 0, "k95": False, "dtype": None, "batch_size": 32, "seed": 0},
    "tests": {"permutations": 2000, "bootstrap": 999, "level": 0.95, "seed": 7},
    "whim": {"of <the> day": "a `tick` | <b>bold</b>"},
}  # fmt: skip


def curves(tables: dict[str, pd.DataFrame], null: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """A curve of AUC per model and concept that rises where the table depth says; nulls stay at chance."""
    random = np.random.default_rng(seed)
    layers = tables["models"].set_index("model")["n_layers"]
    lines = []
    for one in tables["depth"].to_dict("records"):
        n = int(layers[one["model"]])
        flat = one["concept"] in null or np.isnan(one["d50"])
        for layer in range(-1, n):
            depth = (layer + 1) / n
            value = 0.5 + random.normal(0, 0.015) + (0 if flat else 0.42 / (1 + np.exp(-14 * (depth - one["d50"]))))
            lines.append({"model": one["model"], "step": one["step"], "concept": one["concept"], "layer": layer,
                          "depth": depth, "metric": "auc", "value": value, "low": value - 0.04, "high": value + 0.04,
                          "control": 0.53 + 0.03 * depth, "untrained": 0.52, "shuffled": 0.5})  # fmt: skip
    return pd.DataFrame(lines)


def payload(
    sizes: int = 4, seeds: int = 3, concepts: int = 20, *, named: Sequence[str] = (), seed: int = 0,
    judged: bool = True, effect: Effect | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A whole payload. The last two kinds are nulls; `named` gives the first concepts other names."""
    effect = effect or Effect(centroid=0.7, scale=3.0)
    tables = simulate(Design(sizes=sizes, seeds=seeds, concepts=concepts, draws=5), effect, seed=seed)
    old = list(tables["concepts"]["concept"])
    kinds = [KINDS[place % len(KINDS)] for place in range(concepts)]
    names = [f"{kind}: concept {place:02d}" for place, kind in enumerate(kinds)]
    names[: len(named)] = named
    renamed = dict(zip(old, names, strict=True))
    tables = {name: frame.assign(concept=frame["concept"].astype(str).map(renamed)) if "concept" in frame else frame
              for name, frame in tables.items()}  # fmt: skip
    null = [name for name, kind in zip(names, kinds, strict=True) if kind in KINDS[-2:]]
    for column in ("d50", "d95"):
        tables["depth"].loc[tables["depth"]["concept"].isin(null), column] = np.nan
    random = np.random.default_rng(seed)
    found = read(tables)
    told = [plain(one) for one in verdicts(found, permutations=199, bootstrap=60)] if judged else []
    parameters = tables["models"]["parameters"]
    loss = 3.9 - 0.2 * np.log(parameters / 1e5) + random.normal(0, 0.02, len(parameters))
    tables["models"] = tables["models"].assign(loss=loss, untrained=False)
    tables["depth"] = tables["depth"].assign(
        d50_low=tables["depth"]["d50"] - 0.05, d50_high=tables["depth"]["d50"] + 0.06
    )
    tables["tails"] = tables["tails"].assign(alpha_density=2.5, top1_share=0.2)
    tables["curve"] = curves(tables, null, seed)
    about = pd.DataFrame({
        "concept": names, "kind": kinds, "expected": ["chance" if name in null else "knowable" for name in names],
        "items": 240, "queries": 6, "bearing_rows": 96, "about": [f"Which of two answers comes: {k}." for k in kinds],
    })  # fmt: skip
    return {
        "tables": tables | {"concepts": about},
        "verdicts": told,
        "settings": SETTINGS,
        "skipped": [{"model": "s0-0", "concept": names[-1], "part": "margin", "why": "no bearing row in the corpus"}],
        "versions": {"influence": "0.1.0", "torch": "2.13.0"},
        "facts": {"machine": "2 cores", "time": "48 min"},
        "command": "influence study --config study.toml",
        "toml": 'ladder = "runs/ladder"\n',
        "title": "twenty concepts",
    }


def plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data, as it is stored."""
    return {one.name: getattr(verdict, one.name) for one in dataclasses.fields(verdict) if one.name != "sentences"}
