"""How much of the time of a sweep is left when the unedited prefix of every forward pass is reused.

    python benchmarks/interventions_speed.py MODEL … [--questions 64] [--edits noise freeze skip] [--repeats 3]

MODEL is a hub name or folder, or gpt2-LxD: a random GPT-2 of L layers and width D with a vocabulary of 2048.
Recomputing is the same sweep with reuse=False: every edit runs the whole model on the same batches, with logits of the
same tokens. Processor seconds, the least over repeats, since other work on the machine only adds; numbers of both must
agree to 1e-4 of a nat. An edit from layer k on leaves L − k of L layers to run: layers alone give (L + 1) / 2L.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from influence.interventions import tasks
from influence.interventions.measure import outcomes, plan_of
from influence.interventions.metrics import LOG_P
from influence.interventions.stack import stack
from influence.model.load import load
from influence.types import LM


def opened(name: str) -> LM:
    found = re.fullmatch(r"gpt2-(\d+)x(\d+)", name)
    if not found:
        return load(name, device="cpu")
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, width = int(found[1]), int(found[2])
    sizes = {"n_layer": layers, "n_embd": width, "n_head": max(1, width // 64), "n_positions": 128, "vocab_size": 2048}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load(GPT2LMHeadModel(config).eval())


def questions(lm: LM, n: int, length: int) -> datasets.Dataset:
    rng = np.random.default_rng(0)
    ids = rng.integers(3, min(2000, lm.net.config.vocab_size), (n, length)).tolist()
    masks = [[0] * (length - 2) + [1, 1]] * n
    return datasets.Dataset.from_dict({"input_ids": ids, "loss_mask": masks, "row": list(range(n))})


def seconds(lm: LM, rows: datasets.Dataset, edits: list[str], reuse: bool) -> tuple[float, dict[str, np.ndarray]]:
    own = tasks.task(rows, lm, metrics="log p").questions()
    plan = plan_of(edits, range(lm.n_layers), (0, 1, 2), lm.n_layers)
    with stack(lm) as entered:
        start = time.process_time()
        found = outcomes(lm, entered, own, rows.to_list(), (LOG_P,), plan, mode="paper", batch_size=64, reuse=reuse)
        return time.process_time() - start, {name: found.edited[name]["log p"] for name in edits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--edits", nargs="+", default=["noise", "freeze", "skip"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for name in asked.models:
        lm = opened(name)
        rows = questions(lm, asked.questions, asked.length)
        times: dict[bool, list[float]] = {True: [], False: []}
        worst = 0.0
        seconds(lm, rows.select(range(min(4, len(rows)))), asked.edits, True)  # the first passes are slower
        for _ in range(asked.repeats):
            values = {}
            for reuse in (True, False):
                spent, values[reuse] = seconds(lm, rows, asked.edits, reuse)
                times[reuse].append(spent)
            worst = max(worst, *(float(np.abs(values[True][one] - values[False][one]).max()) for one in asked.edits))
        reused, again = (min(times[reuse]) for reuse in (True, False))
        line = {"model": name, "layers": lm.n_layers, "reused": reused, "recomputed": again, "ratio": reused / again}
        lines.append(line | {"difference": worst})
        told = f"{name}: {lm.n_layers} layers, {reused:.2f} s reused, {again:.2f} s recomputed"
        print(f"{told}, ratio {reused / again:.2f}, largest difference {worst:.1e} nats", flush=True)
        if worst > 1e-4:
            raise SystemExit("the numbers differ")
    if asked.json:
        asked.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
