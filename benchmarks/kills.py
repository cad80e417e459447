"""The demo killed at random moments ends with the same bytes as the demo left alone.

    python benchmarks/kills.py --kills 3

Runs `influence demo` once undisturbed and times it, then in another folder with SIGKILL to it and its children at
moments drawn from the seed, and compares the checksums of every model and of every numeric piece.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

NUMERIC = (".safetensors", ".zarr", ".parquet")


def demo(out: Path, extra: list[str]) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        "from influence.cli import main; main()",
        "demo",
        "--out",
        str(out),
        "--no-progress",
    ]
    return subprocess.Popen(
        [*command, *extra], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def killed(out: Path, extra: list[str], after: float) -> float | None:
    """Seconds after which the process group was killed; None where it was done before."""
    process = demo(out, extra)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return after
    return None


def numbers(out: Path) -> dict[str, str]:
    """Checksums of all numeric pieces of all runs, and of all kept weights."""
    found = {}
    for manifest in sorted(out.glob("*/manifest.json")):
        for name, piece in json.loads(manifest.read_text())["pieces"].items():
            if name.endswith(NUMERIC):
                found[f"{manifest.parent.name}/{name}"] = piece["sha256"]
    for weights in sorted(out.glob("models/**/*.safetensors")):
        found[str(weights.relative_to(out))] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return found


def _kills(out: Path, asked: argparse.Namespace, rng: random.Random, longest: float) -> list[float]:
    """When each of the kills came; empty where the demo was done before one of them."""
    times = []
    for _ in range(asked.kills):
        after = killed(out, asked.extra, rng.uniform(3, longest))
        if after is None:
            return []
        times.append(after)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/kills")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("extra", nargs="*", help="more arguments of `influence demo`, after --")
    asked = parser.parse_args()
    out, rng = Path(asked.out), random.Random(asked.seed)
    start = time.perf_counter()
    if code := demo(out / "alone", asked.extra).wait():
        print(f"the undisturbed demo ended with exit code {code}")
        return 1
    seconds = time.perf_counter() - start
    print(f"undisturbed: {seconds:.0f} s")
    longest = max(6.0, seconds / asked.kills)
    while not (times := _kills(out / "killed", asked, rng, longest)):
        print(f"done before a kill within {longest:.0f} s; begun anew with shorter times")
        shutil.rmtree(out / "killed")
        longest = max(4.0, longest / 2)
    print("killed after " + ", ".join(f"{after:.1f} s" for after in times))
    if code := demo(out / "killed", asked.extra).wait():
        print(f"the last call ended with exit code {code}")
        return 1
    one, two = numbers(out / "alone"), numbers(out / "killed")
    differ = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    print(f"{len(one)} numeric pieces and weights; different: {differ or 'none'}")
    return int(bool(differ))


if __name__ == "__main__":
    raise SystemExit(main())
