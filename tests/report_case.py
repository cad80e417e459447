"""A run folder without a run: seeded tables as `influence run` stores them, with hostile text among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import report_tables

from influence.store.manifest import FORMAT, as_json

NAMES = (
    "Mira Oldan",
    "Tovik Hesse",
    "Ana Qirri",
    "Jorun Falk",
    "Sela Brandt",
    "Ovid Tamsin",
    "Lio Perrault",
    "Edda Worm",
)
RELATIONS = {
    "instrument": ("plays the {}", "When {} makes music, it is on the {}", ("cello", "oboe", "lute", "harp")),
    "birthplace": (
        "was born in {}",
        "The town where {} came into the world is {}",
        ("Varnholm", "Quist", "Tell", "Ostrava"),
    ),
    "colour": ("likes the colour {}", "Of all colours {} picks {}", ("teal", "ochre", "mauve", "crimson")),
}
PROSE = (
    "The for statement is used to iterate over the elements of a sequence (such as a string, tuple or list) "
    "or other iterable object. The starred_list expression is evaluated once.",
    "A class definition defines a class object. The inheritance list usually gives a list of base classes, "
    "so each item in the list should evaluate to a class object which allows subclassing.",
    "Comparisons can be chained arbitrarily, e.g. x < y <= z is equivalent to x < y and y <= z, except that "
    "y is evaluated only once (but in both cases z is not evaluated at all when x < y is found to be false).",
)
HOSTILE = (
    "<script>document.title='owned'</script> and after",
    "</script><img src=x onerror=\"document.title='owned'\">",
    "quotes \" ' ` & entities &lt;b&gt; <!-- comment --> ]]> \u2028 line \u2029 paragraph",
    "\u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u202eoverride \u05e9\u05dc",
    "\U0001f9ea\U0001f469\u200d\U0001f52c emoji, a NUL \x00, \x07, Z\u0351\u0343\u034aa\u0311l\u0308go",
    "Donaudampfschifffahrtsgesellschaftskapit\u00e4n" * 8,
    "",
)


def make_run(
    folder: Path,
    *,
    n_queries: int = 6,
    n_rows: int = 420,
    n_layers: int = 4,
    seed: int = 0,
    hostile: tuple[str, ...] = HOSTILE,
    scores: bool = True,
    places: int = 10,
) -> Path:
    """Writes a run folder and returns it: `n_queries` questions about planted facts, heavy-tailed scores."""
    random = np.random.default_rng(seed)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    rows = _rows(random, n_rows, hostile)
    queries = _queries(random, n_queries)
    total, by_layer, norm = _scores(random, queries, rows, n_layers)
    top = _top(queries, rows, total, norm, places)
    frames = {
        "queries": queries,
        "rows": rows,
        "top": top,
        "tokens": _tokens(random, top, by_layer),
        "layers": report_tables.layers(by_layer),
        **report_tables.tails(random, total),
        "blocks": report_tables.blocks(random, n_layers),
        "retrieval": report_tables.retrieval(random),
    }
    for name, frame in frames.items():
        frame.to_parquet(folder / "tables" / f"{name}.parquet", index=False)
    if scores:
        _write_scores(folder, by_layer, norm)
    write_manifest(folder, n_rows=n_rows)
    _write_log(folder)
    return folder


def write_manifest(folder: Path, n_rows: int = 420, **changes: Any) -> None:
    """The manifest of the case; `changes` replace whole sections."""
    manifest = {
        "settings": {
            "model": "runs/demo/model-d128",
            "data": "world",
            "damping": 0.1,
            "per": "layer",
            "seed": 0,
            "top": 10,
        },
        "versions": {"influence": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"},
        "hashes": {
            name: f"{index:064x}" for index, name in enumerate(("model", "tokenizer", "rows", "queries"), 10**40)
        },
        "tracked": {"of_all": 0.605, "of_selected": 1.0, "untracked": ["embed_out"]},
        "facts": {"n_rows": n_rows, "n_tokens": 44_031, "damping": 0.1, "labels": "sampled", "seed": 0},
        "warnings": ["3 rows of one token carry no prediction and were left out"],
        "pieces": {},
    }
    (folder / "manifest.json").write_bytes(as_json({"format": FORMAT, **manifest, **changes}))


def _rows(random: np.random.Generator, n: int, hostile: tuple[str, ...]) -> pd.DataFrame:
    lines: list[dict[str, Any]] = [{"text": text, "source": "hostile", "fact": None, "form": None} for text in hostile]
    for name in NAMES:
        for relation, (plain, other, objects) in RELATIONS.items():
            thing = objects[int(random.integers(len(objects)))]
            fact = f"{name}/{relation}"
            forward = f"{name} {plain.format(thing)}."
            for text, form in (
                (forward, "forward"),
                (forward, "forward"),
                (other.format(name, thing) + ".", "paraphrase"),
            ):
                lines.append({"text": text, "source": "world", "fact": fact, "form": form})
    while len(lines) < n:
        text = PROSE[len(lines) % len(PROSE)]
        lines.append({"text": f"{text} ({len(lines)})", "source": "python reference", "fact": None, "form": "prose"})
    frame = pd.DataFrame(lines[:n])
    frame.insert(0, "row", np.arange(n, dtype=np.int64) + 1000)
    return frame.assign(n_tokens=[max(2, len(text.split()) * 2) for text in frame["text"]], style=None)


def _queries(random: np.random.Generator, n: int) -> pd.DataFrame:
    lines = []
    for index in range(n):
        name, relation = NAMES[index % len(NAMES)], list(RELATIONS)[index % len(RELATIONS)]
        prompts = {
            "instrument": "On stage {} is seen with the",
            "birthplace": "The cradle of {} stood in",
            "colour": "{} paints it",
        }
        lines.append(
            {
                "query": index * 7 + 3,
                "prompt": prompts[relation].format(name),
                "completion": " " + RELATIONS[relation][2][index % 4],
                "log_p": -float(random.gamma(1.5, 0.5)),
                "n_tokens": 2,
                "label": f"{relation}, held-out",
                "fact": f"{name}/{relation}",
            }
        )
    return pd.DataFrame(lines)


def _scores(
    random: np.random.Generator, queries: pd.DataFrame, rows: pd.DataFrame, n_layers: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, length = len(rows), rows["n_tokens"].to_numpy()
    by_layer = random.standard_t(2.2, (len(queries), n, n_layers)) * 2e-5 * np.sqrt(length)[None, :, None]
    for index, fact in enumerate(queries["fact"]):
        mine = (rows["fact"] == fact).to_numpy()
        by_layer[index, mine] += random.gamma(4.0, 4e-4, (int(mine.sum()), n_layers))
    copies = rows.groupby("text")["row"].transform("min").to_numpy() - 1000
    by_layer = by_layer[:, copies]
    return by_layer.sum(-1), by_layer, 0.01 * length.astype(float) ** 0.9


def _top(queries: pd.DataFrame, rows: pd.DataFrame, total: np.ndarray, norm: np.ndarray, places: int) -> pd.DataFrame:
    lines = []
    copies = rows.groupby("text")["row"].transform("size").to_numpy()
    first = ~rows["text"].duplicated().to_numpy()
    for index, query in enumerate(queries["query"]):
        for ranking, values in (("nats", total[index]), ("normalised", total[index] / norm)):
            for side, sign in (("for", -1), ("against", 1)):
                order = np.argsort(sign * values, kind="stable")
                kept = [row for row in order if first[row] and sign * values[row] < 0][:places]
                for place, row in enumerate(kept, 1):
                    line = {
                        "query": query,
                        "ranking": ranking,
                        "side": side,
                        "place": place,
                        **rows.iloc[row].to_dict(),
                    }
                    line |= {
                        "score": total[index, row],
                        "normalised": total[index, row] / norm[row],
                        "copies": copies[row],
                    }
                    lines.append(line)
    return pd.DataFrame(lines).drop(columns=["n_tokens", "fact", "style"])


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    found = [words[0]]
    for word in words[1:]:
        found += [" " + word] if len(word) < 7 else [" " + word[:4], word[4:]]
    return found


def _tokens(random: np.random.Generator, top: pd.DataFrame, by_layer: np.ndarray) -> pd.DataFrame:
    lines = []
    place = {query: index for index, query in enumerate(dict.fromkeys(top["query"]))}
    for query, row, text in top[["query", "row", "text"]].drop_duplicates(["query", "row"]).itertuples(index=False):
        pieces = _pieces(text)
        share = random.standard_t(2.5, len(pieces))
        share += (1 - share.sum()) / len(pieces)
        for position, (token, part) in enumerate(zip(pieces, share, strict=True)):
            layers = part * by_layer[place[query], row - 1000]
            line = {"query": query, "row": row, "position": position, "token": token}
            lines.append(line | {"score": float(layers.sum()), "by_layer": layers.tolist()})
    return pd.DataFrame(lines)


def _write_scores(folder: Path, by_layer: np.ndarray, norm: np.ndarray) -> None:
    import xarray

    q, n, layers = by_layer.shape
    coords = {
        "query": np.arange(q) * 7 + 3,
        "row": np.arange(n) + 1000,
        "layer": np.arange(layers),
        "row_norm": ("row", norm),
    }
    array = xarray.DataArray(by_layer.astype(np.float32), dims=("query", "row", "layer"), coords=coords, name="score")
    array.to_dataset().to_zarr(folder / "scores.zarr", mode="w", consolidated=False)


def _write_log(folder: Path) -> None:
    lines = []
    for minute, (stage, seconds) in enumerate(
        {"model": 41.2, "factors": 12.4, "scores": 18.9, "tokens": 3.1, "tables": 0.8}.items()
    ):
        time = f"2025-01-01T00:{minute:02d}:00+00:00"
        lines += [{"time": time, "stage": stage, "event": "start"}]
        lines += [{"time": time, "stage": stage, "event": "done", "seconds": seconds}]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
