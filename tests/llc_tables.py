"""Folders as `influence llc` leaves them, with made-up numbers and any names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import probe_tables

HEADS = tuple(f"layer {layer} head {head}" for layer in range(3) for head in range(2))
FALLING = (
    "the estimate is negative: away from w* the loss is lower and it is still falling at the end of the chains, so …"
)
SHORT = "flat directions need about 2/(εγ) = 2e+03 steps to forget w*, burn-in has 60: where the loss is flat, …"
SLOW = "R-hat 1.214 is above 1.05: the chains disagree; give more draws or a longer burn_in; only 31 effective draws; …"


def llc_run(
    folder: Path,
    parts: tuple[str, ...] = HEADS,
    steps: tuple[float, ...] = (0,),
    *,
    plain: bool = False,
    chains: int = 3,
    draws: int = 24,
    seed: int = 0,
) -> Path:
    """A run of coefficients alone: the second part is negative, the third slow, the last but one withheld at the last
    step; with `plain` nothing is."""
    random = np.random.default_rng(seed)
    lines, energies = [], []
    for step in steps:
        for place, part in enumerate(parts):
            line = _line(step, part, 4 + 6 * (place % 2) * np.log1p(step) + place / 3, random)
            gone = 0
            if not plain and step == steps[-1]:
                gone = _spoil(line, place, len(parts), chains)
            lines.append({**line, "kept": chains - gone, "asked_chains": chains})
            own = (5.0 if line["value"] is None else line["value"]) + random.normal(0, 1, (chains, draws))
            own[chains - gone :] *= 1e9
            energies += [
                {"step": step, "part": part, "chain": c, "draw": d, "energy": own[c, d], "kept": c < chains - gone}
                for c in range(chains)
                for d in range(draws)
            ]
    frames = {"llc": pd.DataFrame(lines).astype({"value": float}), "llc_draws": pd.DataFrame(energies)}
    if len(steps) > 1:
        whole = frames["llc"].groupby("part", sort=False)["value"].count() == len(steps)
        frames["llc_curves"] = pd.DataFrame(
            [
                {"part": part, "cluster": 1 + place % 2 if whole[part] else None,
                 "borders": [float(steps[len(steps) // 2])] if place % 2 else [], "silhouette": 0.81}
                for place, part in enumerate(parts)
            ]
        )  # fmt: skip
    probe_tables.save(folder, frames)
    settings = {"where": list(parts), "chains": chains, "draws": draws, "thin": 2, "burn_in": 60, "unit": "sequence"}
    probe_tables.manifest(folder, settings, command="influence llc --config config.toml")
    return folder


def _line(step: float, part: str, value: float, random: np.random.Generator) -> dict[str, Any]:
    return {"step": step, "part": part, "value": value, "mcse": 0.1 + random.random() / 5, "rhat": 1.01, "ess": 240.0,
            "ess_tail": 200.0, "step_bias": 0.05, "n_beta": 37.7, "gamma": 100.0, "sampler": "sgld",
            "notes": ""}  # fmt: skip


def _spoil(line: dict[str, Any], place: int, parts: int, chains: int) -> int:
    """Gives a line what its place has; how many chains diverged."""
    if place == 1:
        line |= {"value": -2.5, "notes": f"{FALLING}; {SHORT}"}
    elif place == 2:
        line |= {"rhat": 1.214, "ess": 31.0, "notes": SLOW}
    elif place == parts - 2:
        line |= dict.fromkeys(("value", "mcse", "rhat", "ess", "ess_tail", "step_bias"))
        line["notes"] = (
            f"{chains - 1} of {chains} chains diverged, so no estimate is given (chain 1: its mean energy …)"
        )
        return chains - 1
    return 0
