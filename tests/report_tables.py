"""The synthetic run's derived tables, as `influence run` stores them."""

from __future__ import annotations

import numpy as np
import pandas as pd


def layers(by_layer: np.ndarray) -> pd.DataFrame:
    lines = []
    for index in range(len(by_layer)):
        absolute = np.abs(by_layer[index]).sum(0)
        for layer in range(by_layer.shape[2]):
            values = by_layer[index, :, layer]
            line = {
                "query": index * 7 + 3,
                "layer": layer,
                "signed": values.sum(),
                "absolute": absolute[layer],
            }
            line |= {"positive": values[values > 0].sum(), "negative": values[values < 0].sum()}
            lines.append(line | {"share": absolute[layer] / absolute.sum()})
    return pd.DataFrame(lines)


def tails(random: np.random.Generator, total: np.ndarray) -> dict[str, pd.DataFrame]:
    tails, points = [], []
    for index, values in enumerate(total):
        query = index * 7 + 3
        positive = np.sort(values[values > 0])[::-1]
        survival = np.arange(1, len(positive) + 1) / len(positive)
        points += [
            {"query": query, "score": s, "survival": p} for s, p in zip(positive[:300], survival[:300], strict=True)
        ]
        common = {
            "top1_share": positive[: max(1, len(values) // 100)].sum() / positive.sum(),
            "largest": positive[0],
        }
        common |= {
            "rows_for_half": int((positive.cumsum() < positive.sum() / 2).sum()) + 1,
            "n_positive": len(positive),
        }
        common |= {"effective_count": positive.sum() ** 2 / (positive**2).sum()}
        for rule, size in (("ks", len(positive) // 3), ("top500", len(positive) * 2 // 3)):
            start = positive[size - 1]
            alpha = 1 + size / np.log(positive[:size] / start).sum()
            fit = {
                "xmin": start,
                "n_tail": size,
                "alpha_density": alpha,
                "alpha_survival": alpha - 1,
                "p_value": random.uniform(),
            }
            fit |= {"low": alpha - 0.3, "high": alpha + 0.3, "verdict": "power law plausible"}
            if index == 2 and rule == "ks":
                fit = dict.fromkeys(fit, float("nan")) | {
                    "n_tail": 0,
                    "verdict": "not fitted: fewer than 50 rows in the tail",
                }
            tails.append({"query": query, "rule": rule, **fit, **common})
    return {"tails": pd.DataFrame(tails), "tail_points": pd.DataFrame(points)}


def blocks(random: np.random.Generator, n_layers: int, width: int = 128) -> pd.DataFrame:
    shapes = {"attn_qkv": (3, 1), "attn_out": (1, 1), "mlp_in": (4, 1), "mlp_out": (1, 4)}
    names = {
        "attn_qkv": "attention.query_key_value",
        "attn_out": "attention.dense",
        "mlp_in": "mlp.dense_h_to_4h",
    }
    lines = []
    for layer in range(n_layers):
        for kind, (o, i) in shapes.items():
            mean = float(random.gamma(2, 1e-4))
            line = {
                "block": f"gpt_neox.layers.{layer}.{names.get(kind, 'mlp.dense_4h_to_h')}",
                "layer": layer,
                "kind": kind,
            }
            line |= {
                "d_out": o * width,
                "d_in": i * width,
                "bias": True,
                "parameters": o * width * (i * width + 1),
            }
            lines.append(line | {"mean_eigenvalue": mean, "damping": 0.1 * mean})
    return pd.DataFrame(lines)


def retrieval(random: np.random.Generator) -> pd.DataFrame:
    base = {"EK-FAC, normalised": 0.84, "EK-FAC, nats": 0.70, "gradient cosine": 0.54, "gradient dot": 0.09}
    base |= {"BM25": 0.1, "TF-IDF": 0.15, "hidden-state cosine": 0.11, "random": 0.02}
    lines = []
    for size, parameters, factor in (("d32", 92_000, 0.6), ("d128", 1_330_000, 1.0)):
        for method, mrr in base.items():
            value = min(0.98, mrr * factor * float(random.uniform(0.9, 1.1)))
            line = {"size": size, "parameters": parameters, "method": method, "mrr": value, "n_queries": 40}
            lines.append(line | {"low": max(0, value - 0.09), "high": min(1, value + 0.09), "p_at_5": value * 0.8})
    return pd.DataFrame(lines)
