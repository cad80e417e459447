"""`influence score`: scores for some queries with the factors of a fitted run."""

from influence.cli import flags


def score(
    run: str,
    *,
    queries: flags.Queries,
    out: str | None = None,
    solver: flags.OwnSolver = None,
    solver_steps: flags.SolverSteps = None,
    top: flags.Top = 10,
    report: flags.Report = True,
    progress: flags.Progress = True,
) -> None:
    """Score every training row of a fitted run for some queries, and write tables and a report.

    Args:
        run: Directory of a run that `influence fit` or `influence run` made.
        out: Directory for the result, which takes the factors over; default the run's own.
    """
    from influence.cli import job

    print(
        job.score(
            run,
            queries=queries,
            out=out,
            solver=solver,
            solver_steps=solver_steps,
            top=top,
            report=report,
            progress=progress,
        )
    )
