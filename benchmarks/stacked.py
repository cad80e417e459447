"""How much faster is training many small models at once than one by one?

    python benchmarks/stacked.py [--models 120] [--epochs 20] [--only MLP]

On one thread: (a) GPT-NeoX style, 2 layers, width 32, 500 tokens, 512 of 1,024 rows of 32 tokens, 16 a batch;
(b) an MLP 64-128-10 on half of scikit-learn's digits, 32 a batch. Times are CPU seconds, the best of
several epochs, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

import influence
from influence.model.batches import batches
from influence.model.capture import forward
from influence.model.loss import log_p
from influence.model.sizes import neox
from influence.truth.stacked import train_stacked
from influence.truth.template import drawn, template


def language(low: int) -> tuple[Any, Dataset, int, dict[str, Any]]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(low, 33, 1024)
    rows = {"input_ids": [rng.integers(0, 500, length).tolist() for length in lengths]}
    rows |= {"loss_mask": [[0] + [1] * (length - 1) for length in lengths], "row": list(range(1024))}
    return neox("d32", 500, context=64), Dataset.from_dict(rows), 16, {"lr": 3e-3, "window": 1 if low == 32 else 8}


def digits() -> tuple[Any, Dataset, int, dict[str, Any]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    inputs = torch.tensor(found.data / 16, dtype=torch.float32)
    net = influence.Supervised(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), inputs)
    return net, influence.examples(found.target), 32, {"lr": 3e-3, "window": 1}


def one_by_one(source: Any, rows: Dataset, size: int, lr: float) -> Callable[[], None]:
    """An epoch of one model by torch.optim over ready batches."""
    net = template(source, torch.float32, "cpu").train()
    net.load_state_dict(drawn(source, net, 0), strict=False)
    net.requires_grad_(True)
    order = np.random.default_rng(0).permutation(len(rows))
    ready = [next(batches(rows.select(order[k : k + size]), size))[1] for k in range(0, len(rows), size)]
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, fused=True)

    def epoch() -> None:
        for batch in ready:
            loss = -log_p(forward(net, batch.input_ids), batch).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()

    return epoch


def best(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--models", type=int, default=120)
    words.add_argument("--epochs", type=int, default=20)
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--only", default="", help="cases whose name holds this")
    asked = words.parse_args()
    torch.set_num_threads(1)
    cases = {"NeoX d32, 32 tokens": language(32), "NeoX d32, 6-32 tokens": language(6), "MLP 64-128-10": digits()}
    for name, (source, rows, size, options) in ((k, v) for k, v in cases.items() if asked.only in k):
        half = len(rows) // 2
        run = one_by_one(source, rows.select(range(half)), size, options["lr"])
        run()
        alone = best(run, 2 * asked.repeats)
        print(f"{name}: one by one {alone:.3f} s an epoch; {asked.models} x {asked.epochs} epochs: "
              f"{alone * asked.models * asked.epochs:.0f} s", flush=True)  # fmt: skip
        for m in (4, 16, 64) if "MLP" in name else (4, 8, 16, 32):
            kept = influence.subsets(len(rows), m)
            settings = {"batch_size": size, "at_once": m, "progress": False, **options}

            def stack(epochs: int, kept: Any = kept, settings: Any = settings, data: Any = (source, rows)) -> None:
                train_stacked(*data, kept, range(len(kept)), epochs=epochs, **settings)

            stack(1)
            each = (best(lambda: stack(2), asked.repeats) - best(lambda: stack(1), asked.repeats)) / m  # noqa: B023
            print(f"  {m:3} at once: {each:.3f} s a model and epoch, {alone / each:.2f} times as fast; "
                  f"all: {each * asked.models * asked.epochs:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
