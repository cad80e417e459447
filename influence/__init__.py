"""Which training rows made a language model say this, through which layers and tokens, how surely.

    lm = influence.load("gpt2")
    rows = influence.corpus("corpus.jsonl", lm, length=128)
    queries = influence.queries([{"prompt": "…", "completion": "…"}], lm)
    solver = ekfac.solver(influence.fit_ekfac(lm, rows), damping=0.1)
    scores = influence.score(lm, rows, queries, solver, per="layer")

Every name is imported when it is first used, so `import influence` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from influence.analysis.layers import layers as layers
    from influence.analysis.table import table as table
    from influence.analysis.tails import tail as tail
    from influence.analysis.top import top as top
    from influence.attribution.fit import fit_diagonal as fit_diagonal
    from influence.attribution.fit import fit_ekfac as fit_ekfac
    from influence.attribution.norm import row_norm as row_norm
    from influence.attribution.rank import rank as rank
    from influence.attribution.score import score as score
    from influence.attribution.solvers import cg_solver as cg_solver
    from influence.attribution.solvers import lissa_solver as lissa_solver
    from influence.attribution.trajectory import predictive as predictive
    from influence.cli.checking import truth_of as truth_of
    from influence.cli.coefficients import run_llc as run_llc
    from influence.cli.intervening import run_intervene as run_intervene
    from influence.cli.job import run as run
    from influence.cli.probing import run_probe as run_probe
    from influence.cli.sparse import run_sparse_probe as run_sparse_probe
    from influence.data.corpus import corpus as corpus
    from influence.data.examples import examples as examples
    from influence.data.queries import queries as queries
    from influence.data.statements import statements as statements
    from influence.interventions.edit import edit as edit
    from influence.interventions.intervene import intervene as intervene
    from influence.llc.covariance import covariance as covariance
    from influence.llc.run import llc as llc
    from influence.model.likelihood import gaussian as gaussian
    from influence.model.load import load as load
    from influence.model.supervised import Supervised as Supervised
    from influence.model.untrained import untrained as untrained
    from influence.probing.activations import activations as activations
    from influence.probing.probe import probe as probe
    from influence.probing.result import depth_table as depth_table
    from influence.probing.sparse.probe import sparse_probe as sparse_probe
    from influence.report.drawn import depth_figure as depth_figure
    from influence.report.interventions import intervention_figure as intervention_figure
    from influence.report.page import write_report as write_report
    from influence.report.scored import layer_figure as layer_figure
    from influence.report.scored import tail_figure as tail_figure
    from influence.study.ladder import ladder as ladder
    from influence.study.opening import open_ladder as open_ladder
    from influence.study.result import open_study as open_study
    from influence.study.run import study as study
    from influence.truth.lds import lds as lds
    from influence.truth.pbrf import pbrf as pbrf
    from influence.truth.retrain import retrain as retrain
    from influence.truth.retrain import subsets as subsets

__version__ = "0.1.0"

_HOME = {
    "Supervised": "influence.model.supervised",
    "activations": "influence.probing.activations",
    "cg_solver": "influence.attribution.solvers",
    "corpus": "influence.data.corpus",
    "covariance": "influence.llc.covariance",
    "depth_figure": "influence.report.drawn",
    "depth_table": "influence.probing.result",
    "edit": "influence.interventions.edit",
    "examples": "influence.data.examples",
    "fit_diagonal": "influence.attribution.fit",
    "fit_ekfac": "influence.attribution.fit",
    "gaussian": "influence.model.likelihood",
    "intervene": "influence.interventions.intervene",
    "intervention_figure": "influence.report.interventions",
    "ladder": "influence.study.ladder",
    "layer_figure": "influence.report.scored",
    "layers": "influence.analysis.layers",
    "lds": "influence.truth.lds",
    "llc": "influence.llc",
    "lissa_solver": "influence.attribution.solvers",
    "load": "influence.model.load",
    "open_ladder": "influence.study.opening",
    "open_study": "influence.study.result",
    "pbrf": "influence.truth.pbrf",
    "predictive": "influence.attribution.trajectory",
    "probe": "influence.probing.probe",
    "queries": "influence.data.queries",
    "rank": "influence.attribution.rank",
    "retrain": "influence.truth.retrain",
    "row_norm": "influence.attribution.norm",
    "run": "influence.cli.job",
    "run_intervene": "influence.cli.intervening",
    "run_llc": "influence.cli.coefficients",
    "run_probe": "influence.cli.probing",
    "run_sparse_probe": "influence.cli.sparse",
    "score": "influence.attribution.score",
    "sparse_probe": "influence.probing.sparse.probe",
    "statements": "influence.data.statements",
    "study": "influence.study",
    "subsets": "influence.truth.retrain",
    "table": "influence.analysis.table",
    "tail": "influence.analysis.tails",
    "tail_figure": "influence.report.scored",
    "top": "influence.analysis.top",
    "truth_of": "influence.cli.checking",
    "untrained": "influence.model.untrained",
    "write_report": "influence.report.page",
}

_ROOMS = ("interventions",)  # whose names are written with the room: influence.interventions.freeze

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"influence.{name}")
    if name not in _HOME:
        raise AttributeError(f"influence has no {name!r}; its names are: {', '.join(__all__)}")
    home = import_module(_HOME[name])
    value = globals()[name] = home if home.__name__ == f"influence.{name}" else getattr(home, name)  # a room to call
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
