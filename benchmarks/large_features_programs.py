"""What `test_large_features.py` starts, each in a process of its own: writes the files, or prepares features with or without Hooke.

Prints a JSON object of wall seconds, CPU seconds of the process and those below it, and the largest peak of a process in MiB.
"""

import json
import resource
import sys
import time
from pathlib import Path

import many_rows
import psutil
from many_rows import FOLDER, PART_ROWS

import hooke
from flights import read, read_flights, source
from hooke import pipeline

TASKS = {"polars": many_rows.with_polars, "duckdb": many_rows.with_duckdb}


def write(rows: int) -> None:
    year = many_rows.columns(read_flights(source("flights.csv.zip")))
    many_rows.part.map(range(-(-rows // PART_ROWS)), rows=rows, year=year)


def files(count: int) -> list[Path]:
    return [FOLDER / f"part-{number:05}.parquet" for number in range(count)]


def plain(count: int, engine: str) -> tuple[dict[str, float], float]:
    """Tasks outside a run are functions. Also the peak of this process, in bytes."""
    weather = many_rows.weather_by_hour(read(source("weather.csv")))
    found = many_rows.summary(TASKS[engine](files(count), weather))
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pipeline
def prepared(count: int, engine: str) -> dict[str, float]:
    weather = many_rows.weather_by_hour(read(source("weather.csv")))
    return many_rows.summary(TASKS[engine](files(count), weather))


def with_hooke(count: int, engine: str) -> tuple[dict[str, float], float]:
    """Has the library's task compute, whatever is stored. Also the largest peak of a worker, in bytes."""
    done = hooke.run(
        prepared, count=count, engine=engine, workers=2, progress="none", force=[f"with_{engine}"]
    )
    known = [
        task.peak_bytes or 0 for task in done.tasks()
    ]  # of workers that have ended; 0 if a task raised no peak
    return done.result(), max(
        known + [peak_bytes(each) for each in psutil.Process().children(recursive=True)]
    )


def peak_bytes(process: psutil.Process) -> int:
    """The most memory that a process held, with files that it mapped."""
    status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def cpu_s() -> float:
    """Of this process and those below it."""
    times = [each.cpu_times() for each in (psutil.Process(), *psutil.Process().children(recursive=True))]
    return sum(each.user + each.system for each in times)


def main(kind: str, rows: int, engine: str = "") -> None:
    if kind == "write":
        write(rows)
        return
    count = len(list(FOLDER.glob("part-*.parquet")))
    run = plain if kind == "plain" else with_hooke
    run(1, engine)  # imports, and workers that are warm
    wall, cpu = time.perf_counter(), cpu_s()
    found, peak = run(count, engine)
    figures = {"wall": time.perf_counter() - wall, "cpu": cpu_s() - cpu, "peak": peak / (1 << 20)}
    assert found["rows"] > 0.9 * rows
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
