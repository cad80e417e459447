"""CUDA against the CPU: the same factors and scores, in float64 to rounding, in float32 and bfloat16 as correlations;
local learning coefficients, whose chains have other noise there, within their standard errors.

    python benchmarks/gpu.py [--json PATH]

On a GPT-NeoX of 4 layers and width 256 with random weights. Exits with 1 where float64 differs by more than 1e-8.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import ekfac
import influence


def token_rows(n: int, seed: int, vocab: int = 2048, length: int = 128) -> datasets.Dataset:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, n)
    return datasets.Dataset.from_dict(
        {
            "input_ids": [rng.integers(0, vocab, width).tolist() for width in lengths],
            "loss_mask": [[0] + [1] * (width - 1) for width in lengths],
            "row": list(range(n)),
        }
    )


def scored(net: torch.nn.Module, rows: datasets.Dataset, queries: datasets.Dataset, dtype: str | None) -> np.ndarray:
    lm = influence.load(net)
    factors = influence.fit_ekfac(lm, rows, dtype=dtype, progress=False)
    solver = ekfac.solver(factors, damping=0.1)
    return influence.score(lm, rows, queries, solver, per="block", dtype=dtype, progress=False).values


def coefficient(net: torch.nn.Module, rows: datasets.Dataset) -> tuple[influence.llc.estimate.LLC, float]:
    """λ̂ of the first layer, with seconds."""
    start = time.perf_counter()
    found = influence.llc(
        influence.load(net), rows, where="layer 0", unit="token", step_size=1e-3, n_beta=30.0, gamma=200.0,
        batch_size=8, draws=50, thin=4, burn_in=100, progress=False,
    )  # fmt: skip
    return found, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA device here")
        return 2
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        net = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=2048, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
            )
        )
    rows, queries = token_rows(asked.rows, 1), token_rows(8, 2)
    reference = scored(copy.deepcopy(net).double(), rows, queries, None)
    found = {}
    for name, module, dtype in (
        ("float64", copy.deepcopy(net).double(), None),
        ("float32", copy.deepcopy(net), None),
        ("bfloat16", copy.deepcopy(net), "bfloat16"),
    ):
        start = time.perf_counter()
        got = scored(module.cuda(), rows, queries, dtype)
        torch.cuda.synchronize()
        error = float(np.abs(got - reference).max() / np.abs(reference).max())
        correlation = float(np.corrcoef(got.sum(-1).ravel(), reference.sum(-1).ravel())[0, 1])
        found[name] = {"error": error, "correlation": correlation, "seconds": time.perf_counter() - start}
        print(f"{name:9s} largest error {error:.2e} of the largest score, correlation {correlation:.6f}")
    (here, slow), (there, fast) = (
        coefficient(copy.deepcopy(net).double().to(place), rows) for place in ("cpu", "cuda")
    )
    error = abs(there.start / here.start - 1)
    apart = abs(there.value - here.value) / float(np.hypot(there.mcse, here.mcse))
    found["llc"] = {"error": error, "apart": apart, "seconds": fast, "seconds on the CPU": slow}
    print(
        f"llc       loss at w* differs by {error:.2e}, λ̂ by {apart:.1f} standard errors; {slow:.0f} s and {fast:.0f} s"
    )
    if asked.json:
        asked.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), **found}, indent=1))
    return int(max(found["float64"]["error"], found["llc"]["error"]) > 1e-8 or apart > 4)


if __name__ == "__main__":
    sys.exit(main())
