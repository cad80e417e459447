"""`influence study`: how influence and depth go together over a ladder of models, with nulls that can say no."""

from typing import Annotated

from cyclopts import Parameter

Names = Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative=())]
Steps = Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True, negative=())]


def study(
    source: str,
    *,
    out: str | None = None,
    data: str | None = None,
    concepts: Names = None,
    models: Names = None,
    steps: Steps = None,
    untrained: bool | None = None,
    queries: int | None = None,
    controls: int | None = None,
    splits: int | None = None,
    bootstrap: int | None = None,
    damping: float | None = None,
    fit_rows: int | None = None,
    margin: int | None = None,
    signature: int | None = None,
    edits: int | None = None,
    k95: bool | None = None,
    llc: int | None = None,
    llc_rows: int | None = None,
    removal: int | None = None,
    removal_seeds: int | None = None,
    removal_sizes: Names = None,
    permutations: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    seed: int | None = None,
    processes: int | None = None,
    threads: int | None = None,
    report: bool = True,
    progress: bool = True,
) -> None:
    """Measure a ladder of models on many concepts: probes, influence, tails; test how they go together; write a report.

    Killed at any moment, the same command goes on; given a second time while it runs, the processes share the models.

    Args:
        source: Folder of `influence ladder`, or a TOML file with these settings (and `ladder`); flags win over it.
        out: Directory of the study; runs/study unless given.
        data: Training text of a ladder that was not trained by `influence ladder`.
        concepts: Built-in concepts to ask about, * as a pattern; all unless given. Own ones: [[concept]] in the file.
        models: Models to measure, * as a pattern; all unless given.
        steps: Checkpoints to measure; the last unless given.
        untrained: Measure the untrained models of the ladder as well, as a control of trends with scale.
        queries: Asked of each concept (6).
        controls: Matched control queries of each concept (3).
        splits: Of the probes (3).
        bootstrap: Draws of the probes' intervals (200).
        damping: λ in units of each block's mean eigenvalue (0.1).
        fit_rows: Rows that EK-FAC is fitted on (2000).
        margin: Items whose probe margin is traced to rows, in every layer (48; 0: none).
        signature: Items of the descriptive quantity 4 (0: none).
        edits: Questions on which previous tokens are edited, to see how long they are needed (0: none).
        k95: Measure how few neurons tell each concept.
        llc: Draws per chain of the local learning coefficient of every layer and head (0: none).
        llc_rows: Training rows on which it is estimated (500).
        removal: Rows taken out for each concept in retrainings (0: none).
        removal_seeds: Retrainings of each arm (5).
        removal_sizes: Sizes that are retrained; the two smallest unless given.
        permutations: Of each test (9999).
        batch_size: Rows of full length taken together (32).
        dtype: bfloat16 computes influence in it.
        device: cuda where there is one, else cpu, unless given.
        seed: Of splits, draws, queries and permutations (0).
        processes: Models measured at a time; as many as cores allow unless given.
        threads: Of each of them (1).
        report: Write report.html.
        progress: Show a progress bar.
    """
    settings = {name: value for name, value in locals().items() if name not in ("source", "report", "progress")}
    from influence.cli import studied

    print(studied.study(source, settings, report=report, progress=progress))
