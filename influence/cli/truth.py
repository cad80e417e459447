"""`influence truth`: how far the scores of a finished run can be trusted, without retraining."""

from influence.cli import flags


def truth(
    run: str,
    *,
    queries: int = 8,
    products: int = 20,
    rows: int = 256,
    patch_rows: int = 32,
    seed: int = 0,
    report: flags.Report = True,
    progress: flags.Progress = True,
) -> None:
    """Compare the stored scores of a finished run with what they estimate, beside the baselines; nothing is retrained.

    Pearson with a certified damped solve, Pearson with the proximal Bregman response (PBRF), Spearman with what one
    small gradient step on a row does. Killed at any moment, the same command goes on.

    Args:
        run: Directory of a run that `influence run` or `influence score` finished.
        queries: How many of the run's queries to check, chosen evenly.
        products: Of EK-FAC-preconditioned conjugate gradients, each a pass over all rows; 0 leaves this measure out.
        rows: Sampled for PBRF, which takes a hundred passes or more over all rows for each query; 0 leaves it out.
        patch_rows: Gradient steps for each query, half of them on the rows that the scores put first; 0 leaves it out.
        seed: Of the rows sampled, the random baseline and the bootstrap.
    """
    from influence.cli import checking

    print(
        checking.truth_of(
            run,
            queries=queries,
            products=products,
            rows=rows,
            patch_rows=patch_rows,
            seed=seed,
            report=report,
            progress=progress,
        )
    )
