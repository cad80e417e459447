"""`influence.run_intervene`: edits of one model on several tasks, in a run's directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import concepts, show, stages
from influence.cli.result import Result, shown
from influence.cli.stages import Work
from influence.store import NotARun, read_manifest

if TYPE_CHECKING:
    from influence.data.world import World
    from influence.interventions.result import Interventions
    from influence.interventions.tasks import Task
    from influence.types import LM

TABLE = "tables/intervene_depths.parquet"
OF_WORLDS = ("recall", "recall-held-out", "two-hop", "two-hop-hidden", "second-hop")
ASKED = ("capitals", "arithmetic", *OF_WORLDS)
MEASURED = ("edits", "seeds", "mode", "share", "bootstrap", "level", "seed", "batch_size", "progress")


@dataclass(frozen=True)
class Intervened(Result):
    """A run's directory with edits of one model; `result` is as `influence.intervene` gave it, of all tasks."""

    @property
    def result(self) -> Interventions:
        from influence.interventions.result import Interventions, joined

        names = sorted(name for name in self.manifest["pieces"] if name.startswith("interventions/"))
        return joined([Interventions.from_dict(concepts.load_json(self.folder / name)) for name in names])

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """One line per task, metric and edit: unedited, all layers edited, and the depth from which nothing is lost."""
        from influence.interventions.result import told

        found = self.result
        head = ["task", "metric", "edit", "unedited", "all edited", f"within {found.info['share']:.0%} from depth"]
        rows = [
            [
                one["task"],
                one["metric"],
                one["edit"],
                *(told(one, name) for name in ("unedited", "all_edited", "depth")),
            ]
            for one in found.depths.to_dict("records")
        ]
        return head, rows

    def __str__(self) -> str:
        lines = show.table(*self.summary(), f"{shown(self.folder)}/tables").splitlines()
        lines.append(f"mode {self.result.info['mode']}; depth 0: everything edited, 1: nothing; –: undefined")
        lines += [f"note: {note}" for note in self.result.notes]
        lines.append(f"run      {shown(self.folder)}")
        if self.report is not None:
            lines.append(f"report   {shown(self.report)}#interventions")
        return "\n".join([*lines, f"next     {self.next}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.result._repr_html_()


def run_intervene(
    model: Any,
    *,
    tasks: Sequence[str] = ("capitals", "arithmetic"),
    queries: Any = None,
    text: Any = None,
    world: Sequence[str] = (),
    out: str | Path | None = None,
    template: str = "The capital of {country} is",
    limit: int = 200,
    length: int = 64,
    tokens: int = 8,
    revision: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    dtype: str | None = None,
    device: str | None = None,
    edits: Sequence[str] = ("noise", "freeze", "skip"),
    layers: Sequence[int] = (),
    seeds: int = 3,
    mode: str = "paper",
    share: float = 0.05,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int = 64,
    report: bool = True,
    progress: bool = True,
) -> Intervened:
    """`influence.intervene` on several tasks, in one directory that a second call goes on with, with tables and report.

    Args:
        model: what `influence.load` takes, or what it returned.
        tasks: names out of capitals, arithmetic, and of the embedded world recall, recall-held-out (a phrasing never
            told), two-hop (birthplace told), two-hop-hidden, second-hop (the country of a town alone).
        queries: questions of one's own, as for `influence.queries`, as the task "questions".
        text: text whose perplexity is measured, as for `influence.corpus`.
        world: settings of `influence.data.world.world` that the model was trained on, "persons=48" and so on.
        limit: at most so many questions or rows of each task.
        length, tokens: of rows of text, and how many are scored in each.
        layers: none given means all.
        report: write report.html (needs the extra `report`).

    The other arguments are those of `influence.load` and `influence.intervene`.

    Raises:
        influence.store.OtherSettings: where `out` holds a run of other settings, model or questions.
        ValueError: for unknown tasks, and whatever `influence.intervene` refuses.
    """
    asked = dict(locals())
    _check(tasks, queries, text)
    drawn = _world(world)
    with concepts.begun("intervene", asked, progress) as work:
        lm = concepts.open_model(work)
        made = _tasks(work, lm, drawn)
        concepts.keep_settings(work)
        found = [_measured(work, lm, number, one) for number, one in enumerate(made)]
        _tabulate(work, found)
        page = stages.report(work) if report else None
        return Intervened(work.run.root, page, next_of(work.asked))


def again(folder: Path, page: Path | None) -> Intervened:
    """The result of a finished run."""
    manifest = read_manifest(folder)
    if TABLE not in manifest["pieces"]:
        raise NotARun(f"the run in {folder} has no edits yet; finish it: {manifest.get('command')}")
    return Intervened(folder, page, next_of(manifest["settings"]))


def next_of(asked: dict[str, Any]) -> str:
    """The command that shows at which depth the model's probes know something, beside the depth of need."""
    data = "world-truth" if any(name in OF_WORLDS for name in asked["tasks"] or ()) else "comparison"
    return f"influence probe {asked['model']} --data {data}"


def _check(tasks: Sequence[str], queries: Any, text: Any) -> None:
    unknown = [name for name in tasks if name not in ASKED]
    if unknown or isinstance(tasks, str) or (not tasks and queries is None and text is None):
        raise ValueError(
            f"tasks={tasks!r}; give some of {', '.join(ASKED)}, or questions (queries) or text of your own"
        )


def _world(given: Sequence[str]) -> World:
    from influence.data.world import world

    settings = {}
    for one in given:
        name, mark, value = one.partition("=")
        if not mark or name not in ("seed", "persons", "countries", "facts_each", "prose") or not value.isdecimal():
            raise ValueError(
                f"the world's setting {one!r}; give seed=, persons=, countries=, facts_each= or prose= a number"
            )
        settings[name] = int(value)
    return world(**settings)


def _tasks(work: Work, lm: LM, drawn: World) -> list[Task]:
    """The tasks that were asked for, each identified by the hash of its tokens."""
    from influence.interventions import tasks as known

    asked = work.given
    limited = {"limit": asked["limit"], "seed": asked["seed"]}
    makers: dict[str, Callable[[], Task]] = {
        "capitals": lambda: known.capitals(lm, template=asked["template"], **limited),
        "arithmetic": lambda: known.arithmetic(lm, n=asked["limit"], seed=asked["seed"]),
        "recall": lambda: known.recall(drawn, lm, **limited),
        "recall-held-out": lambda: known.recall(drawn, lm, phrasing="held-out", **limited),
        "two-hop": lambda: known.two_hop(drawn, lm, **limited),
        "two-hop-hidden": lambda: known.two_hop(drawn, lm, told=False, **limited),
        "second-hop": lambda: known.second_hop(drawn, lm, **limited),
    }
    with stages.stage(work, "questions"):
        found = {name: makers[name]() for name in asked["tasks"]}
        if asked["queries"] is not None:
            found["questions"] = known.task(asked["queries"], lm, **limited)
        if asked["text"] is not None:
            own = {"tokens": asked["tokens"], "length": asked["length"], **limited}
            found["perplexity"] = known.perplexity(asked["text"], lm, **own)
        named = [known.Task(name, one.rows, one.metrics, one.about) for name, one in found.items()]
        digests = {
            f"task {one.name}": concepts.digest_of([list(one.rows["input_ids"]), list(one.rows["loss_mask"])])
            for one in named
        }
        work.run.identify(**digests)
        work.run.note(tasks=[one.name for one in named], questions=[len(one) for one in named])
    return named


def _measured(work: Work, lm: LM, number: int, one: Task) -> Interventions:
    from influence.interventions.intervene import intervene
    from influence.interventions.result import Interventions

    asked = work.given

    def compute() -> dict[str, Any]:
        settings: dict[str, Any] = {name: asked[name] for name in MEASURED}
        return intervene(lm, one, layers=tuple(asked["layers"]) or None, **settings).to_dict()

    path = stages.ensure(
        work, one.name, concepts.piece("interventions/", number, one.name), compute, concepts.save_json
    )
    return Interventions.from_dict(concepts.load_json(path))


def _tabulate(work: Work, found: Sequence[Interventions]) -> None:
    import pandas

    from influence.interventions.result import joined

    whole = joined(found)
    with stages.stage(work, "tables"):
        stages.ensure_table(work, "intervene_depths", lambda: whole.depths)
        stages.ensure_table(work, "intervene_curves", lambda: whole.curves)
        stages.ensure_table(work, "intervene_tasks", lambda: pandas.DataFrame(_described(found)))


def _described(found: Sequence[Interventions]) -> list[dict[str, Any]]:
    lines = []
    for one in found:
        info = {name: one.info[name] for name in ("mode", "parallel", "share", "level", "bootstrap")}
        for task, sizes in one.info["questions"].items():
            own = {"task": task, "about": one.info["about"][task], "questions": sizes["all"], "groups": sizes["groups"]}
            seeds = len(one.info["seeds"])
            lines.append(own | info | {"seeds": seeds, "n_layers": one.n_layers, "notes": list(one.notes)})
    return lines
