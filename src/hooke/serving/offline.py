"""A service's methods over a table, an array or a list, without requests: the same class and batches, rows out in order."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from hooke.base.errors import HookeError, UsageError
from hooke.serving.payloads import (
    Method,
    ResponseKind,
    array_from_json,
    cast,
    check_rank,
    convert,
    dtype_of,
    hints_of,
    is_array,
    methods_of,
    rank_of,
)
from hooke.serving.rows import Result, WrongRows, argument_slices, join_results, results_of
from hooke.serving.service import SETUP, Service

__all__ = ["answer_rows", "method_of", "set_up"]


def method_of(declared: Service, name: str) -> Method:
    """The method of that name, or the only one that takes a table. Raises UsageError."""
    known = {
        key: each
        for key, each in methods_of(declared).items()
        if each.kind in (ResponseKind.PLAIN, ResponseKind.ASYNC)
    }
    if name in known:
        return known[name]
    fitting = [each for each in known.values() if each.rows] or list(known.values())
    if not name and len(fitting) == 1:
        return fitting[0]
    what = (
        f"{declared.name} has no method {name!r} that returns rows"
        if name
        else f"{declared.name} has several methods"
    )
    raise UsageError(
        what if name or known else f"{declared.name} has no method that returns rows",
        fix=f"name one: method={', '.join(known) or 'none returns rows'}",
    )


def set_up(declared: Service, setup: Mapping[str, Any]) -> Any:
    """The service's object after `setup`. Raises what `setup` raises."""
    made = declared.made_by()
    if (begin := getattr(made, SETUP, None)) is not None:
        _finished(begin(**setup))
    return made


def answer_rows(
    declared: Service, method: Method, data: Any, arguments: Mapping[str, Any], made: Any
) -> Result:
    """The results of a method of the object `made` for all rows of `data`, as if it served them.

    A method with row parameters gets at most `max_batch` rows a call, and its results are joined; another is called for
    each row, and gives a list. Raises UsageError for data that do not fit the annotations, and HookeError that names the row
    for which the method raised.
    """
    bound = replace(method, function=getattr(made, method.name))
    if not bound.rows:
        return _one_by_one(declared, bound, data, arguments)
    given, rows = _arguments(declared, method, data, arguments)
    if not rows:
        return []
    parts: list[Result] = []
    done = 0
    for piece, count in argument_slices(bound, given, rows, declared.max_batch or 1):
        parts.append(_called(declared, bound, piece, count, done))
        done += count
    return join_results(parts)


def _called(declared: Service, method: Method, piece: dict[str, Any], count: int, first: int) -> Result:
    try:
        return results_of(method, _finished(method.function(**piece)), count)
    except WrongRows as error:
        raise HookeError(f"{declared.name}.{error}", where=f"rows {first} to {first + count - 1}") from error
    except Exception as error:
        raise _blamed(declared, method, piece, count, first) or _failed(
            declared, method, first, error
        ) from error


def _blamed(
    declared: Service, method: Method, piece: dict[str, Any], count: int, first: int
) -> HookeError | None:
    """The first row of a failed batch that fails alone, too, found by bisection; None if there is none."""
    if count == 1:
        return None
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        part = piece | {name: piece[name][low:middle] for name in method.rows}
        try:
            results_of(method, _finished(method.function(**part)), middle - low)
        except Exception:  # noqa: BLE001 - whatever it is, it is in this half
            high = middle
        else:
            low = middle
    try:
        _finished(method.function(**(piece | {name: piece[name][low:high] for name in method.rows})))
    except Exception as error:  # noqa: BLE001 - reported with its row
        return _failed(declared, method, first + low, error)
    return None


def _failed(declared: Service, method: Method, row: int, error: Exception) -> HookeError:
    return HookeError(
        f"{declared.name}.{method.name} raised {type(error).__name__}: {error}",
        where=f"row {row}",
        fix="look at that row, or at the method",
    )


def _one_by_one(declared: Service, method: Method, data: Any, arguments: Mapping[str, Any]) -> list[Any]:
    """Each row as a request of its own: a mapping gives its fields, any other value the only open parameter."""
    hints = hints_of(f"{declared.name}.{method.name}", method.function)
    open_ones = [name for name in method.fields if name not in arguments]
    results: list[Any] = []
    for row, value in enumerate(_records(data) if _is_frame(data) else data):
        fields = (
            value
            if isinstance(value, Mapping) and open_ones != [] and set(value) <= set(method.fields)
            else None
        )
        if fields is None:
            fields = {open_ones[0]: value} if open_ones else {}
        given = {name: _fitting(declared, name, one, hints.get(name, Any)) for name, one in fields.items()}
        try:
            results.append(_finished(method.function(**{**arguments, **given})))
        except Exception as error:
            raise _failed(declared, method, row, error) from error
    return results


def _arguments(
    declared: Service, method: Method, data: Any, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """The arguments of one call for all rows, and the number of rows."""
    hints = hints_of(f"{declared.name}.{method.name}", method.function)
    unknown = [name for name in arguments if name not in method.fields or name in method.rows]
    if unknown:
        others = [name for name in method.fields if name not in method.rows]
        raise UsageError(
            f"{declared.name}.{method.name} takes no {unknown[0]!r} beside its rows",
            fix=f"it takes: {', '.join(others) or 'nothing'}",
        )
    given = dict(arguments)
    for name, column in _columns(declared, method, data, hints).items():
        given[name] = _fitting(declared, name, column, hints.get(name, Any))
    counts = {name: len(given[name]) for name in method.rows}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UsageError(
            f"the columns are not equally long: {shown}", fix="give each row a value in each column"
        )
    return given, counts[method.rows[0]]


def _columns(declared: Service, method: Method, data: Any, hints: Mapping[str, Any]) -> dict[str, Any]:
    """The data of each row parameter."""
    named = list(data.columns) if _is_frame(data) else list(data) if isinstance(data, Mapping) else []
    if named and set(method.rows) <= set(named):
        return {name: _values(data[name]) for name in method.rows}
    if len(method.rows) > 1 or isinstance(data, Mapping):
        missing = [name for name in method.rows if name not in named]
        raise UsageError(
            f"{declared.name}.{method.name} takes the columns {', '.join(method.rows)}, and {missing[0]} is missing",
            fix=f"give a table or a dict with these columns; yours: {', '.join(map(str, named)) or 'none has a name'}",
        )
    (name,) = method.rows
    if not _is_frame(data):
        return {name: data}
    return {name: data.to_numpy() if is_array(hints.get(name)) else _records(data)}


def _fitting(declared: Service, name: str, value: Any, annotation: Any) -> Any:
    """The value converted to its annotation, as in a request."""
    try:
        if is_array(annotation):
            if isinstance(value, list) and value:
                return array_from_json(annotation, value)
            made, wanted = np.asarray(value), dtype_of(annotation)
            check_rank(made, rank_of(annotation) if made.size else 0)
            return made if wanted is None else cast(made, wanted)
        return convert(value.tolist() if isinstance(value, np.ndarray) else value, annotation)
    except (msgspec.ValidationError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{declared.name}: {name} does not fit its annotation: {error}", fix=f"give a {annotation}"
        ) from error


def _is_frame(data: Any) -> bool:
    """Whether it is a table of Polars or pandas, by its methods, so that neither is imported."""
    return hasattr(data, "columns") and hasattr(data, "to_numpy")


def _records(frame: Any) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = (
        frame.to_dicts() if hasattr(frame, "to_dicts") else frame.to_dict(orient="records")
    )
    return records


def _values(column: Any) -> Any:
    return column.to_numpy() if hasattr(column, "to_numpy") else column


def _finished(value: Any) -> Any:
    """A coroutine's result, also inside a running event loop, as in a notebook."""
    if not inspect.iscoroutine(value):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    with ThreadPoolExecutor(1) as thread:
        run: Callable[[Any], Any] = asyncio.run
        return thread.submit(run, value).result()
