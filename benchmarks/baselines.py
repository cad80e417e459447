"""LDS of every baseline beside EK-FAC and `predictive`, on the three settings; the model of seed 0.

    python benchmarks/baselines.py [--settings NAME …] [--folder DIR] [--json PATH]

The trainings are those of ekfac_vs_lissa.py and predictive.py, kept in DIR.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import pandas as pd
import torch
from predictive import BATCH, DAMPING, fitted, scored
from settings import NAMES, setting

import ekfac
import influence
from influence.attribution.trajectory import combine, spaced
from influence.truth.lds import lds, paired
from influence.truth.panel import baselines


def compare(name: str, folder: Path) -> pd.DataFrame:
    one = setting(name, folder)
    models = one.trained(range(5))
    truth, kept = one.truth(), one.halves()
    lm = one.lm(models, 0)
    same = {"likelihood": one.likelihood, "batch_size": BATCH, "progress": False}
    factors = fitted(one, lm)
    diagonal = influence.fit_diagonal(lm, one.rows, labels=one.labels, **same)
    found = baselines(lm, one.rows, one.queries, factors, diagonal=diagonal, damping=DAMPING, **same)
    found["EK-FAC"] = scored(one, lm, ekfac.solver(factors, DAMPING))
    along = {epoch: one.lm(models, 0, epoch) for epoch in spaced(one.checkpoints)}
    each = [scored(one, point, ekfac.solver(fitted(one, point), DAMPING)) for point in along.values()]
    found["predictive"] = combine(each)
    table = lds(found, kept, truth)
    gain = paired(found, "EK-FAC", kept, truth).rename(columns={"low": "d low", "high": "d high"})
    return table.merge(gain, how="left", on="method")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    found = {}
    for name in asked.settings:
        table = compare(name, asked.folder / "full")
        found[name] = table.to_dict("records")
        print(f"\n{name}\n{table.round(3).to_string(index=False, na_rep='')}", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
