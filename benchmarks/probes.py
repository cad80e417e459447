"""How much faster is one batched solve than scikit-learn problem by problem, and is any of its losses higher?

    python benchmarks/probes.py [--layers 12] [--data realistic] [--raw] [--slow 8] [--device cuda]
    python benchmarks/probes.py --leak [cities.jsonl.gz]

12 layers x 768 columns x 4,000 statements, 70 % of them for training; 5 strengths x 4 sets of labels (the task, which
deeper layers tell better; shuffled; drawn once per word type; shuffled again). "realistic" activations have a spectrum
that falls as a power, a common mean and a few huge columns, as residual streams do; "gaussian" ones are independent.
Columns are standardised unless --raw: for scikit-learn beforehand and not timed, for ours inside its time.

scikit-learn runs with its defaults (lbfgs, tol 1e-4, at most 100 iterations), on float64 and on float32 input, on every
problem; its other solvers, and lbfgs until it is as good as ours, on every SLOWth problem, times SLOW. Times are CPU
seconds (so that other work on the machine counts little) and seconds by the clock; ours the median of three.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from influence.data.statements import statements
from influence.probing.controls import tfidf
from influence.probing.metrics import accuracy, auc
from influence.probing.solve import STRENGTHS, logistic
from influence.probing.splits import splits, twins

NOISE = 1e-10  # nats per statement: differences of losses below this are none
SOLVERS: dict[str, dict[str, Any]] = {
    "lbfgs until as good": {"tol": 1e-8, "max_iter": 20_000},
    "newton-cholesky": {"solver": "newton-cholesky"},
    "newton-cg": {"solver": "newton-cg"},
    "liblinear": {"solver": "liblinear"},
}


def activations(kind: str, layers: int, n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """(l n d) float32, and the labels (n) that deeper layers tell better."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    found = np.empty((layers, n, d), np.float32)
    for layer in range(layers):
        told = 3.0 * layer / max(layers - 1, 1)  # distance of the classes along one direction, in its spread
        z = rng.normal(size=(n, d))
        if kind == "gaussian":
            z[:, 0] += told * (y - 0.5)
            found[layer] = z @ np.linalg.qr(rng.normal(size=(d, d)))[0]
            continue
        z[:, 20] += told * (y - 0.5)
        z *= 8 * (1 + np.arange(d)) ** -0.8
        x = z @ np.linalg.qr(rng.normal(size=(d, d)))[0] + 0.05 * rng.normal(size=(n, d)) + rng.normal(size=d)
        huge = rng.choice(d, 4, replace=False)
        x[:, huge] = 10 * x[:, huge] + 60 * rng.choice([-1, 1], 4)
        found[layer] = x
    return torch.from_numpy(found), y


def label_sets(y: np.ndarray, seed: int = 0) -> np.ndarray:
    """(4 n): the task, shuffled, drawn once per word type, shuffled again."""
    rng = np.random.default_rng([seed, 9])
    types, drawn = rng.integers(0, 300, len(y)), rng.integers(0, 2, 300)
    return np.stack([y, rng.permutation(y), drawn[types], rng.permutation(y)])


def timed(run: Callable[[], Any]) -> tuple[Any, np.ndarray]:
    """The result, and CPU and clock seconds."""
    start = time.process_time(), time.perf_counter()
    made = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return made, np.array([time.process_time() - start[0], time.perf_counter() - start[1]])


def one_by_one(x: np.ndarray, y: np.ndarray, strengths: tuple[float, ...]) -> Iterator[tuple[int, int, int]]:
    yield from np.ndindex(len(x), len(y), len(strengths))  # type: ignore[misc]


def sklearn(x: np.ndarray, y: np.ndarray, strengths: tuple[float, ...], every: int, **how: Any) -> dict[str, Any]:
    """Seconds for all problems, and the objective in float64 at each that was run, NaN elsewhere."""
    losses, spent, steps = np.full((len(x), len(y), len(strengths)), np.nan), np.zeros(2), []
    for number, at in enumerate(one_by_one(x, y, strengths)):
        if number % every:
            continue
        layer, problem, place = at
        model = LogisticRegression(C=strengths[place], **how)
        fitted, seconds = timed(lambda m=model, i=layer, p=problem: m.fit(x[i], y[p]))  # type: ignore[misc]
        spent += seconds
        steps.append(int(np.max(fitted.n_iter_)))
        z = x[layer].astype(float) @ fitted.coef_[0].astype(float) + float(fitted.intercept_[0])
        penalty = 0.5 * float((fitted.coef_.astype(float) ** 2).sum()) / (strengths[place] * len(z))
        losses[at] = np.mean(np.logaddexp(0, z) - y[problem] * z) + penalty
    run = losses.size / np.isfinite(losses).sum()
    return {"seconds": spent * run, "losses": losses, "steps": float(np.mean(steps))}


def line(name: str, found: dict[str, Any], ours: np.ndarray, best: np.ndarray, every: int) -> None:
    """One row: seconds, how many times ours, and how the losses compare."""
    over = found["losses"] - best
    over = over[np.isfinite(over)]
    cpu, clock = found["seconds"]
    above = f"theirs - ours from {over.min():+.1e} to {over.max():.1e}"
    verdict = "ours never above" if over.min() > -NOISE else f"OURS ABOVE in {int((over < -NOISE).sum())}"
    part = f", from every {every}th problem" if every > 1 else ""
    print(
        f"  {name:26} {cpu:8.2f} s CPU {clock:8.2f} s clock {cpu / ours[0]:6.1f} x {clock / ours[1]:6.1f} x  "
        f"{found['steps']:6.0f} steps  {above}: {verdict}{part}",
        flush=True,
    )


def compare(kind: str, asked: argparse.Namespace) -> None:
    x, task = activations(kind, asked.layers, asked.statements, asked.columns)
    y, strengths = label_sets(task), tuple(asked.strengths)
    train = np.arange(asked.statements) < round(asked.train * asked.statements)
    place = x.to(asked.device)
    how = {"standardize": not asked.raw, "device": asked.device}
    logistic(place[:1], y, train, strengths, **how)
    runs = [timed(lambda: logistic(place, y, train, strengths, **how)) for _ in range(3)]
    probes, ours = runs[0][0], np.median([seconds for _, seconds in runs], 0)
    scaled = x[:, train].double()
    if not asked.raw:
        scaled = (scaled - scaled.mean(1, keepdim=True)) / scaled.std(1, correction=0, keepdim=True)
    best = probes.loss[:, :, 0].numpy()
    print(
        f"{kind}, {'raw' if asked.raw else 'standardised'}: {asked.layers} layers x {asked.columns} columns x "
        f"{int(train.sum())} training statements, {len(y)} label sets x {len(strengths)} strengths "
        f"{strengths}, {asked.threads} thread(s)\n"
        f"  {'batched, on ' + asked.device:26} {ours[0]:8.2f} s CPU {ours[1]:8.2f} s clock {'':17}"
        f"{int(probes.steps.max()):6} steps at most  gap at most {float(probes.gap.max()):.1e}; "
        f"{int(probes.converged.sum())} of {probes.converged.numel()} converged",
        flush=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        for dtype in (np.float64, np.float32):
            data = scaled.numpy().astype(dtype)
            name = f"lbfgs, {np.dtype(dtype).name}"
            line(name, sklearn(data, y[:, train], strengths, asked.every), ours, best, asked.every)
        for name, options in SOLVERS.items() if asked.slow else ():
            found = sklearn(scaled.numpy(), y[:, train], strengths, asked.slow, **options)
            line(name, found, ours, best, asked.slow)


def leak(source: str | None) -> None:
    """What a bag of words scores on statements that come in twins, with and without groups."""
    if source:
        rows = statements(source, text="statement", group="city")
        texts, y, group = list(rows["text"]), np.asarray(rows["label"]), list(rows["group"])
    else:
        rng = np.random.default_rng(0)
        places = np.array(["France", "China", "Chile", "Norway", "Kenya", "Japan", "Peru", "Italy"])
        chosen = [rng.choice(places, 2, replace=False) for _ in range(600)]
        texts = [f"The city of Town{i} is in {one}." for i, pair in enumerate(chosen) for one in pair]
        y, group = np.tile([1, 0], 600), list(np.repeat(np.arange(600), 2))
    print(f"{len(texts)} statements from {Path(source).name if source else 'a generator'}, chance = 0.5")
    for name, split in {"random": splits(y, seeds=5), "grouped": splits(y, group, seeds=5)}.items():
        logits, test = tfidf(texts, y, split == 0, strengths=(1.0,)), split[:, None] == 2
        found = twins(texts, y, split)
        print(
            f"  bag of words, {name:8} split: accuracy {float(accuracy(logits, y, test).mean()):.2f}, AUC "
            f"{float(auc(logits, y, test).mean()):.2f}; {found.straddling} statements have a twin in training"
        )


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--layers", type=int, default=12)
    words.add_argument("--columns", type=int, default=768)
    words.add_argument("--statements", type=int, default=4000)
    words.add_argument("--train", type=float, default=0.7, help="share of the statements that is trained on")
    words.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="values of C")
    words.add_argument("--data", choices=["realistic", "gaussian", "both"], default="both")
    words.add_argument("--raw", action="store_true", help="do not standardise")
    words.add_argument("--every", type=int, default=1, help="run scikit-learn's defaults on every nth problem only")
    words.add_argument("--slow", type=int, default=8, help="run its other solvers on every nth problem, 0 for none")
    words.add_argument("--threads", type=int, default=1, help="of torch; set OMP_NUM_THREADS for scikit-learn")
    words.add_argument("--device", default="cpu", help="where ours runs; scikit-learn is on the CPU always")
    words.add_argument("--leak", nargs="?", const="", help="only show what twins do to a bag of words")
    asked = words.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.leak is not None:
        leak(asked.leak or None)
        return
    for kind in ("realistic", "gaussian") if asked.data == "both" else (asked.data,):
        compare(kind, asked)


if __name__ == "__main__":
    main()
