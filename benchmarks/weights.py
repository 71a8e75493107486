"""How long a start waits for weights: the first one on a machine, later ones, and several at once.

    python -m benchmarks.weights --record

Each start is a process of its own that calls `hooke.weights` and maps a safetensors file. The server of objects is on the same machine, so the
first start is as quick as the machine can copy and compare: a network takes longer, the later starts do not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tests.support.object_server import ObjectServer

RECORD = Path(__file__).parent / "records" / "weights.json"
TENSORS, TENSOR_BYTES = 16, 32 << 20
TRIES, TOGETHER = 5, 3
START = """
import sys, time
import hooke
from safetensors import safe_open
began = time.monotonic()
path = hooke.weights(sys.argv[1], cache=sys.argv[2])
fetched = time.monotonic()
with safe_open(path, "np") as file:
    total = sum(float(file.get_tensor(name)[::1024].sum()) for name in file.keys())
print(fetched - began, time.monotonic() - fetched)
"""


def starts(url: str, cache: Path, count: int = 1) -> tuple[float, float]:
    """Seconds of the slowest of so many starts at once: until there are weights, and to map and read them."""
    words = [sys.executable, "-c", START, url, str(cache)]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    told = [[float(part) for part in each.communicate()[0].split()] for each in children]
    return max(one[0] for one in told), max(one[1] for one in told)


def measured() -> list[dict[str, Any]]:
    """All tries."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bucket = Path(folder) / "bucket"
        bucket.mkdir()
        chance = np.random.default_rng(1)
        tensors = {f"layer{at}": chance.random(TENSOR_BYTES // 8).astype(np.float64) for at in range(TENSORS)}
        save_file(tensors, bucket / "model.safetensors")
        with ObjectServer(Path(folder)) as server:
            url = f"{server.url}/bucket/model.safetensors"
            for number in range(TRIES):
                cache = Path(folder) / f"cache{number}"
                for what, count in (("first", 1), ("second", 1), ("three at once, later", TOGETHER)):
                    rows.append(_row(what, *starts(url, cache, count), server))
                other = Path(folder) / f"other{number}"
                rows.append(_row("three at once, first", *starts(url, other, TOGETHER), server))
                time.sleep(0.1)
    return rows


def _row(what: str, weights_s: float, read_s: float, server: ObjectServer) -> dict[str, Any]:
    sent = sum(high - low for low, high in server.served())
    return {"start": what, "weights_s": round(weights_s, 4), "read_s": round(read_s, 4), "bytes_sent": sent}


def table(record: dict[str, Any]) -> str:
    """Medians of the tries."""
    kinds = list(dict.fromkeys(row["start"] for row in record["rows"]))
    lines = [
        "| start | until there are weights | to map and read them | sent by the server |",
        "|---|---:|---:|---:|",
    ]
    for kind in kinds:
        rows = [row for row in record["rows"] if row["start"] == kind]
        middle = [
            sorted(row[name] for row in rows)[len(rows) // 2]
            for name in ("weights_s", "read_s", "bytes_sent")
        ]
        lines.append(f"| {kind} | {middle[0]:.2f} s | {middle[1]:.2f} s | {middle[2] / 2**20:.0f} MiB |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")
    asked = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    record = {"machine": machine, "seed": 1, "bytes": TENSORS * TENSOR_BYTES, "rows": measured()}
    print(table(record))
    if asked.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
