"""`influence blocks`: what of a model can be traced."""

from influence.cli import flags


def blocks(
    model: flags.Model,
    *,
    blocks: flags.Blocks = "all",
    revision: flags.Revision = None,
    accept_untracked: flags.Accept = (),
    trust_remote_code: flags.Trust = False,
    dtype: flags.Dtype = None,
    device: flags.Device = None,
    every: bool = False,
) -> None:
    """List the linear maps of a model whose influence can be traced, and the share of it that is tracked.

    Args:
        every: One line for each block, without the limit of twenty lines.
    """
    from influence.cli import show
    from influence.cli.result import tracked_share
    from influence.model.load import load

    lm = load(
        model,
        blocks=blocks,
        revision=revision,
        accept_untracked=accept_untracked,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        device=device,
    )
    if every:
        print("\n".join(f"{b.name}  {b.kind}  layer {b.layer}  {b.d_out}x{b.d_in}" for b in lm.blocks))
    else:
        print(show.table(["block", "kind", "layers", "out", "in", "bias", "parameters"], _alike(lm.blocks)))
    print(f"\ntracked  {tracked_share({'of_all': lm.tracked.of_all, 'of_selected': lm.tracked.of_selected})}")
    if lm.tracked.untracked:
        names = list(lm.tracked.untracked)
        print(f"left out {show.shorten(', '.join(names), 200)}")
    print(f"model    {type(lm.net).__name__}, {lm.n_layers} layers, {len(lm.blocks)} blocks")
    print(f"next     influence run {model} --data CORPUS --queries QUERIES")


def _alike(found: tuple) -> list[list[str]]:
    """One line for all layers' blocks of one name and shape: the numbers in names give way to *."""
    import re

    groups: dict[tuple, list] = {}
    for block in found:
        name = re.sub(r"(?<=[.\[])\d+(?=[.\]]|$)", "*", block.name)
        groups.setdefault((name, block.kind, block.d_out, block.d_in, block.bias), []).append(block)
    return [
        [name, kind, str(len(some)), str(o), str(i), "yes" if bias else "no", f"{sum(b.size for b in some):,}"]
        for (name, kind, o, i, bias), some in groups.items()
    ]
