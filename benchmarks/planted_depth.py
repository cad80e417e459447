"""Where does influence lie in models whose concepts are readable only from a known layer on?

    python benchmarks/planted_depth.py [--blocks 6] [--at 0 1 2 3 4 5] [--seeds 3] [--signature 40] [--json PATH]

Models trained here in which one block alone attends (`tests/planted_training.py`), so that no probe can find the
concept before that block. For each of them: D50 and D95 by `influence.probe`, the centroid of influence (quantity 1)
and the excess of influence above D95 (quantity 2), and D50 of the influence signature and of the backward signal
(quantity 4). Then how all of these go together with the planted depth, over models. A model that did not learn is
drawn again with another seed, and counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy import stats

from influence.study.measure.cell import Model, gathered, measure
from influence.study.measure.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import planted_training  # noqa: E402

TRIES = 5
LINES = ("D50", "D95", "centroid", "excess above D95", "signature", "backward")


def learned(m: int, blocks: int, seed: int, concepts: int) -> tuple[planted_training.Planted, int]:
    """A model that has learned all concepts, and how many before it had not."""
    for tried in range(TRIES):
        made = planted_training.planted(m, blocks=blocks, concepts=concepts, seed=seed + 1000 * tried)
        if made.loss < 2 * planted_training.LEARNED:
            return made, tried
    raise SystemExit(f"block {m}: {TRIES} trainings in a row did not learn")


def one_model(m: int, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The quantities of one model, means over its concepts."""
    made, tried = learned(m, asked.blocks, seed, asked.concepts)
    settings = Settings(fit_rows=10_000, queries=6, controls=3, margin=0, signature=asked.signature, seed=seed)
    names = [one.name for one in made.concepts]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "m"
        measure(Model("m", place, made.lm, made.rows, settings, False), made.concepts, lambda word: None)
        parts: dict[str, list[pd.DataFrame]] = {}
        for name, frame in gathered(place, names, {}):
            parts.setdefault(name, []).append(frame)
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}
    depth, mass = tables["depth"], tables["layer_mass"]
    mass = mass.merge(depth[["concept", "d95"]], on="concept")
    centroid = (mass["mass"] * mass["depth"]).groupby([mass["concept"], mass["query"]]).sum().mean()
    above = mass["depth"] > mass["d95"] + 1e-9
    excess = (mass["mass"] * above).groupby([mass["concept"], mass["query"]]).sum() - above.groupby(
        [mass["concept"], mass["query"]]
    ).mean()
    line = {"m": m, "true": (m + 0.5) / asked.blocks, "seed": seed, "not learned": tried, "loss": made.loss}
    line |= {"D50": depth["d50"].mean(), "D95": depth["d95"].mean(), "centroid": centroid}
    line |= {"excess above D95": excess.mean(), "right block": _in_block(depth["d50"], m, asked.blocks)}
    if "signature" in tables:
        own = tables["signature"]
        line |= {"signature": own["d50_signature"].mean(), "backward": own["d50_backward"].mean()}
        line |= {f"AUC {name}": own[f"auc_{name}"].mean() for name in ("signature", "backward", "random")}
    return line


def _in_block(d50: pd.Series, m: int, blocks: int) -> float:
    return float(((d50 > m / blocks) & (d50 <= (m + 1) / blocks + 1e-9)).mean())


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--blocks", type=int, default=6)
    words.add_argument("--at", type=int, nargs="+", help="blocks that attend; all but the last by default")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--concepts", type=int, default=3)
    words.add_argument("--signature", type=int, default=0, help="items of quantity 4; 0 leaves it out")
    words.add_argument("--json", type=Path)
    asked = words.parse_args()
    torch.set_num_threads(1)
    started, lines = time.time(), []
    for m in asked.at or range(asked.blocks - 1):
        for seed in range(asked.seeds):
            lines.append(one_model(m, asked, seed))
            print(lines[-1], flush=True)
    frame = pd.DataFrame(lines)
    shown = frame.groupby("m").mean().drop(columns="seed")
    print(shown.to_string(float_format="{:.3f}".format, na_rep="–"))
    for name in LINES:
        if name in frame and frame[name].notna().sum() > 3 and frame["m"].nunique() > 2:
            known = frame[name].notna()
            rho = stats.spearmanr(frame.loc[known, "true"], frame.loc[known, name])
            print(f"{name:18} with the planted depth over {int(known.sum())} models: Spearman {rho.statistic:+.2f}, "
                  f"p {rho.pvalue:.2g}")  # fmt: skip
    print(f"{time.time() - started:.0f} s; D50 in the right block: {frame['right block'].mean():.0%} of concepts")
    if asked.json:
        asked.json.write_text(json.dumps(json.loads(frame.to_json(orient="records")), indent=1))


if __name__ == "__main__":
    main()
