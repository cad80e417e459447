"""Which solver a run asks for, and the queries' solutions of the iterative ones: solved once, kept, used in every pass.

λ of every block is the same for all of them: `damping` times the mean eigenvalue of the run's EK-FAC factors.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    import ekfac
    from influence.attribution.solvers import IterativeSolver
    from influence.types import LM, Grad, Rows, Scores, Solution

DIRECT = ("ekfac", "kfac", "diagonal", "identity")
STEPS = {"lissa": 1000, "cg": 50, "ekfac-lissa": 100, "ekfac-cg": 20, "accurate": 20}
"""Products at most by name of an iterative solver; `accurate` is `ekfac-cg`, named for what it is for."""
NAMES = (*DIRECT, *STEPS)


def choice(solver: str, steps: int | None) -> dict[str, Any]:
    """The two settings as a run records them, `solver_steps` filled in. Raises ValueError for what makes no sense."""
    if solver not in NAMES:
        close = difflib.get_close_matches(str(solver), NAMES, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"solver is {solver!r}; {hint}it is one of {', '.join(NAMES)}")
    if solver in DIRECT:
        if steps is not None:
            raise ValueError(
                f"solver_steps={steps} does nothing for the solver {solver}, which takes no steps; "
                f"leave it out, or ask for one of {', '.join(STEPS)}"
            )
        return {"solver": solver, "solver_steps": None}
    if steps is not None and steps < 1:
        raise ValueError(f"solver_steps is {steps}; the solver {solver} needs at least one step")
    return {"solver": solver, "solver_steps": STEPS[solver] if steps is None else steps}


@dataclass(frozen=True, eq=False)
class Solved:
    """A solver that answers with the solution found before for these very queries."""

    name: str
    damping: float
    solution: Solution

    def __call__(self, grad: Grad) -> Solution:
        from influence.grads import queries

        had, came = queries(self.solution.value), queries(grad)
        if had != came:
            raise ValueError(f"gradients of {came} queries came and {had} were solved; ask for the solved ones")
        return self.solution

    def of(self, place: int) -> Solved:
        """The same for the query at this place alone."""
        value: Grad = {name: part[place : place + 1] for name, part in self.solution.value.items()}  # type: ignore[misc]
        residual = self.solution.residual
        return replace(
            self,
            solution=replace(
                self.solution, value=value, residual=None if residual is None else residual[place : place + 1]
            ),
        )


def direct(
    name: str, factors: ekfac.Factors, damping: float, fit_diagonal: Callable[[], ekfac.Factors]
) -> ekfac.EKFACSolver:
    """A solver that needs no product. With `identity` G is the identity and λ zero: the gradients' dot product."""
    import ekfac

    plain = ekfac.solver(factors, damping)
    if name == "ekfac":
        return plain
    if name == "identity":
        some = next(iter(factors.values())).eigenvalues
        shapes = {block: (one.eigenvalues.shape[0], one.eigenvalues.shape[1]) for block, one in factors.items()}
        return ekfac.solver(ekfac.identity(shapes, dtype=some.dtype, device=some.device), 0.0)
    other = ekfac.kfac(factors) if name == "kfac" else fit_diagonal()
    return ekfac.solver(other, damping, absolute=plain.lam)


def iterative(
    name: str, steps: int, lm: LM, rows: Rows, plain: ekfac.EKFACSolver, options: dict[str, Any]
) -> IterativeSolver:
    """LiSSA or conjugate gradients over all rows with λ and preconditioner of `plain`; options as `cg_solver`'s."""
    from influence.attribution.solvers import cg_solver, lissa_solver

    inner = plain if name.startswith("ekfac") or name == "accurate" else None
    own: dict[str, Any] = {"factors": plain.factors, "damping": plain.damping, "precondition": inner, "steps": steps}
    if "lissa" in name:
        # its mini-batches are part of the method, so the run's batch size does not change them
        return lissa_solver(lm, rows, **own, **{k: v for k, v in options.items() if k != "batch_size"})
    return cg_solver(lm, rows, **own, **options)


def save(solution: Solution, path: Path) -> None:
    """The solution's values, residuals and certificate in one safetensors file."""
    from safetensors.torch import save_file

    from influence.grads import dense

    tensors = {f"value/{name}": dense(part).cpu().contiguous() for name, part in solution.value.items()}
    if solution.residual is not None:
        tensors["residual"] = solution.residual.cpu().contiguous()
    told = {"info": solution.info, "steps": solution.steps, "converged": solution.converged}
    save_file(tensors, path, {"told": json.dumps({**told, "blocks": list(solution.value)})})


def load(path: Path, device: Any) -> Solution:
    """What `save` wrote, on this device."""
    from safetensors import safe_open

    from influence.types import Solution

    with safe_open(str(path), "pt", device=str(device)) as file:
        told = json.loads(file.metadata()["told"])
        value: Grad = {name: file.get_tensor(f"value/{name}") for name in told.pop("blocks")}
        residual = file.get_tensor("residual").cpu() if "residual" in file.keys() else None  # noqa: SIM118
    return Solution(value, residual, told["steps"], told["converged"], told["info"])


def certificate(scores: Scores) -> pd.DataFrame:
    """`query, residual, floor, residual_all_rows, change, change_rank` of certified scores, one line per query.

    A residual over all rows has the floor zero.
    """
    import pandas

    info, residual = scores.attrs["certificate"], scores.attrs["residual"]
    sampled = info.get("floor") is not None
    columns = {
        "query": scores["query"].values,
        "residual": residual,
        "floor": info["floor"] if sampled else 0.0,
        "residual_all_rows": info["residual_all_rows"] if sampled else residual,
        "change": float("nan") if info.get("change") is None else info["change"],
        "change_rank": float("nan") if info.get("change_rank") is None else info["change_rank"],
    }
    return pandas.DataFrame(columns)


def told(scores: Scores, name: str) -> dict[str, Any] | None:
    """What is the same for all queries of a certified run, for its manifest; None where nothing was certified."""
    info = scores.attrs.get("certificate")
    if info is None:
        return None
    kept = ("precondition", "products", "products_certificate", "certificate", "certificate_rows", "change_since")
    found = {key: info[key] for key in kept if info.get(key) is not None}
    return {"solver": name, "steps": scores.attrs["steps"], "converged": scores.attrs["converged"], **found}
