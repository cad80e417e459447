"""`influence fit`: the factors of a model on its training rows."""

from influence.cli import flags


def fit(
    model: flags.Model,
    *,
    data: flags.Data,
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
    compute_dtype: flags.ComputeDtype = None,
    batch_size: flags.BatchSize = 32,
    progress: flags.Progress = True,
    config: flags.Config = None,
) -> None:
    """Fit EK-FAC factors and keep them in a run's directory, where `influence score` finds them."""
    settings = {name: value for name, value in locals().items() if name != "config"}
    from influence.cli import job

    print(job.fit(**settings))
