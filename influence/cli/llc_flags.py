"""The flags of `influence llc`: type and help, once. Those of models, rows and runs are in `flags`."""

from typing import Annotated

from cyclopts import Group, Parameter

_WHAT, _CHAINS = Group("Whose coefficient", sort_key=2), Group("Chains", sort_key=3)


def _flag(text: str, group: Group) -> Parameter:
    return Parameter(help=text, group=group)


def _several(text: str, group: Group) -> Parameter:
    return Parameter(help=text, group=group, consume_multiple=True, negative=())


Where = Annotated[
    tuple[str, ...],
    _several(
        'What moves, one coefficient each: all, heads (each), layers (each sub-block), "layer 0 head 1", '
        '"layer 0 mlp", attention, mlp, embed, unembed, a parameter\'s name or a pattern with *.',
        _WHAT,
    ),
]
Checkpoints = Annotated[
    tuple[str, ...],
    _several(
        "Earlier states of the model: folders, revisions of the hub model, or a training folder for all of them; "
        "the last number in a name is its step.",
        _WHAT,
    ),
]
Unit = Annotated[str, _flag("L is a mean over rows (sequence) or over scored tokens (token).", _WHAT)]

Sampler = Annotated[str, _flag("sgld, rmsprop or sgnht.", _CHAINS)]
StepSize = Annotated[float | None, _flag("ε; searched unless given.", _CHAINS)]
NBeta = Annotated[float | None, _flag("Inverse temperature times n; n / log n unless given.", _CHAINS)]
Gamma = Annotated[float, _flag("Localisation γ.", _CHAINS)]
BatchSize = Annotated[int, _flag("Rows of one step.", _CHAINS)]
Chains = Annotated[int, _flag("Chains; two at least must not diverge.", _CHAINS)]
Draws = Annotated[int, _flag("Draws kept of each chain.", _CHAINS)]
Thin = Annotated[int, _flag("Steps for each draw.", _CHAINS)]
BurnIn = Annotated[int, _flag("Steps before the first draw, in no estimate.", _CHAINS)]
Seed = Annotated[int, _flag("Of noise and batches.", _CHAINS)]
