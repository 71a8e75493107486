"""Rows of many requests as the arguments of one call, and each request's rows of its result."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from hooke.base.errors import Temporary, UsageError
from hooke.serving.payloads import Method, encode
from hooke.serving.problems import FieldError, Problem, ServiceRaised, problem_of

__all__ = [
    "Result",
    "RowShapes",
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
"""A batched method's result: rows, or columns by name."""


class WrongRows(Exception):
    """A batched method did not return one row for each row."""


class _Same:
    """Equal for values that a method cannot tell apart. JSON text alone would confuse None and infinity, and two secrets."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(type(self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and (self.value is other.value or _alike(self.value, other.value))


def count_rows(method: Method, arguments: dict[str, Any]) -> int:
    """The number of rows of a request. Raises Problem (422) for none, or for parameters of unequal length."""
    counts: dict[str, int] = {}
    for name in method.rows:
        value = arguments[name]
        counts[name] = len(value) if not isinstance(value, np.ndarray) or value.ndim else 0
    first = counts[method.rows[0]]
    for name, count in counts.items():
        if count == 0 or count != first:
            detail = "no rows" if not count else f"{count} rows, and {method.rows[0]} has {first}"
            raise Problem(422, f"{name}: {detail}", errors=[FieldError(name, detail)])
    return first


def group_of(method: Method, arguments: dict[str, Any]) -> Hashable:
    """Equal for requests that may share a call without changing each other's values.

    Arrays are grouped by dtype and row shape (text of any length together): otherwise numbers would be cast to another
    request's type. Other parameters must be equal.
    """
    parts: list[Any] = [method]
    for name, value in arguments.items():
        if name not in method.rows:
            parts.append(_Same(value))
        elif isinstance(value, np.ndarray):
            parts.append((value.dtype.kind if value.dtype.kind == "U" else value.dtype, value.shape[1:]))
    return tuple(parts)


Shape = tuple[int, ...]

_SPEAKS_OF_SHAPES = re.compile(r"(?i)shape|dimension|feature|column|axis|broadcast|mismatch")
_NUMBER = re.compile(r"\d+")


class RowShapes:
    """The shapes of rows that methods have answered: a request that fails with other ones is the client's fault (422).

    Only a method that has answered rows of a single shape is judged so: others take rows of any width. Before a first answer the
    message of the exception decides, if it speaks of shapes and names a number of the row's: so do NumPy, scikit-learn, PyTorch, XGBoost and ONNX Runtime.
    """

    def __init__(self) -> None:
        self._answered: dict[tuple[str, str], Shape | None] = {}
        """By method and parameter; None: of several shapes."""

    def answered(self, method: Method, arguments: dict[str, Any]) -> None:
        """The method has answered this."""
        known = self._answered
        for name, shape in _row_shapes(method, arguments):
            key = (method.name, name)
            if known.setdefault(key, shape) != shape:
                known[key] = None

    def problem(
        self, method: Method, arguments: dict[str, Any], error: BaseException, request_id: str | None = None
    ) -> Problem:
        """The answer for an exception of the method's: as `problem_of`, or 422 that names the parameters with a wrong shape."""
        shapes = [] if _is_no_matter_of_shape(error) else list(_row_shapes(method, arguments))
        wrong = [
            (name, f"a row is {_shown(shape)}, and {method.name} takes rows of {_shown(known)}")
            for name, shape in shapes
            if (known := self._answered.get((method.name, name))) is not None and known != shape
        ]
        if wrong:
            return _wrong_shape(wrong)
        problem = problem_of(error, method.name, request_id)
        text = str(error).rstrip().rpartition("\n")[2]
        numbers = set(_NUMBER.findall(text)) if _SPEAKS_OF_SHAPES.search(text) else ()
        wrong = [
            (name, f"{method.name} does not take rows of {_shown(shape)}; the log of the service says why")
            for name, shape in shapes
            if (method.name, name) not in self._answered
            and any(str(size) in numbers for size in shape or (1,))
        ]
        return _wrong_shape(wrong) if wrong else problem


def _row_shapes(method: Method, arguments: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    """The shape of a row in each array, and in each list of rows: there the first one stands for all."""
    for name, value in arguments.items():
        batched = name in method.rows
        if isinstance(value, np.ndarray):
            if batched or value.ndim > 1:
                yield name, value.shape[1:]
        elif batched and value and isinstance(value[0], (list, tuple)):
            yield name, (len(value[0]),)


def _is_no_matter_of_shape(error: BaseException) -> bool:
    """Whether the service says itself whose fault it is, or it is its own whatever it was sent."""
    if not isinstance(error, Exception) or isinstance(error, (Problem, UsageError, Temporary)):
        return True
    kind = error.kind if isinstance(error, ServiceRaised) else type(error).__name__
    return kind in (WrongRows.__name__, SystemExit.__name__, "CancelledError")


def _shown(shape: Shape) -> str:
    if len(shape) > 1:
        return " x ".join(map(str, shape)) + " values"
    return f"{shape[0]} value{'s' * (shape[0] != 1)}" if shape else "a single value"


def _wrong_shape(wrong: list[tuple[str, str]]) -> Problem:
    errors = [FieldError(name, detail) for name, detail in wrong]
    return Problem(422, "; ".join(f"{name}: {detail}" for name, detail in wrong), errors=errors)


def merge_requests(method: Method, requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The arguments of one call for all these requests of one group."""
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
    """Check that the result has one row for each input row. Raises WrongRows."""
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
    """Join the results of pieces, in order. Raises WrongRows if their columns differ."""
    first = results[0]
    if len(results) == 1:
        return first
    if isinstance(first, dict):
        tables = [one for one in results if isinstance(one, dict) and one.keys() == first.keys()]
        if len(tables) < len(results):
            raise WrongRows("parts of one request came back with different columns")
        return {name: _joined([table[name] for table in tables]) for name in first}
    return _joined(results)


def as_lists(result: Result) -> Result:
    """The result without arrays, converted at once: row by row costs more."""
    if isinstance(result, dict):
        return {name: as_lists(column) for name, column in result.items()}
    return result.tolist() if isinstance(result, np.ndarray) else result


def result_slice(result: Result, start: int, end: int) -> Result:
    """A part of the result."""
    if isinstance(result, dict):
        return {name: column[start:end] for name, column in result.items()}
    return result[start:end]


def _alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    try:
        if isinstance(one, np.ndarray):
            return one.dtype == other.dtype and np.array_equal(one, other)
        # 1, 1.0 and True are equal in Python, but not as JSON.
        return bool(one == other) and encode(one) == encode(other)
    except Exception:  # noqa: BLE001 - values that cannot be compared count as different
        return False


def _joined(results: Sequence[Any]) -> np.ndarray | list[Any]:
    arrays = [one for one in results if isinstance(one, np.ndarray)]
    if len(arrays) == len(results) and len({(one.dtype, one.shape[1:]) for one in arrays}) == 1:
        return np.concatenate(arrays)
    return [row for one in results for row in (one.tolist() if isinstance(one, np.ndarray) else one)]
