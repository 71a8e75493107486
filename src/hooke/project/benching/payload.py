"""Bodies of requests, and times of arrival, from what the user gave."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np

from hooke.base.errors import UsageError
from hooke.load.arrivals import Arrivals, constant, poisson, recorded

__all__ = ["arrivals_of", "bodies_of"]

MOST_BODIES = 100_000
NAMED = {"poisson": poisson, "constant": constant}


def bodies_of(data: str) -> list[bytes]:
    """`--data`: JSON, or `@FILE` with a JSON document or one in each line, which are then sent in turn. Raises UsageError."""
    if not data.startswith("@"):
        return [_json(data.encode(), "--data")]
    path = Path(data[1:])
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--data {data}: {error.strerror}", mend="name a file of JSON: --data @rows.json"
        ) from error
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            return [_json(text, str(path))]
        return [_json(line, f"{path}, line {at}") for at, line in enumerate(lines[:MOST_BODIES], 1)]
    return [text.strip()]


def arrivals_of(name: str) -> Arrivals:
    """`--arrivals`: a name, or a CSV file whose first column is the time of each arrival in seconds. Raises UsageError."""
    if name in NAMED:
        return NAMED[name]
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"--arrivals {name}: neither a kind nor a file",
            mend=f"{', '.join(NAMED)}, or a CSV file of a trace",
        )
    times: list[float] = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                times.append(float(row[0]))
            except (ValueError, IndexError):
                if number > 1 and row:
                    raise UsageError(
                        f"{path}, line {number}: {row[0]!r} is no time",
                        mend="the first column is seconds; a heading may stand above",
                    ) from None
    return recorded(np.array(times))


def _json(text: bytes, where: str) -> bytes:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{where} is no JSON: {error}", mend="--data '{\"rows\": [[1, 2]]}', or --data @FILE"
        ) from error
    return text.strip()
