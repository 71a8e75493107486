"""Tables: values in rows, which show themselves in notebooks and terminals, and become frames of pandas or Polars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from operator import attrgetter
from typing import Any, Generic, SupportsIndex, TypeVar, overload

from hooke.base.errors import MissingExtra, UsageError
from hooke.base.formats import aligned, preformatted, readable

__all__ = [
    "Printed",
    "TableDict",
    "TableKind",
    "TableList",
    "Tabular",
    "fields_by_name",
    "html_table",
]

T = TypeVar("T")

MOST_ROWS = 50
"""Rows of a notebook's table."""
MOST_NAMED = 3
"""Rows that a repr names."""
FRAMES = ("pandas", "polars")

_TABLE = "border-collapse:collapse;font-size:inherit;font-variant-numeric:tabular-nums;margin:.3em 0"
_TEXT = "text-align:left;padding:.1em 1.2em .1em 0;vertical-align:top"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, cell: str = _TEXT) -> str:
    """A table whose text is escaped and whose colors are the page's own; `cell` is the style of its cells."""
    head = "".join(f'<th style="{cell}">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="{cell}">{escape(text)}</td>' for text in row) + "</tr>" for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


class Printed:
    """What `print` shows as lines of text: a notebook shows the same lines."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return preformatted(str(self))


class Tabular:
    """What has `columns`: a notebook shows it as a table, and `to_frame` makes a frame of it."""

    __slots__ = ()

    def columns(self) -> dict[str, list[Any]]:
        """Column -> one value per row."""
        raise NotImplementedError

    def to_frame(self, kind: str = "pandas") -> Any:
        """The `columns` as a `DataFrame` of `pandas` or `polars`. Raises UsageError for another kind, MissingExtra."""
        if kind not in FRAMES:
            raise UsageError(f"to_frame({kind!r}) is not valid", fix=f"valid: {', '.join(FRAMES)}")
        try:
            library = import_module(kind)
        except ImportError as error:
            (other,) = (each for each in FRAMES if each != kind)
            there = f"to_frame({other!r}), or " if find_spec(other) is not None else ""
            raise MissingExtra(
                f"a frame of {kind} needs {kind}, which is not installed",
                why=str(error),
                fix=f"{there}pip install {kind}; columns() gives plain lists",
            ) from error
        # As pandas does, Polars takes columns of several types: numbers become floats, and other things text.
        return library.DataFrame(self.columns(), **({"strict": False} if kind == "polars" else {}))

    def _head(self, most: int) -> tuple[dict[str, list[Any]], int]:
        """The columns of at most the first `most` rows, and how many rows there are."""
        columns = self.columns()
        rows = max(map(len, columns.values()), default=0)
        return {name: each[:most] for name, each in columns.items()}, rows

    def _repr_html_(self) -> str:
        columns, rows = self._head(MOST_ROWS)
        more = f"<div>and {rows - MOST_ROWS:,} more</div>" if rows > MOST_ROWS else ""
        return html_table(list(columns), _as_text(columns)) + more


def _as_text(columns: Mapping[str, list[Any]]) -> list[tuple[str, ...]]:
    """The rows as text."""
    return [tuple(map(_cell, row)) for row in zip(*columns.values(), strict=True)]


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else readable(str(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableKind(Generic[T]):
    """What the rows of a table are: `one` names a row, `columns` take the value of each column from it.

    `label` is a row in short, for the repr; `text` a row as `print` shows it, instead of aligned columns.
    """

    one: str
    columns: Mapping[str, Callable[[T], Any]]
    label: Callable[[T], str] | None = None
    text: Callable[[T], str] | None = None


def fields_by_name(*names: str) -> dict[str, Callable[[Any], Any]]:
    """Columns of attributes, each with its name."""
    return {name: attrgetter(name) for name in names}


class TableList(list[T], Tabular):
    """A list that a notebook shows as a table. `print` shows its rows in lines, `to_frame()` is a frame. A slice is one, too."""

    __slots__ = ("_kind",)

    def __init__(self, values: Iterable[T] = (), *, kind: TableKind[T]) -> None:
        super().__init__(values)
        self._kind = kind

    @overload
    def __getitem__(self, at: SupportsIndex, /) -> T: ...
    @overload
    def __getitem__(self, at: slice, /) -> TableList[T]: ...
    def __getitem__(self, at: SupportsIndex | slice, /) -> T | TableList[T]:
        return (
            TableList(super().__getitem__(at), kind=self._kind)
            if isinstance(at, slice)
            else super().__getitem__(at)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # what its columns are cannot be pickled

    def __repr__(self) -> str:
        count = f"{len(self):,}" if self else "no"
        text = f"{count} {self._kind.one}{'s' * (len(self) != 1)}"
        if self._kind.label is None or not self:
            return f"<{text}>"
        more = f" and {len(self) - MOST_NAMED:,} more" if len(self) > MOST_NAMED else ""
        return readable(f"<{text}: {', '.join(map(self._kind.label, self[:MOST_NAMED]))}{more}>").replace(
            "\n", " "
        )

    def __str__(self) -> str:
        if not self:
            return repr(self)
        if self._kind.text is not None:
            return "\n".join(map(self._kind.text, self))
        columns = self.columns()
        return "\n".join(aligned(list(columns), _as_text(columns)))

    def columns(self) -> dict[str, list[Any]]:
        """Column -> one value per row."""
        return {name: [value_of(each) for each in self] for name, value_of in self._kind.columns.items()}

    def _head(self, most: int) -> tuple[dict[str, list[Any]], int]:
        return self[:most].columns(), len(self)


class TableDict(dict[str, T], Tabular):
    """A dict by name that a notebook shows as a table: a row for each name. `to_frame()` is a frame."""

    __slots__ = ("_kind",)

    def __init__(self, values: Mapping[str, T], *, kind: TableKind[T]) -> None:
        super().__init__(values)
        self._kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # as of a TableList

    def columns(self) -> dict[str, list[Any]]:
        """Column -> one value per name, which is the first column."""
        return {self._kind.one: list(self)} | {
            name: [value_of(each) for each in self.values()] for name, value_of in self._kind.columns.items()
        }

    def _head(self, most: int) -> tuple[dict[str, list[Any]], int]:
        first = TableDict(dict(islice(self.items(), most)), kind=self._kind)
        return first.columns(), len(self)
