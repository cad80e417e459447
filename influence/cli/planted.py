"""The demo: a world of facts with known provenance, models of several sizes, and how well their rows are found."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import job, show, stages
from influence.cli.demo_study import demo_study
from influence.cli.result import Result
from influence.cli.stages import Work
from influence.store import open_run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from influence.cli.studied import Studied
    from influence.data.world import World
    from influence.model.train import Trained
    from influence.types import LM, Rows, Scores

PLACE = "tables/retrieval.parquet"
BATCH = 64
log = logging.getLogger("influence")


@dataclass(frozen=True)
class Demo:
    """The run of the largest size, with the retrieval of every size in its tables; recall after removal if asked."""

    result: Result
    removal: pd.DataFrame | None = None
    study: Studied | None = None

    def __str__(self) -> str:
        table, ending = show.table(*self.summary()), str(self.result).partition("\ntracked")[2]
        if self.removal is not None:
            table += f"\n\n{show.table(*self.forgotten())}\n\nrecall of the facts asked for, mean over seeds, after"
            table += " retraining without the rows of each method"
        what = "mean reciprocal rank of the rows that state the fact asked for; intervals over queries, the lead paired"
        said = "" if self.study is None else f"\n\n{self.study}"
        return f"{table}\n\n{what}\ntracked{ending}{said}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"{self.result.table('retrieval').to_html(index=False)}{self.result._repr_html_()}"

    def forgotten(self) -> tuple[list[str], list[list[str]]]:
        """Mean recall after each removal, one line per method."""
        assert self.removal is not None
        names = ("removed", "canonical", "held_out", "others")
        means = self.removal.groupby("method", sort=False)[list(names)].mean()
        rows = [[method, f"{m.removed:.0f}", *(f"{m[n]:.2f}" for n in names[1:])] for method, m in means.iterrows()]
        return ["rows removed by", "rows", "trained phrasing", "held-out phrasing", "other facts"], rows

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """One line per method, one column per size."""
        frame = self.result.table("retrieval")
        sizes = frame.sort_values("parameters")["size"].drop_duplicates().tolist()
        wide = frame.pivot(index="method", columns="size", values="mrr")[sizes].sort_values(sizes[-1], ascending=False)
        last = frame[frame["size"] == sizes[-1]].set_index("method")
        rows = [
            [
                method,
                *(f"{value:.2f}" for value in line),
                f"{last.low[method]:.2f} – {last.high[method]:.2f}",
                f"{last.lead_low[method]:.2f} – {last.lead_high[method]:.2f}" if last.lead[method] else "",
            ]
            for method, line in zip(wide.index, wide.values, strict=True)
        ]
        return ["method", *sizes, f"95 % at {sizes[-1]}", "EK-FAC, normalised, leads by"], rows


def demo(
    out: str | Path = "runs/demo",
    *,
    sizes: Sequence[str] = ("d32", "d96", "d128"),
    seed: int = 0,
    queries: int = 60,
    tokens: int | None = None,
    removal: bool = False,
    study: bool = True,
    progress: bool = True,
) -> Demo:
    """Train models of `sizes` on the embedded world of `seed`, run the main job on each, score retrieval.

    `tokens` are seen in training, by default as many as the trainer sees. With `removal` the largest model is also
    retrained without the rows that were found (`influence.truth.removal`). With `study` the sizes are compared on a
    few concepts (`influence.study`). Everything is kept under `out`: `world/`, `models/SIZE`, `removal/`, `study/`,
    and a run for each size. Raises ValueError for an unknown size, for fewer than one
    query, and where a model learned no fact; else what training and `influence.run` raise.
    """
    from influence.data.world import world

    if queries < 1 or not sizes:
        raise ValueError(f"got {queries=} and {sizes=}; ask for at least one query and one size")
    root, drawn = Path(out), world(seed)
    corpus = _keep(root / "world" / "corpus.jsonl", [dict(one) for one in drawn.documents])
    options = {"seed": seed, **({} if tokens is None else {"tokens": tokens})}
    models = _train(root, drawn, sizes, options, progress)
    tables: list[pd.DataFrame] = []
    for size, model in zip(sizes, models, strict=True):
        asked = _learned(model, drawn, queries, seed)
        named = _keep(root / "world" / f"queries-{size}.jsonl", asked)
        log.info("%s: %d learned facts asked for", size, len(asked))
        job.run(
            str(model.final),
            data=str(corpus),
            queries=str(named),
            out=root / size,
            pack=False,
            seed=seed,
            batch_size=BATCH,
            report=False,
            progress=progress,
        )
        tables.append(_found(root / size, drawn, model, size, seed, progress))
    with open_run(root / sizes[-1], None) as opened:
        work = Work(opened, progress, {})
        _save(work, tables)
        page = stages.report(work)
    result = Result(opened.root, page, f"influence score {root / sizes[-1]} --queries QUERIES --out OTHER")
    gone = _without(root, sizes[-1], queries, seed, options, progress) if removal else None
    return Demo(result, gone, demo_study(root, sizes, seed, progress) if study else None)


def _without(root: Path, size: str, queries: int, seed: int, options: dict[str, Any], progress: bool) -> pd.DataFrame:
    """Recall after retraining without the rows found, five seeds, kept as a table beside the trainings."""
    from influence.truth.removal import removal

    own = {name: value for name, value in options.items() if name != "seed"}
    found = removal(root / "removal", size=size, queries=queries, world_seed=seed, options=own, progress=progress)
    found.to_parquet(root / "removal" / "removal.parquet", index=False)
    return found


def _train(root: Path, drawn: World, sizes: Sequence[str], options: dict[str, Any], progress: bool) -> list[Trained]:
    from influence.data.tokenizer import world_tokenizer
    from influence.data.world import world_rows
    from influence.model.sizes import SIZES, neox
    from influence.model.together import Job, train_together

    folder = root / "models" / "tokenizer"
    tokenizer = world_tokenizer(drawn, folder)
    jobs = [
        Job(root / "models" / size, neox(size, len(tokenizer)), {**options, **SIZES[size].options}) for size in sizes
    ]
    log.info("training %s on %d rows", ", ".join(sizes), len(drawn.documents))
    # the longest first, so that the two processes end at about the same time
    trained = train_together(jobs[::-1], world_rows(drawn, tokenizer), folder, progress=progress)
    return trained[::-1]


def _learned(model: Trained, drawn: World, most: int, seed: int) -> list[dict[str, Any]]:
    """Questions in the held-out phrasing that the model answers, at most so many, drawn by the seed."""
    import numpy as np

    from influence.data.world import world_queries
    from influence.model.load import load
    from influence.model.recall import recall

    lm = load(model.final)
    questions = world_queries(drawn, lm)
    known = np.flatnonzero(recall(lm, questions))
    if not len(known):
        raise ValueError(f"the model in {model.final} answers no question in a held-out phrasing; train a larger one")
    chosen = np.sort(np.random.default_rng(seed).permutation(known)[:most])
    names = ("row", "prompt", "completion", "label", "fact", "relation", "relevant")
    return [{name: one[name] for name in names} for one in questions.select(chosen).to_list()]


def _found(folder: Path, drawn: World, model: Trained, size: str, seed: int, progress: bool) -> pd.DataFrame:
    """Retrieval of one size by every method, a piece of its run."""
    import pandas

    with open_run(folder, None) as opened:
        work = Work(opened, progress, {})
        path = opened.piece(f"tables/retrieval-{size}.parquet")
        if path is not None:
            return pandas.read_parquet(path)
        with stages.stage(work, "baselines"):
            frame = _compared(opened.root, model, size, seed, progress)
            opened.write(f"tables/retrieval-{size}.parquet", lambda temporary: frame.to_parquet(temporary, index=False))
    return frame


def _compared(folder: Path, model: Trained, size: str, seed: int, progress: bool) -> pd.DataFrame:
    import pandas

    from influence.analysis.retrieval import retrieval, retrieval_by_query, retrieval_difference
    from influence.cli.parts import from_zarr
    from influence.data.corpus import corpus
    from influence.data.queries import queries
    from influence.model.load import load
    from influence.store import read_manifest

    asked = read_manifest(folder)["settings"]
    lm = load(model.final)
    rows, wanted = corpus(asked["data"], lm, length=asked["length"], pack=False), queries(asked["queries"], lm)
    relevant = _relevant(wanted, rows)
    lines, first = [], None
    for method, (scores, ranking) in _methods(
        lm, rows, wanted, from_zarr(folder / stages.SCORES), seed, progress
    ).items():
        each = retrieval_by_query(scores, relevant, rows=rows, ranking=ranking)
        first = each if first is None else first
        lead = retrieval_difference(first, each, seed=seed).set_index("metric").loc["mrr"]
        line = retrieval(scores, relevant, rows=rows, ranking=ranking, method=method, seed=seed)
        lines.append(line.assign(lead=lead["difference"], lead_low=lead["low"], lead_high=lead["high"]))
    parameters = sum(p.numel() for p in lm.net.parameters())
    return pandas.concat(lines, ignore_index=True).assign(size=size, parameters=parameters)


def _methods(
    lm: LM, rows: Rows, queries: Rows, scores: Scores, seed: int, progress: bool
) -> dict[str, tuple[Scores, str]]:
    """Scores and ranking by name of the method; the gradients' own products are EK-FAC with Λ = 1."""
    import ekfac
    from influence.attribution.score import score
    from influence.truth import baselines

    plain = ekfac.solver(ekfac.identity({block.name: block.shape for block in lm.blocks}), damping=0.0)
    products = score(lm, rows, queries, plain, per="sequence", row_norm=True, batch_size=BATCH, progress=progress)
    return {
        "EK-FAC, normalised": (scores, "normalised"),
        "EK-FAC, nats": (scores, "nats"),
        "gradient cosine": (products, "normalised"),
        "gradient dot": (products, "nats"),
        "BM25": (baselines.bm25(rows, queries), "nats"),
        "TF-IDF": (baselines.tfidf(rows, queries), "nats"),
        "hidden-state cosine": (baselines.hidden_cosine(lm, rows, queries), "nats"),
        "random": (baselines.random_scores(rows, queries, seed=seed), "nats"),
    }


def _relevant(queries: Rows, rows: Rows) -> np.ndarray:
    """(query, row) True where the row states the fact that the query asks for."""
    import numpy as np

    row = np.asarray(rows["row"])
    return np.stack([np.isin(row, wanted) for wanted in queries["relevant"]])


def _save(work: Work, tables: list[pd.DataFrame]) -> None:
    import pandas

    frame = pandas.concat(tables, ignore_index=True)
    path = work.run.piece(PLACE)
    if path is None or not pandas.read_parquet(path).equals(frame):
        work.run.write(PLACE, lambda temporary: frame.to_parquet(temporary, index=False))
        work.fresh.append(PLACE)


def _keep(path: Path, lines: list[dict[str, Any]]) -> Path:
    """Lines of JSON in a file, whole or not at all."""
    from influence.store import disk
    from influence.store.errors import writing

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return path
