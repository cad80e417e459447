"""bergson: `lissa` and ASTRA's preconditioned CG on its own Gauss-Newton product; one query at a time, as it does."""

from __future__ import annotations

import functools
import logging
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from bergson import IndexConfig
from bergson.config import AstraConfig, LissaConfig
from bergson.config.config import HessianConfig, InversionConfig
from bergson.hessians.astra import Astra, GaussNewtonProduct
from bergson.hessians.eigenvectors import eigendecompose_owned
from bergson.hessians.hessian_approximations import collect_hessians
from bergson.hessians.lissa import lissa
from bergson.hessians.preconditioner import FactoredPreconditioner
from datasets import Dataset
from safetensors.torch import load_file
from solver_jobs import DIVERGING, Method, Problem, from_blocks, scales, to_blocks, too_small
from torch import Tensor, nn

ONE_BY_ONE = 10  # queries on which all but the sweep is measured: each is solved alone, so times are in proportion


class AsLanguageModel(nn.Module):
    """Rows [place, label]: the logits at the first position are the net's outputs for the example of that place."""

    def __init__(self, net: nn.Module, x: Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("x", x)
        self.config = SimpleNamespace(vocab_size=len(x), model_type="net")

    @property
    def base_model(self) -> nn.Module:
        return self.net

    @property
    def device(self) -> torch.device:
        return self.x.device

    def forward(self, input_ids: Tensor, *_: Any, **__: Any) -> SimpleNamespace:
        first = torch.zeros_like(input_ids)
        first[:, 0] = 1
        return SimpleNamespace(logits=self.net(self.x[input_ids * first] * first[..., None]))


class Bergson:
    def __init__(self, problem: Problem):
        for name in ("Lissa", "Astra", "CollectorComputer", "HookCollectorBase"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.problem, self.scratch = problem, tempfile.TemporaryDirectory()
        self.model = AsLanguageModel(problem.net(), problem.x)
        ids = [[place, label] for place, label in enumerate(problem.y.tolist())]
        labels = [[-100, label] for _, label in ids]
        self.data = Dataset.from_dict({"input_ids": ids, "labels": labels, "length": [2] * len(ids)})
        self.index = IndexConfig(run_path=f"{self.scratch.name}/bergson", include_bias=True)
        self.names = [name for name, layer in problem.net().named_modules() if isinstance(layer, nn.Linear)]

    def product(self, micro: int) -> GaussNewtonProduct:
        return GaussNewtonProduct(self.model, self.data, self.index, self.names, "sum", micro)

    def _each(self, v: Tensor, solve: Any) -> Tensor:
        found = []
        for one in v:
            parts = {
                n: part[0].flatten() for n, part in zip(self.names, to_blocks(self.problem, one[None]), strict=True)
            }
            x = solve(parts)
            shapes = [(o, i + 1) for i, o in zip(self.problem.widths[:-1], self.problem.widths[1:], strict=True)]
            found.append(from_blocks(x[n].view(1, *shape) for n, shape in zip(self.names, shapes, strict=True)))
        return torch.cat(found)

    def lissa(self, v: Tensor, steps: int, made: Any, scale: float, size: int) -> tuple[Tensor, float]:
        del made
        given = LissaConfig(damping=self.problem.lam, scale=scale, depth=steps, repeats=1, batch_size=size)
        product, generator = self.product(size), torch.Generator().manual_seed(0)
        x = self._each(v, lambda one: lissa(product, one, len(self.data), given, generator))
        return x, self.problem.passes(steps, size)

    def factors(self) -> FactoredPreconditioner:
        """K-FAC with corrected eigenvalues on labels drawn from the model, as its pipeline fits it."""
        path = str(self.index.partial_run_path)
        Path(path).mkdir(parents=True, exist_ok=True)
        kind = HessianConfig(method="kfac", ev_correction=True, hessian_dtype="fp32", use_dataset_labels=False)
        groups = [list(range(start, min(start + 64, len(self.data)))) for start in range(0, len(self.data), 64)]
        options = {"batches": groups, "hessian_cfg": kind, "path": path}
        first = collect_hessians(self.model, self.data, self.index, **options)
        sides = (("A", first.A_cov_dict, first.A_shapes), ("G", first.S_cov_dict, first.S_shapes))
        bases = [
            eigendecompose_owned(
                dict(sums), shapes, None, 1, f"{path}/{side}", self.problem.v.dtype, dict(first.num_positions)
            )[0]
            for side, sums, shapes in sides
        ]
        kept = tuple(dict(base) for base in bases)
        more = {"ev_correction": True, "num_documents": len(self.data), "eigenvectors": kept}
        collect_hessians(self.model, self.data, self.index, **options, **more)
        values = load_file(f"{path}/eigenvalue_correction_sharded/shard_0.safetensors")
        inversion = InversionConfig(damping_factor=self.problem.lam, inversion="absolute_damped_inverse")
        parts = [{name: value.float() for name, value in part.items()} for part in (*bases, values)]
        return FactoredPreconditioner(*parts, inversion_cfg=inversion)

    def ekfac(self, v: Tensor, steps: int, made: FactoredPreconditioner) -> tuple[Tensor, float]:
        del steps

        def solve(one: dict[str, Tensor]) -> dict[str, Tensor]:
            return {n: x[0] for n, x in made.apply({n: part[None] for n, part in one.items()}).items()}

        return self._each(v, solve), 0.0

    def astra(self, v: Tensor, steps: int, made: FactoredPreconditioner, **options: Any) -> tuple[Tensor, float]:
        """`Astra.refine` from the EK-FAC answer on; the class reads its queries from disk, so it is filled by hand."""
        size = options.pop("batch_size")
        tool = Astra.__new__(Astra)
        tool.cfg = AstraConfig(num_steps=steps, batch_size=size, **options)
        tool.logger, tool.preconditioner, tool.names = logging.getLogger("Astra"), made, self.names
        tool.damping = dict.fromkeys(self.names, self.problem.lam)
        tool.hvp, tool.num_docs = self.product(size), len(self.data)

        def solve(one: dict[str, Tensor]) -> dict[str, Tensor]:
            start = {n: x[0].clone() for n, x in made.apply({n: part[None] for n, part in one.items()}).items()}
            return tool.refine(one, start, 0)

        products = steps + 1 if tool.cfg.solver == "cg" else steps
        return self._each(v, solve), self.problem.passes(products, size)


def methods(problem: Problem) -> list[Method]:
    tool = Bergson(problem)
    steps, size, rows = problem.lissa_steps, problem.batch, len(problem.x)
    made = {"setup": tool.factors}
    found = [Method("bergson EK-FAC", "drawn labels", tool.ekfac, default=True, **made)]
    for cg in problem.cg_steps:
        solve = functools.partial(tool.astra, solver="cg", batch_size=rows)
        found.append(Method(f"bergson EK-FAC-CG {cg}", "all rows", solve, cg, default=True, **made))
    for lr in (0.01, 0.001):
        solve = functools.partial(tool.astra, lr=lr, batch_size=size)
        found.append(Method("bergson ASTRA", f"lr {lr:g}", solve, steps, default=lr == 0.01, **made))
    solve = functools.partial(tool.lissa, scale=100.0, size=16)
    found.append(Method("bergson LiSSA", "scale 100, batch 16 (its defaults)", solve, 2 * steps, default=True))
    for scale in scales(problem):
        solve = functools.partial(tool.lissa, scale=scale, size=size)
        found.append(Method("bergson LiSSA", f"scale {scale:.3g}, batch {size}", solve, steps))
    solve = functools.partial(tool.lissa, scale=too_small(problem), size=size)
    found.append(Method("bergson LiSSA", DIVERGING, solve, steps, diverging=True))
    return found


def version() -> str:
    return f"bergson {metadata.version('bergson')}"
