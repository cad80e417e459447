"""Reads a run folder as it lies on disk: manifest, log, tables, and the scores where they are few enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.store import read_log, read_manifest
from influence.store.disk import measure

if TYPE_CHECKING:
    import numpy
    import pandas

# what each table must hold; tables not in REQUIRED may be missing
COLUMNS = {
    "queries": ("query", "prompt", "completion", "log_p", "n_tokens"),
    "top": ("query", "ranking", "side", "place", "row", "score", "normalised", "text", "copies"),
    "rows": ("row",),
    "tokens": ("query", "row", "position", "token", "score"),
    "layers": ("query", "layer", "signed", "positive", "negative", "absolute"),
    "tails": ("query", "rule", "alpha_density", "alpha_survival", "verdict", "top1_share"),
    "tail_points": ("query", "score", "survival"),
    "blocks": ("block", "layer", "kind", "d_out", "d_in"),
    "retrieval": ("size", "method", "mrr", "low", "high"),
    "certificate": ("query", "residual", "floor", "residual_all_rows", "change", "change_rank"),
    "truth": ("measure", "method", "value", "low", "high", "n_queries"),
    "truth_certificate": ("query", "residual", "floor", "residual_all_rows", "change"),
    "probe_table": ("concept", "model", "site", "layers", "metric", "best", "over", "control", "excess", "D50", "D95"),
    "probe_curves": ("concept", "site", "layer", "depth", "series", "metric", "value", "low", "high"),
    "probe_depths": ("concept", "site", "metric", "measure", "over", "value", "low", "high"),
    "probe_concepts": ("concept", "classes", "statements", "groups", "splits", "probe", "level", "position", "notes"),
    "probe_disturbed": ("concept", "site", "disturbance", "how", "D50", "shift", "low", "high"),
    "sparse_features": ("feature", "about", "items", "share", "metric", "layer", "neuron", "first", "dense", "k95"),
    "sparse_curves": ("feature", "series", "k", "value", "low", "high"),
    "sparse_neurons": ("feature", "layer", "neuron", "validation", "test", "low", "high"),
    "sparse_layers": ("feature", "layer", "depth", "first", "first_value", "dense"),
    "sparse_rotation": ("feature", "k", "neurons", "rotated", "rotated_low", "rotated_high", "low"),
    "sparse_contexts": ("feature", "layer", "neuron", "value", "before", "token", "after", "label"),
    "sparse_ablation": ("feature", "neurons", "values", "texts", "nats", "low", "high", "percent", "random"),
    "intervene_curves": ("task", "edit", "metric", "layer", "depth", "value", "value_low", "value_high", "unedited"),
    "intervene_depths": (
        "task",
        "edit",
        "metric",
        "unedited",
        "unedited_low",
        "unedited_high",
        "all_edited",
        "depth",
        "better",
    ),
    "intervene_tasks": ("task", "about", "questions", "groups", "mode", "parallel", "share", "level", "notes"),
    "llc": (
        "step",
        "part",
        "value",
        "mcse",
        "rhat",
        "ess",
        "kept",
        "asked_chains",
        "step_bias",
        "n_beta",
        "gamma",
        "sampler",
        "notes",
    ),
    "llc_draws": ("step", "part", "chain", "draw", "energy", "kept"),
    "llc_curves": ("part", "cluster", "borders"),
}
REQUIRED = ("queries", "top")  # of a run of scores
OTHERWISE = (
    "probe_table",
    "sparse_features",
    "intervene_depths",
    "llc",
)  # of which one makes a run of probes, without scores
MOST_SCORES = 200_000_000  # numbers read from scores.zarr for the comparison of queries; above it is left out


@dataclass(frozen=True)
class Run:
    """One run as stored: `tables` has only the tables that the folder has."""

    folder: Path
    manifest: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, pandas.DataFrame] = field(default_factory=dict)

    def section(self, name: str) -> dict[str, Any]:
        """A dictionary of the manifest, empty where the manifest has none of that name."""
        value = self.manifest.get(name)
        return value if isinstance(value, dict) else {}


def read_run(folder: str | Path) -> Run:
    """The run stored in `folder`; no model is opened.

    Raises NotARun where the folder is no run or its manifest cannot be trusted, FileNotFoundError where a table that a
    run of scores needs is missing (a run of probes alone needs none of those), and ValueError where a table is damaged
    (its checksum differs from the manifest's, it cannot be parsed) or lacks a column.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    there = {name for name in COLUMNS if (folder / "tables" / f"{name}.parquet").is_file()}
    probes_alone = there & set(OTHERWISE) and not there & set(REQUIRED)
    for name in () if probes_alone else REQUIRED:
        if name not in there:
            raise FileNotFoundError(
                f"{folder / 'tables' / name}.parquet is missing, and the report needs it; run the same command again "
                "to finish the run"
            )
    read = {name: _read_table(folder, name, manifest) for name in COLUMNS if name in there}
    tables = {name: frame for name, frame in read.items() if len(frame.columns)}
    return Run(folder, manifest, read_log(folder), tables)


def _read_table(folder: Path, name: str, manifest: dict[str, Any]) -> pandas.DataFrame:
    import pandas
    import pyarrow

    path = folder / "tables" / f"{name}.parquet"
    _check(folder, f"tables/{name}.parquet", manifest)
    try:
        frame = pandas.read_parquet(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run the same command again") from error
    lacking = [column for column in COLUMNS[name] if column not in frame.columns]
    if lacking and len(frame.columns):
        raise ValueError(
            f"{path} has the columns {', '.join(map(str, frame.columns))} but lacks {', '.join(lacking)}; "
            "it was written by another version: run the same command again with this one"
        )
    return frame


def _check(folder: Path, name: str, manifest: dict[str, Any]) -> None:
    """Compares a piece with the checksum that the manifest holds for it, if it holds one."""
    wanted = manifest["pieces"].get(name)
    found = wanted and measure(folder / name)
    if found != wanted:
        raise ValueError(
            f"{folder / name} is damaged: its SHA-256 begins {found['sha256'][:12]}, the manifest says "
            f"{wanted['sha256'][:12]}; run the same command again to compute it anew"
        )


def read_totals(run: Run) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray] | None:
    """Scores summed over everything but query and row: (query ids (q), row ids (n), nats (q n)).

    None where the run has no scores.zarr or it holds more than `MOST_SCORES` numbers.
    """
    path = run.folder / "scores.zarr"
    if not path.exists() or run.section("pieces").get("scores.zarr", {}).get("bytes", 0) > 8 * MOST_SCORES:
        return None
    _check(run.folder, "scores.zarr", run.manifest)
    import numpy
    import xarray

    with xarray.open_zarr(path, consolidated=False, chunks=None) as group:
        if "score" not in group or not {"query", "row"} <= set(group["score"].dims):
            raise ValueError(f"{path} has no variable 'score' with the dims query and row; it is damaged")
        scores = group["score"]
        if scores.size > MOST_SCORES:
            return None
        scores = scores.transpose("query", "row", ...)
        total = numpy.stack([one.values.reshape(one.shape[0], -1).sum(1) for one in scores])
        return scores["query"].values, scores["row"].values, total
