"""Pipelines of eleven shapes. Plain Python but for the decorators and File."""

import os
from pathlib import Path
from typing import NamedTuple

from hooke import File, pipeline, task


class Candidate(NamedTuple):
    leaves: int
    rate: float = 0.1


GRID = (Candidate(3), Candidate(5, 0.2))
MONTHS = ("jan", "feb", "mar", "apr")


@task
def numbers(n: int, start: int = 0) -> list[int]:
    return list(range(start, start + n))


@task(retries=1)
def double(x: int, by: int = 2) -> int:
    return x * by


@task
def total(values: list[int], label: str = "sum") -> dict[str, int]:
    return {label: sum(values), "count": len(values)}


@task(retries=1)
def careful(x: int, bad: int = 2) -> int:
    if x == bad:
        raise ValueError(f"{x} is bad")
    return x * 10


@task
def pair(left: int, right: int | None) -> tuple[int, int]:
    return left, left if right is None else right


@task
def month_rows(month: str, scale: float) -> list[float]:
    return [scale * (ord(letter) - 96) for letter in month]


@task
def fit(candidate: Candidate, rows: list[list[float]]) -> float:
    return candidate.leaves * candidate.rate * sum(map(sum, rows))


@task
def scaled(candidate: Candidate, by: int) -> float:
    return candidate.rate * by


@task
def best(candidates: tuple[Candidate, ...], scores: list[float]) -> Candidate:
    return max(zip(candidates, scores, strict=True), key=lambda each: each[1])[0]


@task
def write(number: int) -> File:
    path = Path("numbers", f"{number}.txt")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"number {number}")
    return File(path)


@task
def read(file: File, encoding: str = "utf-8") -> str:
    return Path(file).read_text(encoding)


@task(gang=2, results="all")
def ranks(start: int) -> int:
    return start + int(os.environ["RANK"])


@pipeline
def chain(n: int = 3):
    """Calls one after another, and parts of results."""
    summed = total(numbers(n), label="all")
    return double(summed["all"], by=summed["count"])


@pipeline
def fan(n: int = 3):
    """A map over a known list."""
    return total(double.map(range(n), by=3))


@pipeline
def dynamic(n: int = 3):
    """A map over a list that exists only at run time, and the list itself."""
    listed = numbers(n, start=1)
    return {"doubled": double.map(listed), "listed": listed}


@pipeline
def maps_of_maps(n: int = 2):
    """Maps that follow maps item by item, of a known and of an unknown length, and a map over one item."""
    once = double.map(numbers(n))
    twice = double.map(double.map([1, 2]), by=5)
    lists = numbers.map([1, 2])
    return [total(once), total(twice), double.map(lists[1])]


@pipeline
def two_lists():
    """Maps over two lists: another map, and items of it with a constant among them; objects, and a list of run time."""
    firsts = double.map([1, 2, 3])
    pairs = pair.map(firsts, [None, *firsts[:-1]])
    return total(firsts[1:])["sum"], pairs, scaled.map(GRID, numbers(2, start=1))


@pipeline
def inner(n: int):
    return total(double.map(numbers(n)))


@pipeline
def nested():
    """Pipelines inside a pipeline."""
    return {"one": inner(1), "two": inner(2)["sum"]}


@pipeline
def files():
    """Files as results."""
    written = write.map([1, 2])
    return read(written[0]), read.map(written)


@pipeline
def optional(with_total: bool = False, label: str | None = None):
    """A branch of the body that is taken or not, and None among arguments."""
    listed = numbers(2, start=5)
    summed = total(listed) if with_total else None
    return pair(double(3), summed), label, None


@pipeline
def gang():
    """A task of two processes."""
    return total(ranks(3))


@pipeline
def lossy(n: int = 4):
    """Maps that go on without items that fail, what follows them item by item, and a list that is as long as all items."""
    some = careful.map([1, 2, 3], on_error="continue")
    found = careful.map(numbers(n), on_error="continue")
    return total(some), pair.map(double.map(some), [7, 8, 9]), total(double.map(found)), found


@pipeline
def delays(scale: float = 1.5):
    """As the flights: months, a grid of candidates, the best one, and a table of scores."""
    rows = month_rows.map(MONTHS, scale=scale)
    scores = fit.map(GRID, rows=rows[:3])
    chosen = best(GRID, scores)
    final = fit(chosen, rows=[*rows[:3], rows[3]])
    return {"chosen": chosen, "scores": scores, "final": final, "first": rows[0][1]}
