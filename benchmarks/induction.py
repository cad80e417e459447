"""Does a low local learning coefficient go with induction heads? Two-layer attention-only models across training.

    python benchmarks/induction.py --out runs/induction [--seeds 3] [--steps 2000] [--figure docs/llc_heads.svg]

Trains models on text with planted bigrams, skip-trigrams and repeats (`influence.data.planted`), measures at log-spaced
checkpoints the loss by rule, where every head looks, what is lost without it, and λ̂ of every head alone; at the last
one also λ̂ on the loss of second copies. Writes losses.csv, heads.csv, answer.csv and settings.json; every checkpoint of
every seed is a piece of its own, and the same command goes on where it ended. The setup follows Wang et al. 2024
(arXiv 2410.02984) on a smaller scale.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import influence
from influence.data import planted
from influence.llc.head_scores import induction, looking, patterns, previous, without
from influence.llc.sweep import clusters, curves, stages, sweep
from influence.llc.where import heads
from influence.model.attention_only import attention_only, next_token, trained

CHAINS = {"step_size": 1e-3, "n_beta": 30.0, "gamma": 200.0, "chains": 4, "thin": 1, "unit": "token"}
SCORES = ("induction", "previous", "trigger", "copy loss without")
DRAWS = 10_000  # of permutations
HELD_OUT = 997  # seed of texts that no training sees


def drawn(own: planted.Language, rows: int, seed: int) -> planted.Text:
    return planted.text(own, rows, np.random.default_rng([seed, 7]))


def losses(net: Any, some: planted.Text) -> dict[str, float]:
    """Mean loss of the tokens of each rule, in nats."""
    with torch.no_grad():
        each = next_token(net, torch.from_numpy(some.tokens)).numpy()
    rule = some.rule[:, 1:]
    return {name: float(each[rule == k].mean()) for k, name in enumerate(planted.RULES)}


def scores(lm: Any, some: planted.Text) -> pd.DataFrame:
    """What every head does: where it looks, at second copies and at keys, and the loss of second copies without it."""
    pattern = patterns(lm, some.tokens)
    at = np.where(some.first == planted.NOWHERE, planted.NOWHERE, previous(some.tokens))
    places = {"induction": induction(some.first), "previous": at, "trigger": some.trigger}
    found = {name: looking(pattern, where).ravel() for name, where in places.items()}
    whole = losses(lm.net, some)["second copy"]
    alone = without(lm, lambda: losses(lm.net, some)["second copy"])
    table = pd.DataFrame(found, index=pd.Index(heads(lm), name="part"))
    return table.assign(**{"copy loss without": pd.Series(alone) - whole}).reset_index()


def kept(steps: int, checkpoints: int) -> list[int]:
    """Log-spaced steps from 50 on; the first is 0."""
    return [0, *np.unique(np.geomspace(50, steps, checkpoints - 1).round().astype(int)).tolist()]


def models(asked: argparse.Namespace, own: planted.Language, seed: int) -> dict[int, Path]:
    """Train one model and save its checkpoints as ordinary folders, or find them; losses also at steps between."""
    place, some = asked.out / f"seed {seed}", drawn(own, 256, HELD_OUT)
    wanted = kept(asked.steps, asked.checkpoints)
    folders = {step: place / f"step-{step}" for step in wanted}
    if (place / "trained.json").is_file():
        return folders
    net = attention_only(own.size, width=asked.width, heads=asked.heads, seed=seed)
    between = kept(asked.steps, 3 * asked.checkpoints)
    lines, started = [], time.process_time()
    batch = lambda step: drawn(own, asked.batch, (seed + 1) * 1_000_000 + step).tokens  # noqa: E731
    for step, one in trained(net, batch, [*wanted, *between], lr=asked.lr):
        lines.append({"seed": seed, "step": step, **losses(one, some)})
        if step in folders:
            one.save_pretrained(folders[step])
        print({name: round(value, 3) for name, value in lines[-1].items()}, flush=True)
    write(place / "trained.json", json.dumps({"losses": lines, "seconds": time.process_time() - started}))
    return folders


def measured(asked: argparse.Namespace, own: planted.Language, seed: int, step: int, folder: Path, last: bool) -> Path:
    """One checkpoint: tables of its losses and of its heads, as a piece."""
    piece = asked.out / f"seed {seed}" / f"measured-{step}.json"
    if piece.is_file():
        return piece
    started = time.process_time()
    lm = influence.load(str(folder))
    some, sampled = drawn(own, 256, HELD_OUT), drawn(own, 1024, HELD_OUT + 1)
    chains = {**CHAINS, "batch_size": asked.batch_size, "draws": asked.draws, "burn_in": asked.burn_in, "seed": seed}
    parts = heads(lm)
    found = sweep({step: lm}, sampled.rows(), parts, progress=False, **chains)
    found = found.merge(scores(lm, some), on="part")
    if last:
        copies = sweep({step: lm}, sampled.rows(("second copy",)), parts, progress=False, **chains)[
            ["part", "value", "mcse", "rhat"]
        ]
        found = found.merge(copies, on="part", suffixes=("", " on copies"))
    told = {"heads": json.loads(found.to_json(orient="records")), "seconds": time.process_time() - started}
    write(piece, json.dumps(told))
    return piece


def write(path: Path, what: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    half.write_text(what, encoding="utf-8")
    os.replace(half, path)


def gathered(out: Path, pieces: dict[tuple[int, int], Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lines of (seed, step) and of (seed, step, head)."""
    seeds = {seed: json.loads((out / f"seed {seed}" / "trained.json").read_text("utf-8")) for seed, _ in pieces}
    told = {key: json.loads(piece.read_text("utf-8")) for key, piece in pieces.items()}
    many = [pd.DataFrame(one["heads"]).assign(seed=seed) for (seed, _), one in told.items()]
    table = pd.concat(many, ignore_index=True)
    table["layer"] = table["part"].str.extract(r"layer (\d+)").astype(int)
    spent = [sum(one["seconds"] for one in some.values()) for some in (seeds, told)]
    print(f"{spent[0]:.0f} s of training and {spent[1]:.0f} s of measuring, of one thread")
    return pd.DataFrame([line for one in seeds.values() for line in one["losses"]]), table


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman of λ̂ and each score over heads at the last step: per seed, and within layer and seed over all seeds.

    The p value is that of as large a coefficient, of either sign, when values are exchanged among heads of the same
    seed (and layer, where it is within).
    """
    last = table[table["step"] == table["step"].max()]
    lines = []
    for column in [name for name in ("value", "value on copies") if name in last]:
        for score in SCORES:
            for seed, some in last.groupby("seed"):
                lines.append(
                    {"of": column, "score": score, "heads": f"seed {seed}", **tested(some, column, score, ["seed"])}
                )
            for layer, some in last.groupby("layer"):
                lines.append(
                    {"of": column, "score": score, "heads": f"layer {layer}", **tested(some, column, score, ["seed"])}
                )
            lines.append(
                {
                    "of": column,
                    "score": score,
                    "heads": "within layers",
                    **tested(last, column, score, ["seed", "layer"]),
                }
            )
    return pd.DataFrame(lines)


def tested(some: pd.DataFrame, column: str, score: str, groups: list[str]) -> dict[str, Any]:
    """Spearman of ranks within groups, and its permutation p."""
    some = some[some[column].notna()]
    by = some.groupby(groups)
    x, y = (by[name].rank() - by[name].transform("size") / 2 - 0.5 for name in (column, score))
    x, y = x.to_numpy(), y.to_numpy()
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    rho, rng, member = float(x @ y / scale), np.random.default_rng(0), by.ngroup().to_numpy()
    order = np.argsort(rng.random((DRAWS, len(x))) + member, axis=1)  # mixes within groups
    place = np.argsort(member, kind="stable")
    drawn = x[order] @ y[place] / scale
    return {"n": len(x), "rho": rho, "p": float((1 + (np.abs(drawn) >= abs(rho) - 1e-12).sum()) / (1 + DRAWS))}


def together(asked: argparse.Namespace, one: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Clusters of curves per seed, written into the table; stage borders of losses and of curves are printed."""
    found = []
    for seed, some in table.groupby("seed"):
        table_of = curves(some)
        kinds = clusters(table_of)
        loss = one[one["seed"] == seed]
        turns = {name: stages(loss["step"].tolist(), loss[name].tolist()) for name in planted.RULES}
        turns["mean of the heads' λ̂"] = stages(table_of.columns.tolist(), table_of.mean().tolist())
        told = "; ".join(f"{name} {', '.join(f'{t:g}' for t in at) or '–'}" for name, at in turns.items())
        print(f"\nseed {seed}: silhouette {kinds.attrs['silhouette']:.2f}; stages begin at {told}")
        found.append(some.assign(cluster=some["part"].map(kinds)))
    return pd.concat(found, ignore_index=True)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, required=True)
    for name, kind, value in (
        ("seeds", int, 3), ("steps", int, 2000), ("checkpoints", int, 9), ("width", int, 64), ("heads", int, 4),
        ("batch", int, 32), ("lr", float, 3e-3), ("batch-size", int, 8), ("draws", int, 60), ("burn-in", int, 20),
    ):  # fmt: skip
        words.add_argument(f"--{name}", type=kind, default=value)
    words.add_argument("--figure", type=Path, help="also draw it here (.svg or .png)")
    asked = words.parse_args()
    torch.set_num_threads(1)
    settings = {name: value for name, value in vars(asked).items() if name not in ("out", "figure", "seeds")}
    claim(asked.out / "settings.json", settings)
    own, pieces = planted.language(), {}
    for seed in range(asked.seeds):
        folders = models(asked, own, seed)
        for step in folders:
            pieces[seed, step] = measured(asked, own, seed, step, folders[step], step == max(folders))
            print(f"seed {seed}: step {step} measured", flush=True)
    one, table = gathered(asked.out, pieces)
    table = together(asked, one, table)
    found = answer(table)
    for name, frame in (("losses", one), ("heads", table), ("answer", found)):
        write(asked.out / f"{name}.csv", frame.to_csv(index=False))
    last = table[table["step"] == table["step"].max()]
    shown = ["seed", "part", "cluster", "value", "mcse", "rhat", *SCORES, "value on copies", "mcse on copies"]
    print(one.round(3).to_string(index=False), last[shown].round(3).to_string(index=False), sep="\n")
    print(found.round(3).to_string(index=False), f"least loss possible: {own.optimum()}", sep="\n")
    if asked.figure:
        from induction_figure import draw

        draw(one, table, asked.figure)


def claim(path: Path, settings: dict[str, Any]) -> None:
    """Remember the settings of a folder; refuse one of others."""
    if path.is_file() and (old := json.loads(path.read_text("utf-8"))) != settings:
        unlike = {name: (old.get(name), value) for name, value in settings.items() if old.get(name) != value}
        raise SystemExit(f"{path.parent} was made with other settings (old, new): {unlike}; give another --out")
    write(path, json.dumps(settings))


if __name__ == "__main__":
    main()
