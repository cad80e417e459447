"""The flags of `influence intervene`: type and help, once. Those of models and runs are in `flags`."""

from typing import Annotated

from cyclopts import Group, Parameter

_ASKED, _EDITS = Group("What is asked", sort_key=2), Group("Edits", sort_key=3)


def _flag(text: str, group: Group) -> Parameter:
    return Parameter(help=text, group=group)


def _several(text: str, group: Group) -> Parameter:
    return Parameter(help=text, group=group, consume_multiple=True, negative=())


Tasks = Annotated[
    tuple[str, ...],
    Parameter(
        help="capitals, arithmetic; of the demo's and a ladder's models: recall, recall-held-out, two-hop, "
        "two-hop-hidden, second-hop. --empty-tasks: only --queries or --text.",
        group=_ASKED,
        consume_multiple=True,
    ),
]
Queries = Annotated[
    str | None, _flag('Also these questions: JSONL, CSV or Parquet with "prompt" and "completion".', _ASKED)
]
Text = Annotated[
    str | None, _flag("Also the perplexity of this text: a file, a dataset folder or hub dataset.", _ASKED)
]
World = Annotated[
    tuple[str, ...],
    _several("Settings of the embedded world: seed=0 persons=40 countries=10 facts_each=6 prose=150.", _ASKED),
]
Template = Annotated[str, _flag("How capitals are asked for, with {country}.", _ASKED)]
Limit = Annotated[int, _flag("At most so many questions or rows of each task.", _ASKED)]
Length = Annotated[int, _flag("Tokens per row of text.", _ASKED)]
Tokens = Annotated[int, _flag("Tokens scored in each row of text, after its middle.", _ASKED)]
Edits = Annotated[tuple[str, ...], _several("noise, freeze, shuffle, skip, swap.", _EDITS)]
Layers = Annotated[tuple[int, ...], _several("Layers from which edits begin; all unless given.", _EDITS)]
Seeds = Annotated[int, _flag("Draws of noise, shuffle and swap.", _EDITS)]
Mode = Annotated[
    str, _flag("paper: all tokens but the last, at every step, without a cache. prompt: the prompt once.", _EDITS)
]
Share = Annotated[float, _flag("Share of the unedited value that counts as no loss.", _EDITS)]
Bootstrap = Annotated[int, _flag("Draws of whole groups of questions for the intervals.", _EDITS)]
Level = Annotated[float, _flag("Of the intervals.", _EDITS)]
Seed = Annotated[int, _flag("Of the questions chosen and of the draws for intervals.", _EDITS)]
BatchSize = Annotated[int, _flag("Sequences taken together.", _EDITS)]
