"""Files in pieces, as the items of a map: row groups of Parquet files, and lines of text files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hooke.base.errors import UsageError
from hooke.base.files import first_bytes
from hooke.base.observed import note_data_set
from hooke.base.ref import DataSetRead
from hooke.base.units import parse_bytes
from hooke.data.parquet_files import ParquetFile, arrow_columns, is_parquet
from hooke.keys.file import File

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ByteRange", "RowGroup", "files_in", "scan"]

LINE_BYTES = 1 << 16
"""Read at once in search of the end of a line."""
WIDE = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
"""What UTF-16 and UTF-32 begin with."""
COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4"}


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group of a Parquet file. Its key has the content of the file, so a changed file is read again."""

    file: File
    number: int
    rows: int

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Its rows as an Arrow table, of some columns or of all. Raises UsageError for a column that is not there."""
        file = ParquetFile(self.file.path)
        note_data_set(
            self.file,
            lambda: DataSetRead(
                source=str(self.file.path.absolute()),
                digest=self.file.key or "",
                kind="parquet",
                rows=file.rows,
                columns=arrow_columns(file.schema),
            ),
        )
        return file.read(self.number, columns)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Whole lines of a text file: its bytes from `start` to before `stop`. Its key has the content of the file."""

    file: File
    start: int
    stop: int

    def read(self) -> bytes:
        """The lines."""
        note_data_set(
            self.file,
            lambda: DataSetRead(
                source=str(self.file.path.absolute()), digest=self.file.key or "", kind="lines"
            ),
        )
        with self.file.path.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(self.stop - self.start)


def scan(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, size: str | int = "64MiB"
) -> list[RowGroup | ByteRange]:
    """The pieces of files as items for `.map`: row groups of Parquet files, ranges of lines of about `size` of text files.

    `source` is a file, a folder (all files in it, sorted by name), or a list of files. An item is small, and its `read()` gives an
    Arrow table or bytes. Raises UsageError for what is not there, compressed text, and files without anything in them.
    """
    paths = [Path(source)] if isinstance(source, (str, os.PathLike)) else [Path(each) for each in source]
    if len(paths) == 1 and paths[0].is_dir():
        paths = files_in(paths[0])
    most = max(1, parse_bytes(size, name="size"))
    items: list[RowGroup | ByteRange] = []
    for path in paths:
        items += _pieces(path, most)
    if not items:
        raise UsageError(f"there is nothing to read in {source}", fix="pass files with rows or lines")
    return items


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and those below it, sorted, without hidden ones; links to folders are followed.

    Beside Parquet files, also without those that begin with `_`, or are in a folder that does, such as the log of a Delta table.
    Raises UsageError for what cannot be read, and for folders that are named by the values of a column, which the files in them lack.
    """
    found = sorted(_below(folder, ()))
    plain = [
        each for each in found if not any(part.startswith("_") for part in each.relative_to(folder).parts)
    ]
    parquet = [each for each in plain if is_parquet(each)]
    if not parquet:
        return found
    for each in parquet:
        if column := next((part for part in each.relative_to(folder).parts[:-1] if "=" in part), ""):
            raise UsageError(
                f"{folder} has folders named by a column's values, such as {column}",
                why="the files in them lack this column",
                fix="write the files with the column in them; or pass a list of the files to do without it",
            )
    return plain


def _below(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """The files below a folder, which is in those `above`, given by device and number."""
    try:
        facts = folder.stat()
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise UsageError(f"cannot read the folder {folder}", why=str(error)) from error
    if (facts.st_dev, facts.st_ino) in above:
        raise UsageError(
            f"{folder} is a link to a folder that it is in",
            fix="remove the link, or pass a list of the files",
        )
    for name in names:
        path = folder / name
        if name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, (*above, (facts.st_dev, facts.st_ino)))
        elif path.is_file():
            yield path
        elif path.is_symlink():
            raise UsageError(
                f"{path} is a link to nothing", fix="remove the link, or put back what it leads to"
            )


def _pieces(path: Path, most: int) -> Iterator[RowGroup | ByteRange]:
    if path.is_dir():
        raise UsageError(f"{path} is a folder in a list", fix="pass it alone, or a list of the files in it")
    if not path.is_file():
        raise UsageError(f"no file {path}", fix="pass the path of a file, or of a folder with files")
    if path.suffix in COMPRESSED:
        raise UsageError(
            f"{path} is compressed, so it cannot be cut at lines",
            fix="decompress it, or convert it to Parquet",
        )
    file = File(path)
    if is_parquet(path):
        for number, rows in enumerate(ParquetFile(path).group_rows):
            if rows:
                yield RowGroup(file, number, rows)
        return
    if first_bytes(path, 4).startswith(WIDE):
        raise UsageError(
            f"{path} is text in UTF-16 or UTF-32, which cannot be cut at bytes", fix="convert it to UTF-8"
        )
    ends = _line_ends(path, most)
    for start, stop in zip([0, *ends], ends, strict=False):
        yield ByteRange(file, start, stop)


def _line_ends(path: Path, most: int) -> list[int]:
    """The ends of the lines at which the file is cut; the last is its own."""
    ends: list[int] = []
    total = path.stat().st_size
    with path.open("rb") as stream:
        while (wanted := (ends[-1] if ends else 0) + most) < total:
            stream.seek(wanted - 1)  # a line may end just there
            while (more := stream.read(LINE_BYTES)) and (found := more.find(b"\n")) < 0:
                wanted += len(more)
            if not more:
                break
            ends.append(wanted + found)
    return ends if ends[-1:] == [total] or not total else [*ends, total]
