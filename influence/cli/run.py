"""`influence run`: the whole job from flags or one TOML file."""

from influence.cli import flags


def run(
    model: flags.Model,
    *,
    data: flags.Data,
    queries: flags.Queries,
    out: flags.Out = None,
    blocks: flags.Blocks = "all",
    revision: flags.Revision = None,
    tokenizer: flags.Tokenizer = None,
    accept_untracked: flags.Accept = (),
    trust_remote_code: flags.Trust = False,
    dtype: flags.Dtype = None,
    device: flags.Device = None,
    length: flags.Length = 128,
    pack: flags.Pack = True,
    text_column: flags.TextColumn = "text",
    split: flags.Split = "train",
    errors: flags.Errors = "strict",
    limit: flags.Limit = None,
    labels: flags.Labels = "sampled",
    seed: flags.Seed = 0,
    covariance_rows: flags.CovarianceRows = 1.0,
    splits: flags.Splits = 1,
    damping: flags.Damping = 0.1,
    solver: flags.Solver = "ekfac",
    solver_steps: flags.SolverSteps = None,
    compute_dtype: flags.ComputeDtype = None,
    batch_size: flags.BatchSize = 32,
    top: flags.Top = 10,
    report: flags.Report = True,
    progress: flags.Progress = True,
    config: flags.Config = None,
    python: flags.Python = False,
) -> None:
    """Fit factors, score every training row for every query, and write tables and a report.

    Killed at any moment, the same command goes on from the last whole piece.
    """
    settings = {name: value for name, value in locals().items() if name not in ("config", "python")}
    if python:
        from influence.cli.show import as_python

        print(as_python("influence.run", run, settings))
        return
    from influence.cli import job

    print(job.run(**settings))
