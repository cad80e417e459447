"""`influence.study`: a ladder, its corpus and concepts become tables, verdicts and one report; resumable."""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from influence.data.files import BadData
from influence.model.checkpoint import claim, write_json
from influence.store import NotARun, disk
from influence.store.errors import writing
from influence.store.share import share
from influence.study.materials import Materials, materials
from influence.study.measure import coefficients
from influence.study.measure.cell import Model, complete, gathered, measure, parts, reasons
from influence.study.measure.need import as_columns
from influence.study.result import Study, joined, of_trained, open_study
from influence.study.spec import Spec, defaults, spec_of
from influence.study.without import without

if TYPE_CHECKING:
    from influence.study.opened import Ladder

log = logging.getLogger("influence")


def study(
    ladder: Ladder | str | Path | Any, out: str | Path = "runs/study", *, processes: int | None = None,
    progress: bool = True, **settings: Any,
) -> Study:  # fmt: skip
    """Measure a ladder of models on concepts, test the six quantities of the study, and keep it all in `out`.

    For every model and concept: a probe of every layer with its controls (D50, D95), influence of all training rows on
    queries that ask what the probe asks, by layer, its tails, and influence on the probe's own margin. What each
    quantity means, its null and its correction: `influence.study.hypotheses`; what the tables hold:
    `influence.study.hypotheses.cells`.

    Killed at any moment, the same call goes on with what is whole; with the same settings it ends with the same tables.
    The models are the tasks of all processes that work in `out`: `processes` of this call, and the same call given
    again elsewhere.

    Args:
        ladder: the folder of `influence.ladder`, what `influence.open_ladder` returns, or models by size for it.
        out: the study's folder.
        processes: models measured at a time; by default as many as cores allow (1 for live objects or on a GPU).
        progress: show a bar.
        settings: fields of `influence.study.spec.Spec` and of its `measured` (`measure.settings.Settings`): data,
            concepts, concept, models, steps, untrained, splits, bootstrap, damping, queries, controls, margin,
            signature, removal, seed, dtype, …

    Returns:
        Study: tables, verdicts, what was skipped and why.

    Raises:
        BadData: for unknown settings, patterns that fit nothing, a corpus that no concept stands in.
        BadLadder: for models with different tokenizers, and others that make no ladder.
        NotARun: (a ValueError) for a folder that holds something else.
        OtherSettings: (a ValueError) where `out` holds a study with other settings, with the differences.
        WriteFailed: (an OSError) for a full disk; what was measured before is whole.
    """
    spec = spec_of({"ladder": ladder, **settings})
    root = Path(out).expanduser()
    made = materials(spec)
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    _refuse_foreign(root)
    share(["settings"], lambda *_: claim(root, _settings(spec, made), defaults()), root / ".locks")
    helpers = _helpers(spec, root, processes, len(made.lines))
    try:
        _measure_all(spec, made, root, progress)
        for one in helpers:
            one.wait()  # whatever a helper left undone has been done here
    finally:
        for one in helpers:
            if one.poll() is None:
                one.terminate()
    share(["tables"], lambda *_: _gather(spec, made, root, progress), root / ".locks")
    return open_study(root)


def _refuse_foreign(root: Path) -> None:
    """Raise NotARun for a folder that holds something other than a study."""
    foreign = sorted(one.name for one in root.iterdir() if not one.name.startswith("."))
    if foreign and not ((root / "settings.json").is_file() and _begun_here(root)):
        raise NotARun(f"{root} is not empty and holds no study (it has {', '.join(foreign[:3])}); give a new folder")


def _begun_here(root: Path) -> bool:
    try:
        return "study" in json.loads((root / "settings.json").read_text())
    except ValueError:
        return True  # a damaged file of a study is told by what reads it next


def _settings(spec: Spec, made: Materials) -> dict[str, Any]:
    """What the study depends on: settings, and digests of models, rows and concepts."""
    return {
        "study": 1,
        **spec.told(),
        "source": spec.told()["ladder"],
        "ladder": made.told,
        "rows": made.rows_digest,
        "concept_digest": made.digest,
    }


def _helpers(spec: Spec, root: Path, processes: int | None, models: int) -> list[subprocess.Popen[bytes]]:
    """Further processes that measure models of the same study."""
    if os.environ.get(WORKER):
        return []
    plain = spec.told() | {"device": spec.device}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if processes is None:
        processes = 1 if spec.live or torch.cuda.is_available() else max(1, cores // spec.threads)
    if processes < 1 or (spec.live and processes > 1):
        raise BadData(
            f"processes is {processes}; it must be 1 or more, and 1 for a ladder or corpus given as an object"
        )
    told = json.dumps({**plain, "out": str(root.resolve())})
    environment = {**os.environ, WORKER: "1", "OMP_NUM_THREADS": str(spec.threads)}
    call = [sys.executable, "-m", "influence.study.worker"]
    found = []
    for _ in range(min(processes, models) - 1):
        one = subprocess.Popen(call, stdin=subprocess.PIPE, env=environment)
        assert one.stdin is not None
        one.stdin.write(told.encode())
        one.stdin.close()
        found.append(one)
    return found


WORKER = "INFLUENCE_STUDY_WORKER"


def _measure_all(spec: Spec, made: Materials, root: Path, progress: bool) -> None:
    """Measure the models that no other process measures; returns when all are done."""
    shown = progress and not os.environ.get(WORKER)
    before = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    names = {task: parts(spec.measured, line["untrained"]) for task, line in made.lines.items()}
    once = int(spec.measured.llc > 0)  # what is measured of a model once for all concepts
    total = sum(map(len, names.values())) * len(made.concepts) + once * len(made.lines)
    try:
        with tqdm(total=total, desc="study", unit="part", disable=not shown) as bar:

            def shown_now(name: str, word: str) -> None:
                bar.set_postfix_str(f"{name} {word}")

            def told(name: str, word: str) -> None:
                bar.set_postfix_str(f"{name} {word}", refresh=False)
                bar.update()

            def one(task: str, _: int) -> None:
                line = made.lines[task]
                folder = root / "cells" / task
                if complete(folder, made.concepts, names[task]) and coefficients.complete(folder, spec.measured):
                    bar.update(len(names[task]) * len(made.concepts) + once)
                    return
                lm = made.ladder.load(line["model"], line["step"], device=spec.device)
                _log(root, task, "begins")
                model = Model(task, folder, lm, made.rows, spec.measured, False, line["untrained"])
                measure(model, made.concepts, lambda word: told(task, word))
                if once:
                    coefficients.measure(model, lambda word: told(task, word), lambda word: shown_now(task, word))
                _log(root, task, "measured")

            share(list(made.lines), one, root / ".locks")
    finally:
        torch.set_num_threads(before)


def _log(root: Path, task: str, event: str) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "model": task, "event": event, "process": os.getpid()})
    with writing(root / "log.jsonl"), open(root / "log.jsonl", "ab") as file:
        file.write(line.encode() + b"\n")


def _gather(spec: Spec, made: Materials, root: Path, progress: bool) -> None:
    """Write tables, verdicts and reasons from the pieces of all models, after the retrainings where asked for."""
    names = [one.name for one in made.concepts]
    found_parts: list[tuple[str, pd.DataFrame]] = []
    left_out = list(made.skipped)
    for task, line in made.lines.items():
        keys = {"model": line["model"], "step": line["step"]}
        found_parts += gathered(root / "cells" / task, names, keys)
        left_out += reasons(root / "cells" / task, names, keys)
        found_parts += coefficients.gathered(root / "cells" / task, keys)
        left_out += coefficients.reasons(root / "cells" / task, keys)
    tables = {"models": made.models(), "concepts": made.table(), **joined(found_parts)}
    columns = [as_columns(tables["need"])] if "need" in tables else []
    columns += [tables.pop("neurons")] if "neurons" in tables else []
    for one in columns:
        # a study begun when few neurons were counted with the probe has the column already
        plain = tables["depth"].drop(columns=[name for name in ("k95",) if name in one], errors="ignore")
        tables["depth"] = plain.merge(one, how="left", on=["model", "step", "concept"])
    if "llc" in tables:
        tables["models"] = coefficients.by_model(tables["models"], tables["llc"])
    if spec.removal:
        tables["removal"] = without(spec, made, of_trained(tables["depth"], tables["models"]), root, progress)
    with writing(root / "tables"):
        (root / "tables").mkdir(exist_ok=True)
        for name, frame in tables.items():
            held = io.BytesIO()
            frame.to_parquet(held, index=False)
            disk.replace(root / "tables" / f"{name}.parquet", held.getvalue())
    write_json(root / "skipped.json", left_out)  # type: ignore[arg-type]
    found = open_study(root)
    write_json(root / "verdicts.json", {"verdicts": _plain_table(found.verdict_table)})


def _plain_table(frame: pd.DataFrame) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=12))
    return found
