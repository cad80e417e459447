"""Does D50 find a depth that is known, do its intervals cover it, and where do the published definitions fail?

    python benchmarks/known_depth.py [--draws 200] [--bootstrap 500] [--json PATH]

Activations in which a class becomes linearly readable exactly at layer m (`tests/planted.py`): chance before, one and
the same strength from there on, noise that is correlated between layers. For every m, 200 draws of 300 pairs of
statements in five splits; and 200 draws in all, m taking turns, with one and with ten splits, with a weak signal, and
with none at all. Also networks in which one block computes the concept, through `influence.probe`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from influence.probing import depth as d
from influence.probing.controls import majority, shuffled
from influence.probing.measure import Scored, curve, scored
from influence.probing.question import TRAIN

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import planted  # noqa: E402

BLOCKS = 7
DEPTH = d.depth_of(range(-1, BLOCKS), BLOCKS)
SHARES = (0.5, 0.95)


def one_draw(m: int, seed: int, strength: float, seeds: int, bootstrap: int) -> dict[str, Any]:
    """D50 and D95 over two controls, whether their intervals hold the true depth, and the published definitions."""
    values, y, group = planted.activations(m, seed, blocks=BLOCKS, strength=strength)
    split = _split(group, seeds, seed)
    weights = d.draws(group, bootstrap, seed, d.spread(split, group))
    labels = {"probe": y, "shuffled": shuffled(y, seed=seed)}
    fits = scored(values, labels, split, classes=2)
    task = curve(fits["probe"], y, split, weights, "auc")
    nothing = Scored(majority(y, split == TRAIN)[None, :, 0], np.ones((1, seeds)))
    controls = {
        "majority": curve(nothing, y, split, weights, "auc", False),
        "shuffled": curve(fits["shuffled"], labels["shuffled"], split, weights, "auc", False),
    }
    accuracy = curve(fits["probe"], y, split, weights[:1], "accuracy").test.mean(1)[0]
    line: dict[str, Any] = {
        "m": m, "seed": seed, "strength": strength, "splits": seeds, "auc": float(task.test[0].mean(0)[-1]),
        "jumping": float(d.jumping_point(accuracy, DEPTH)), "converging": float(d.converging_point(accuracy, DEPTH)),
        "C_tail": float(d.tail_point(accuracy, DEPTH)),
    }  # fmt: skip
    for name, control in controls.items():
        found = d.reached(task, control, DEPTH, SHARES)
        line[f"{name} excess low"] = found.excess.low
        for share in SHARES:
            true = (m + share) / BLOCKS
            value, low, high = found.depths[share]
            line |= {f"{name} D{share:.0%}": value, f"{name} D{share:.0%} width": high - low}
            line |= {f"{name} D{share:.0%} covers": low <= true <= high, f"{name} D{share:.0%} error": value - true}
            line[f"{name} D{share:.0%} found"] = DEPTH[m] < value <= DEPTH[m + 1] + 1e-9
    return line


def _split(group: np.ndarray, seeds: int, seed: int) -> np.ndarray:
    """(s n) three fifths of the pairs for training; each pair has one statement of each class, so classes are even."""
    parts, rng = np.repeat([0, 0, 0, 1, 2], (group.max() + 1) // 5), np.random.default_rng([seed, 9])
    return np.stack([rng.permutation(parts) for _ in range(seeds)])[:, group]


def table(frame: pd.DataFrame, control: str = "majority", by_m: bool = False) -> pd.DataFrame:
    """A row per setting, or per m: how often the right block is found and the interval covers, and its width."""
    known = frame[frame[f"{control} excess low"] > 0]
    by = known.groupby(["strength", "splits", *["m"] * by_m])
    columns = {"draws": by.size(), "auc": by["auc"].mean()}
    for share in SHARES:
        name = f"{control} D{share:.0%}"
        columns |= {f"D{share:.0%} {told}": by[f"{name} {told}"].mean() for told in ("found", "covers", "width")}
    return pd.DataFrame(columns).reset_index()


def networks(seed: int) -> pd.DataFrame:
    """`influence.probe` on networks in which block m computes the concept."""
    import influence
    from influence.data.labelled import labelled

    lines = []
    for m in range(6):
        lm, y = planted.network(m, seed=seed)
        found = influence.probe(lm, labelled(planted.words(len(y)), y.tolist(), name=f"block {m}"), progress=False)
        value, low, high = found.depth("D50")
        over = found.over["resid_post"]
        lines.append({"m": m, "true": (m + 0.5) / 6, "D50": value, "low": low, "high": high, "over": over,
                      "converging": found.depth("converging point")[0]})  # fmt: skip
    return pd.DataFrame(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="per m and setting")
    parser.add_argument("--bootstrap", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    started, lines = time.time(), []
    for strength, seeds, every in ((1.0, 5, True), (1.0, 1, False), (1.0, 10, False), (0.5, 5, False), (0.0, 5, False)):
        for draw in range(asked.draws):
            for m in range(BLOCKS) if every else [draw % BLOCKS if strength else BLOCKS]:
                lines.append(one_draw(m, 1000 * asked.seed + draw, strength, seeds, asked.bootstrap))
        print(f"strength {strength:g}, {seeds} splits: {time.time() - started:.0f} s", flush=True)
    frame = pd.DataFrame(lines)
    chance = frame[frame["strength"] == 0]
    main_setting = frame[(frame["strength"] == 1) & (frame["splits"] == 5)]
    tables = {"every m": table(main_setting, by_m=True), "settings": table(frame)}
    tables["over shuffled labels"] = table(frame, "shuffled")
    for name, one in tables.items():
        print(f"{name}\n{one.to_string(index=False, float_format='{:.3f}'.format)}")
    print(f"no concept at all, {len(chance)} draws: D50 is defined in {(chance['majority excess low'] > 0).mean():.1%} "
          f"(over shuffled labels {(chance['shuffled excess low'] > 0).mean():.1%}); a jumping point in "
          f"{chance['jumping'].notna().mean():.1%}")  # fmt: skip
    strong = main_setting[main_setting["m"] < BLOCKS - 1]
    print(f"literal converging point with a flat tail: mean {strong['converging'].mean():.3f} for every m alike; "
          f"mean by m {strong.groupby('m')['converging'].mean().round(2).tolist()}")  # fmt: skip
    found = networks(asked.seed)
    print(found.to_string(index=False, float_format="{:.3f}".format))
    if asked.json:
        told = {name: one.to_dict("records") for name, one in {**tables, "networks": found}.items()}
        told["defined at chance"] = float((chance["majority excess low"] > 0).mean())
        told["jumping at chance"] = float(chance["jumping"].notna().mean())
        asked.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
