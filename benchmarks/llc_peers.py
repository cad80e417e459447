"""One job with an installed devinterp (1.x or 2.x): its estimate and CPU seconds per chain step, as JSON.

Started by `llc.py` with the peer's own path; `{"case": …}` or `{"net": …}` and the chains' settings come as an
argument.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import torch
from llc_models import cases, rows, sized
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if "case" in asked:
        one = next(case for case in cases() if case.name == asked["case"])
        net, mask = one.net, one.mask
    else:
        net, mask = sized()[asked["net"]], None
    run = new if _version() >= 2 else old
    start = time.process_time()
    value = run(net, rows(net), mask, asked["settings"])
    seconds = time.process_time() - start
    steps = asked["settings"]["chains"] * (asked["settings"]["burn_in"] + asked["settings"]["draws"])
    print(json.dumps({"value": value, "seconds": seconds / steps}))


def _version() -> int:
    from importlib.metadata import version

    return int(version("devinterp").split(".")[0])


def old(net: nn.Module, ids: Tensor, mask: dict[str, Tensor] | None, settings: dict[str, Any]) -> float:
    from devinterp.optim.sgld import SGLD
    from devinterp.slt.sampler import estimate_learning_coeff_with_summary

    loader = DataLoader(TensorDataset(ids), batch_size=settings["batch_size"], shuffle=True)

    def evaluate(model: nn.Module, data: Any) -> Any:
        return model(data[0]).mean(), {}

    with torch.no_grad():
        start = float(net(ids).mean())
    own = {"lr": settings["step_size"], "nbeta": settings["n_beta"], "localization": settings["gamma"]}
    found = estimate_learning_coeff_with_summary(
        net, loader, evaluate=evaluate, sampling_method=SGLD, optimizer_kwargs=own, num_draws=settings["draws"],
        num_chains=settings["chains"], num_burnin_steps=settings["burn_in"], init_loss=start, seed=0, device="cpu",
        verbose=False, optimize_over_per_model_param=mask,
    )  # fmt: skip
    return float(found["llc/mean"])


def new(net: nn.Module, ids: Tensor, mask: dict[str, Tensor] | None, settings: dict[str, Any]) -> float:
    import datasets
    from devinterp.slt.llc import llc

    data = datasets.Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch")

    def losses(model: nn.Module, some: Tensor) -> Tensor:
        return model(some)[:, None].expand(-1, some.shape[1] - 1)

    found = llc(
        net, data, {}, lr=settings["step_size"], n_beta=settings["n_beta"], localization=settings["gamma"],
        num_chains=settings["chains"], num_draws=settings["draws"], num_burnin_steps=settings["burn_in"],
        batch_size=settings["batch_size"], loss_fn=losses, param_masks=mask, device="cpu",
    )  # fmt: skip
    return float(found["llc_mean"])


if __name__ == "__main__":
    main()
