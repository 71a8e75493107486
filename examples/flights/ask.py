"""Request forecasts for the flights of the last quarter at a steady rate, and compare each with the champion's own forecast.

    hooke serve examples/flights/service.py --with model=flights@champion
    python examples/flights/ask.py http://127.0.0.1:8000 --rate 50 --seconds 10

Latency counts from when a request was due, so waiting for a turn is visible. Ctrl-C or SIGTERM ends it early.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import signal
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from flight_features import features
from service import SCHEMA

import flights
import hooke

CONNECTIONS = 16
HERE = Path(__file__).parent


@dataclass(slots=True)
class Asked:
    """The outcome: seconds of each response, failures, and different forecasts."""

    took: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wrong: int = 0


def last_quarter(months: int) -> pl.DataFrame:
    """The rows outside training and selection that have a forecast to compare with."""
    tables = {name: flights.read(flights.source(f"{name}.csv")) for name in ("airports", "weather", "planes")}
    year = flights.read_flights(flights.source("flights.csv.zip"))
    first = months - max(1, months // 4) + 1
    parts = [
        flights.month(number, year=year, airports=tables["airports"])
        for number in range(first - 1, months + 1)
    ]
    rows = features.map(parts[1:], parts[:-1], weather=tables["weather"], planes=tables["planes"])
    return pl.concat(rows).select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def ask(
    url: str, token: str, bodies: list[bytes], truth: np.ndarray, *, rate: float, ends: threading.Event
) -> Asked:
    """Send the bodies in turn, `rate` per second, until `ends` is set."""
    asked, numbers, began = Asked(), itertools.count(), time.monotonic()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    def work() -> None:
        place = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=30)
        for number in numbers:
            due = began + number / rate
            if ends.wait(max(0.0, due - time.monotonic())):
                break
            at = number % len(bodies)
            try:
                place.request("POST", "/predict", bodies[at], headers)
                answer = place.getresponse()
                said = answer.read()
            except (OSError, http.client.HTTPException) as error:
                place.close()
                asked.failed.append(repr(error))
                continue
            if answer.status != 200:
                asked.failed.append(f"{answer.status}: {msgspec.json.decode(said)['detail']}")
            else:
                asked.took.append(time.monotonic() - due)
                asked.wrong += msgspec.json.decode(said) != [truth[at]]
        place.close()

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return asked


def main() -> int:
    """Exit code 1 if a request failed or a forecast differs."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("url")
    arguments.add_argument(
        "--token-file", type=Path, default=HERE / ".hooke" / "services" / "Delay" / "token"
    )
    arguments.add_argument("--months", type=int, default=12)
    arguments.add_argument("--rate", type=float, default=50.0, help="requests per second")
    arguments.add_argument("--seconds", type=float, default=10.0)
    given = arguments.parse_args()

    rows = last_quarter(given.months)
    truth = hooke.load_model("flights@champion").predict(rows)
    bodies = [msgspec.json.encode({"flights": [row]}) for row in rows.to_dicts()]
    token = given.token_file.read_text("utf-8").strip()

    ends = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ends.set())
    print(f"requesting forecasts for {len(bodies)} flights in turn, {given.rate:g} per second", flush=True)
    timer = threading.Timer(given.seconds, ends.set)
    timer.start()
    began = time.monotonic()
    asked = ask(given.url, token, bodies, truth, rate=given.rate, ends=ends)
    seconds = time.monotonic() - began
    timer.cancel()

    for line in dict.fromkeys(asked.failed):
        print(f"failed {asked.failed.count(line)} times: {line}")
    if asked.took:
        middle, most = np.percentile(asked.took, [50, 99]) * 1e3
        print(
            f"{len(asked.took)} responses in {seconds:.1f} s, {len(asked.took) / seconds:.0f} per second; p50 {middle:.1f} ms, p99 {most:.1f} ms"
        )
    print(f"{len(asked.failed)} failed, {asked.wrong} differ from the run's own forecasts")
    return 1 if asked.failed or asked.wrong or not asked.took else 0


if __name__ == "__main__":
    raise SystemExit(main())
