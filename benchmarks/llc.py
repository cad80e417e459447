"""Local learning coefficients: accuracy on known models, cost of a chain step, vmap or one by one; beside
devinterp.

    python benchmarks/llc.py                                     # ours alone
    python benchmarks/llc.py --peer 1.3.2=PATH --peer 2.0.1=PATH # with folders that hold the package and what
    it needs

Times are CPU seconds of one thread, so that other work on the machine changes them little. The plain step of
SGD takes the same batches: forward, backward, `torch.optim.SGD.step`. A peer's time includes its set-up, spread
over the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from llc_models import Case, cases, rows, sized
from torch import nn
from torch.func import functional_call

from influence.llc.estimate import estimate
from influence.llc.run import plan_of
from influence.llc.space import space
from influence.llc.target import Target, of_items
from influence.llc.trace import sample

HERE = Path(__file__).parent
CHAIN = {"chains": 4, "draws": 200, "burn_in": 100, "batch_size": 32, "n_beta": 30.0, "gamma": 100.0, "step_size": 1e-5}


def main() -> None:
    args = parsed()
    torch.set_num_threads(1)
    peers = dict(one.split("=", 1) for one in args.peer)
    for name, job in {"known": known, "cost": cost, "crossover": crossover}.items():
        if args.only in (None, name):
            table = job(args, peers)
            print(f"\n{name}\n{table.to_string(index=False, float_format=lambda value: f'{value:.4g}')}", flush=True)
            if args.out:
                Path(args.out).mkdir(parents=True, exist_ok=True)
                table.to_csv(Path(args.out) / f"llc-{name}.csv", index=False)


def target_of(net: nn.Module) -> Target:
    def losses(weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = functional_call(net, weights, (ids,))
        return found

    return of_items(losses, dict(net.named_parameters()), [rows(net)], net=net)


def known(args: argparse.Namespace, peers: dict[str, str]) -> pd.DataFrame:
    """Estimates on known models by every sampler, and by the peers with SGLD's settings."""
    lines = []
    for case in cases():
        length = {"chains": args.chains, "draws": args.draws * 10, "burn_in": args.burn_in}
        for sampler in ("sgld", "rmsprop", "sgnht"):
            lines.append({"model": case.name, "truth": case.truth, "by": sampler, **ours(case, sampler, args)})
        for name, path in peers.items():
            own = {**length, "batch_size": 32, "n_beta": case.n_beta, "gamma": case.gamma, "step_size": case.step_size}
            found = peer(path, {"case": case.name, "settings": own})
            print(case.name, name, found, file=sys.stderr, flush=True)
            lines.append({"model": case.name, "truth": case.truth, "by": f"devinterp {name}", **found})
    frame = pd.DataFrame(lines)
    frame.insert(4, "error %", 100 * (frame["value"] / frame["truth"] - 1))
    return frame


def ours(case: Case, sampler: str, args: argparse.Namespace) -> dict[str, Any]:
    target = target_of(case.net)
    coordinates = space(target, case.mask)
    step = case.fast if sampler == "sgnht" and case.fast else case.step_size
    plan = plan_of(
        target, coordinates, sampler=sampler, step_size=step, n_beta=case.n_beta, gamma=case.gamma,
        chains=args.chains, draws=args.draws, thin=10, burn_in=args.burn_in, batch_size=32,
    )  # fmt: skip
    start = time.process_time()
    found = estimate(sample(target, coordinates, plan, progress=False))
    seconds = (time.process_time() - start) / (plan.steps * plan.chains)
    return {"value": found.value, "mcse": found.mcse, "rhat": found.rhat, "seconds": seconds}


def cost(args: argparse.Namespace, peers: dict[str, str]) -> pd.DataFrame:
    """CPU time of a step of one chain, relative to a plain step of SGD."""
    lines = []
    for name, net in chosen(args).items():
        settings = {**CHAIN, "draws": args.steps, "burn_in": args.steps // 2}
        plain = sgd_step(net, args.steps)
        line = {"net": name, "parameters": sum(p.numel() for p in net.parameters()), "SGD step, µs": plain * 1e6}
        line["ours"] = chain_step(net, settings, None) / plain
        for version, path in peers.items():
            line[f"devinterp {version}"] = peer(path, {"net": name, "settings": settings})["seconds"] / plain
        lines.append(line)
        print(line, file=sys.stderr, flush=True)
    return pd.DataFrame(lines)


def chosen(args: argparse.Namespace) -> dict[str, nn.Module]:
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in sized().items()}
    found = {name: net for name, net in sized().items() if args.smallest <= counts[name] <= args.largest}
    if not found:
        raise SystemExit(f"no net has {args.smallest} to {args.largest} parameters; there are {counts}")
    return found


def crossover(args: argparse.Namespace, peers: dict[str, str]) -> pd.DataFrame:
    """CPU time of a step of one chain of four, one by one and under vmap; in a language model one map moves."""
    lines = []
    for name, net in chosen(args).items():
        moving = [key for key, _ in net.named_parameters() if key.endswith("query_key_value.weight")][:1]
        for batch in (2, 8, 32) if moving else (32,):
            settings = {**CHAIN, "draws": args.steps, "burn_in": 8, "batch_size": batch}
            alone, together = (chain_step(net, settings, vectorised, moving) for vectorised in (False, True))
            count = sum(p.numel() for key, p in net.named_parameters() if not moving or key in moving)
            line = {"net": name, "parameters that move": count, "numbers in a batch": batch * rows(net).shape[1]}
            line |= {"one by one, µs": alone * 1e6, "vmap, µs": together * 1e6, "gain": alone / together}
            lines.append(line)
            print(lines[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(lines)


def chain_step(net: nn.Module, settings: dict[str, Any], vectorised: bool | None, moving: Sequence[str] = ()) -> float:
    """Seconds per step of one chain, the loss at w* and the checks of step size included."""
    target = target_of(net)
    coordinates = space(target, dict.fromkeys(moving, True) or None)
    sample(target, coordinates, plan_of(target, coordinates, **{**settings, "draws": 8, "burn_in": 0}, thin=1),
           vectorised=vectorised, progress=False)  # fmt: skip
    plan = plan_of(target, coordinates, **settings, thin=1)
    start = time.process_time()
    sample(target, coordinates, plan, vectorised=vectorised, progress=False)
    return (time.process_time() - start) / (plan.steps * plan.chains)


def sgd_step(net: nn.Module, steps: int) -> float:
    ids = rows(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    generator = torch.Generator().manual_seed(0)
    start = 0.0
    for step in range(steps + 10):
        if step == 10:
            start = time.process_time()
        batch = ids[torch.randint(len(ids), (32,), generator=generator)]
        optimizer.zero_grad()
        net(batch).mean().backward()
        optimizer.step()
    seconds = (time.process_time() - start) / steps
    net.load_state_dict(before)
    net.zero_grad()
    return seconds


def peer(path: str, job: dict[str, Any]) -> dict[str, Any]:
    """The peer's answer, or why there is none."""
    paths = [path, str(HERE.parent), str(HERE)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / "llc_peers.py"), json.dumps(job)], env=env, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        print(f"devinterp at {path}: {said}", file=sys.stderr)
        return {"value": float("nan"), "seconds": float("nan")}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("known", "cost", "crossover"))
    parser.add_argument("--peer", action="append", default=[], metavar="VERSION=PATH")
    parser.add_argument("--chains", type=int, default=100)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--burn-in", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=200, help="of the timings")
    parser.add_argument("--smallest", type=int, default=0, help="number of parameters of the timed nets")
    parser.add_argument("--largest", type=int, default=10**9, help="number of parameters of the timed nets")
    parser.add_argument("--out", help="folder for tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
