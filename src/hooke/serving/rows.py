"""Rows of many requests as the arguments of one call, and of its result to each request its own."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from hooke.serving.payloads import Method, encode
from hooke.serving.problems import FieldError, Problem

__all__ = [
    "Result",
    "WrongRows",
    "argument_slices",
    "as_lists",
    "count_rows",
    "group_of",
    "join_results",
    "merge_requests",
    "result_slice",
    "results_of",
]


Result = np.ndarray | list[Any] | dict[str, Any]
"""What a batched method returned: rows, or columns of them by name."""


class WrongRows(Exception):
    """A batched method returned other than a row for each row."""


class _Same:
    """Equal for values that a method cannot tell apart. As JSON alone None is infinity, and one secret another."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(type(self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and (self.value is other.value or _alike(self.value, other.value))


def count_rows(method: Method, arguments: dict[str, Any]) -> int:
    """How many rows a request brings. Raises Problem (422) for none, or for parameters that have not equally many."""
    counts: dict[str, int] = {}
    for name in method.rows:
        value = arguments[name]
        counts[name] = len(value) if not isinstance(value, np.ndarray) or value.ndim else 0
    first = counts[method.rows[0]]
    for name, count in counts.items():
        if count == 0 or count != first:
            detail = "there are no rows" if not count else f"{count} rows, and {method.rows[0]} has {first}"
            raise Problem(422, f"{name}: {detail}", errors=[FieldError(name, detail)])
    return first


def group_of(method: Method, arguments: dict[str, Any]) -> Hashable:
    """Equal for requests that one call can answer and that would not change each other's values.

    Arrays go with those of their dtype and shape of row (text of any length with text): else numbers would be cast to each
    other's type. What is not rows must be equal.
    """
    parts: list[Any] = [method]
    for name, value in arguments.items():
        if name not in method.rows:
            parts.append(_Same(value))
        elif isinstance(value, np.ndarray):
            parts.append((value.dtype.kind if value.dtype.kind == "U" else value.dtype, value.shape[1:]))
    return tuple(parts)


def merge_requests(method: Method, requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The arguments of one call for all these requests, of one group."""
    first = requests[0]
    if len(requests) == 1:
        return first
    joined = dict(first)
    for name in method.rows:
        values = [request[name] for request in requests]
        if isinstance(first[name], np.ndarray):
            joined[name] = np.concatenate(values)
        else:
            joined[name] = [row for value in values for row in value]
    return joined


def argument_slices(
    method: Method, arguments: dict[str, Any], rows: int, most: int
) -> Iterator[tuple[dict[str, Any], int]]:
    """The arguments in pieces of at most `most` rows, each with its number of rows."""
    if rows <= most:
        yield arguments, rows
        return
    for start in range(0, rows, most):
        cut = {name: arguments[name][start : start + most] for name in method.rows}
        yield arguments | cut, min(most, rows - start)


def results_of(method: Method, result: Any, rows: int) -> Result:
    """The result, whose rows are one for each row that was given. Raises WrongRows where they are not."""
    columns = result if isinstance(result, dict) and result else {"": result}
    for name, column in columns.items():
        what = f"{method.name} returned" + (f", as {name!r}," if name else "")
        if not isinstance(column, (np.ndarray, list)) or (isinstance(column, np.ndarray) and not column.ndim):
            kind = type(column).__name__
            raise WrongRows(
                f"{what} a {kind}; with max_batch it returns an array or list of rows, or a dict of such columns"
            )
        if len(column) != rows:
            raise WrongRows(f"{what} {len(column)} rows for {rows}; with max_batch it returns one for each")
    return result


def join_results(results: Sequence[Result]) -> Result:
    """The results of pieces as one, the rows in order. Raises WrongRows where they have not the same columns."""
    first = results[0]
    if len(results) == 1:
        return first
    if isinstance(first, dict):
        tables = [one for one in results if isinstance(one, dict) and one.keys() == first.keys()]
        if len(tables) < len(results):
            raise WrongRows("rows of one request came back with other columns than the rest of it")
        return {name: _joined([table[name] for table in tables]) for name in first}
    return _joined(results)


def as_lists(result: Result) -> Result:
    """The result without arrays, all at once: row by row costs more."""
    if isinstance(result, dict):
        return {name: as_lists(column) for name, column in result.items()}
    return result.tolist() if isinstance(result, np.ndarray) else result


def result_slice(result: Result, start: int, end: int) -> Result:
    """These rows of it."""
    if isinstance(result, dict):
        return {name: column[start:end] for name, column in result.items()}
    return result[start:end]


def _alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    try:
        if isinstance(one, np.ndarray):
            return one.dtype == other.dtype and np.array_equal(one, other)
        # 1, 1.0 and True are equal in Python, and not as JSON.
        return bool(one == other) and encode(one) == encode(other)
    except Exception:  # noqa: BLE001 - whatever it is: what cannot be compared is not the same
        return False


def _joined(results: Sequence[Any]) -> np.ndarray | list[Any]:
    arrays = [one for one in results if isinstance(one, np.ndarray)]
    if len(arrays) == len(results) and len({(one.dtype, one.shape[1:]) for one in arrays}) == 1:
        return np.concatenate(arrays)
    return [row for one in results for row in (one.tolist() if isinstance(one, np.ndarray) else one)]
