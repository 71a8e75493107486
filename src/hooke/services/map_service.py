"""`map_service()`: a service's class applied to a table, in this process or in a pipeline as tasks on its workers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hooke.base.errors import UsageError
from hooke.pipeline.isolation import isolated_randomness
from hooke.pipeline.task import ACTIVE, task
from hooke.services.serve_file import check_bindings
from hooke.serving.offline import answer_rows, method_of, set_up
from hooke.serving.rows import join_results
from hooke.serving.service import service_of

__all__ = ["map_service"]

MOST_PARTS = 32
"""Parts that a table is cut into in a pipeline: enough to share among workers, each cached by itself."""


class _Kept:
    """The service object that this worker has set up, kept from its first part of a map on: a worker reads a map's constants, of which this is one, once."""

    __hooke_shared__ = True

    def __init__(self) -> None:
        self.made: Any = None

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()  # it begins with nothing in each worker


def map_service(
    made: type,
    data: Any,
    /,
    *,
    method: str = "",
    arguments: Mapping[str, Any] | None = None,
    **setup: Any,
) -> Any:
    """Apply a service's method to each row of a table without serving: the same class, with at most `max_batch` rows a call.

    `data` is an array, a list, a table of Polars or pandas, or a dict of columns. If the method's row parameters are
    columns of the table, each gets its own; otherwise the only one gets the whole: an array, or a dict a row for lists. A method
    without `max_batch` is called for each row. `method` names it if the class has several; `arguments` are its other parameters.
    `setup` gives the parameters of `setup` as values: `map_service(Delay, rows, model=model)`. Values must be as annotated, as in
    a request.

    Returns the rows in order: the method's arrays or lists put together, or one result a row. In a pipeline it returns a promise,
    as tasks do, and `data` and the values may be promises. The table is cut into up to 32 parts, which run as tasks
    and are cached. Each worker sets the service up once; random draws in `setup` are the same in each.

    Raises UsageError for values that do not fit, and HookeError, naming the row, if the method raised.
    """
    declared = service_of(made)
    chosen = method_of(declared, method).name
    check_bindings(declared, setup)
    given = dict(arguments or {})
    if ACTIVE.get() is None:
        return answer_rows(declared, method_of(declared, chosen), data, given, set_up(declared, setup))
    parts = _parts(data, declared.max_batch or 1)
    return _together(
        _answers.map(parts, made=made, method=chosen, arguments=given, setup=setup, kept=_Kept())
    )


@task(name="service_rows")
def _parts(data: Any, batch: int) -> list[Any]:
    """Slices of whole batches."""
    if isinstance(data, Mapping):
        length = max((len(column) for column in data.values()), default=0)
    else:
        try:
            length = len(data)
        except TypeError:
            raise UsageError(
                f"a {type(data).__name__} is not a table",
                fix="give an array, a list, a table or a dict of columns",
            ) from None
    size = max(math.ceil(length / MOST_PARTS / batch), 1) * batch
    return [_slice(data, start, start + size) for start in range(0, max(length, 1), size)]


def _slice(data: Any, start: int, end: int) -> Any:
    if isinstance(data, Mapping):
        return {name: column[start:end] for name, column in data.items()}
    return data.iloc[start:end] if hasattr(data, "iloc") else data[start:end]


@task(name="service_answers")
def _answers(
    data: Any,
    made: type,
    method: str,
    arguments: Mapping[str, Any],
    setup: Mapping[str, Any],
    kept: _Kept,
) -> Any:
    declared = service_of(made)
    found, kept.made = kept.made, None  # an object whose method raised is not used again
    if found is None:
        with isolated_randomness(made.__qualname__):
            found = set_up(declared, setup)
    results = answer_rows(declared, method_of(declared, method), data, arguments, found)
    kept.made = found
    return results


@task(name="service_table")
def _together(parts: list[Any]) -> Any:
    return join_results(parts)
