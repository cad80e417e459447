"""`influence intervene`: from which layer on a model no longer needs its previous tokens."""

from influence.cli import flags
from influence.cli import intervene_flags as own


def intervene(
    model: flags.Model,
    *,
    tasks: own.Tasks = ("capitals", "arithmetic"),
    queries: own.Queries = None,
    text: own.Text = None,
    world: own.World = (),
    out: flags.Out = None,
    template: own.Template = "The capital of {country} is",
    limit: own.Limit = 200,
    length: own.Length = 64,
    tokens: own.Tokens = 8,
    revision: flags.Revision = None,
    tokenizer: flags.Tokenizer = None,
    trust_remote_code: flags.Trust = False,
    dtype: flags.Dtype = None,
    device: flags.Device = None,
    edits: own.Edits = ("noise", "freeze", "skip"),
    layers: own.Layers = (),
    seeds: own.Seeds = 3,
    mode: own.Mode = "paper",
    share: own.Share = 0.05,
    bootstrap: own.Bootstrap = 1000,
    level: own.Level = 0.95,
    seed: own.Seed = 0,
    batch_size: own.BatchSize = 64,
    report: flags.Report = True,
    progress: flags.Progress = True,
    config: flags.Config = None,
    python: flags.Python = False,
) -> None:
    """Edit the states of previous tokens from every layer on, and tell from which depth on that costs nothing.

    Each task stands beside the unedited model and beside the edit of all layers. Killed, the same command goes on.
    """
    settings = {name: value for name, value in locals().items() if name not in ("config", "python")}
    if python:
        import influence.cli.intervene as here
        from influence.cli.show import as_python

        print(as_python("influence.run_intervene", here.intervene, settings))
        return
    from influence.cli import intervening

    print(intervening.run_intervene(**settings))
