"""The flags that more than one command takes: type and help, once."""

from typing import Annotated

from cyclopts import Group, Parameter

_MODEL, _ROWS = Group("Model", sort_key=1), Group("Training rows and queries", sort_key=2)
_FACTORS, _RUN = Group("Factors and scores", sort_key=3), Group("The run", sort_key=4)


def _flag(text: str, group: Group) -> Parameter:
    return Parameter(help=text, group=group)


Model = Annotated[str, _flag("Hub name or folder of a causal language model.", _MODEL)]
Blocks = Annotated[
    str, _flag("Linear maps to trace: all, attention, mlp, adapters, a kind, or a regular expression.", _MODEL)
]
Revision = Annotated[str | None, _flag("Version of the model on the hub.", _MODEL)]
Tokenizer = Annotated[str | None, _flag("Tokenizer other than the model's own.", _MODEL)]
Accept = Annotated[
    tuple[str, ...],
    Parameter(help="Names (* as a pattern) of linear maps that may stay out.", group=_MODEL, negative=()),
]
Trust = Annotated[bool, Parameter(help="Run code that comes with the model.", group=_MODEL, negative=())]
Dtype = Annotated[str | None, _flag("Type of the weights; float32 unless given.", _MODEL)]
Device = Annotated[str | None, _flag("cuda where there is one, else cpu, unless given.", _MODEL)]

Data = Annotated[
    str, _flag("Training text: a file (.txt .jsonl .csv .parquet …), a dataset folder or hub dataset.", _ROWS)
]
Queries = Annotated[
    str, _flag('Prompts with completions: JSONL, CSV or Parquet with "prompt" and "completion".', _ROWS)
]
Length = Annotated[int, _flag("Tokens per row.", _ROWS)]
Pack = Annotated[bool, _flag("Documents end to end in full rows, or one row for each document.", _ROWS)]
TextColumn = Annotated[str, _flag("Column or key that holds the text.", _ROWS)]
Split = Annotated[str, _flag("Split of a dataset.", _ROWS)]
Errors = Annotated[str, _flag("What invalid UTF-8 does: strict, replace or ignore.", _ROWS)]
Limit = Annotated[int | None, _flag("At most this many rows.", _ROWS)]

Labels = Annotated[str, _flag("sampled from the model (true Fisher) or data (empirical Fisher).", _FACTORS)]
Seed = Annotated[int, _flag("Of sampled labels, and of what an iterative solver draws.", _FACTORS)]
CovarianceRows = Annotated[float, _flag("Share of the rows whose covariances are averaged.", _FACTORS)]
Splits = Annotated[int, _flag("Diagonal blocks that huge factors are cut into.", _FACTORS)]
Damping = Annotated[float, _flag("λ in units of each block's mean eigenvalue.", _FACTORS)]
_SOLVERS = (
    "ekfac (no products, not certified), accurate (EK-FAC-preconditioned conjugate gradients, certified), "
    "cg, ekfac-cg, lissa, ekfac-lissa, kfac, diagonal, identity (gradient dot product)."
)
Solver = Annotated[str, _flag(_SOLVERS, _FACTORS)]
OwnSolver = Annotated[str | None, _flag(f"The run's own unless given: {_SOLVERS}", _FACTORS)]
SolverSteps = Annotated[
    int | None,
    _flag(
        "Products at most of an iterative solver: 20 for accurate and ekfac-cg, 50 for cg, 100 for ekfac-lissa, "
        "1000 for lissa unless given.",
        _FACTORS,
    ),
]
ComputeDtype = Annotated[str | None, _flag("bfloat16 computes activations and products in it.", _FACTORS)]
BatchSize = Annotated[int, _flag("Rows of full length taken together.", _FACTORS)]
Top = Annotated[int, _flag("Rows for and against each query kept with text and tokens.", _FACTORS)]

Out = Annotated[str | None, _flag("The run's directory; runs/ and a name made from the settings unless given.", _RUN)]
Report = Annotated[bool, _flag("Write report.html.", _RUN)]
Progress = Annotated[bool, _flag("Show progress bars.", _RUN)]
Config = Annotated[str | None, _flag("TOML file whose keys are these flags; flags win over it.", _RUN)]
Python = Annotated[bool, Parameter(help="Print the same call in Python, and do nothing.", group=_RUN, negative=())]
