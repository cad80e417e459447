"""Does removing the rows that EK-FAC names make a model forget what they taught?

    python benchmarks/removal.py --out runs/removal

Trains a model of the embedded world per seed, removes the top rows of learned facts, retrains, asks again; as many
random fact rows and BM25's rows stand beside. Writes removal.json and prints a table. About 20 trainings.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from influence.truth.removal import drops, removal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/removal", help="folder of the trainings, kept for the next call")
    parser.add_argument("--size", default="d128")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("-k", type=int, default=8, help="rows removed per query")
    parser.add_argument("--queries", type=int, default=40)
    asked = parser.parse_args()
    start = time.perf_counter()
    table = removal(asked.out, size=asked.size, seeds=range(asked.seeds), k=asked.k, queries=asked.queries)
    print(table.round(3).to_string(index=False))
    found = {phrasing: drops(table, phrasing) for phrasing in ("canonical", "held_out")}
    for phrasing, one in found.items():
        print(f"\nrecall ({phrasing}) lost beyond random fact rows:\n{one.round(3).to_string(index=False)}")
    record = {
        "seconds": round(time.perf_counter() - start, 1),
        "table": table.to_dict("records"),
        "drops": {phrasing: one.to_dict("records") for phrasing, one in found.items()},
    }
    path = Path(asked.out) / "removal.json"
    path.write_text(json.dumps(record, indent=1))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
