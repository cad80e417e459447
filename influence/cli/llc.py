"""`influence llc`: local learning coefficients of a model and its parts."""

from influence.cli import flags
from influence.cli import llc_flags as own


def llc(
    model: flags.Model,
    *,
    data: flags.Data,
    out: flags.Out = None,
    where: own.Where = ("all",),
    checkpoints: own.Checkpoints = (),
    revision: flags.Revision = None,
    tokenizer: flags.Tokenizer = None,
    trust_remote_code: flags.Trust = False,
    dtype: flags.Dtype = None,
    device: flags.Device = None,
    length: flags.Length = 128,
    pack: flags.Pack = True,
    text_column: flags.TextColumn = "text",
    split: flags.Split = "train",
    errors: flags.Errors = "strict",
    limit: flags.Limit = None,
    unit: own.Unit = "sequence",
    sampler: own.Sampler = "sgld",
    step_size: own.StepSize = None,
    n_beta: own.NBeta = None,
    gamma: own.Gamma = 100.0,
    batch_size: own.BatchSize = 32,
    chains: own.Chains = 4,
    draws: own.Draws = 200,
    thin: own.Thin = 5,
    burn_in: own.BurnIn = 500,
    seed: own.Seed = 0,
    report: flags.Report = True,
    progress: flags.Progress = True,
    config: flags.Config = None,
    python: flags.Python = False,
) -> None:
    """Estimate how degenerate the loss is around a model's weights: of all of them, or of parts alone.

    With checkpoints, one curve per part, clusters of curves and stage borders. Killed at any moment, the same command
    goes on.
    """
    settings = {name: value for name, value in locals().items() if name not in ("config", "python")}
    if python:
        import influence.cli.llc as here
        from influence.cli.show import as_python

        print(as_python("influence.run_llc", here.llc, settings))
        return
    from influence.cli import coefficients

    print(coefficients.run_llc(**settings))
