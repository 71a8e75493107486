"""Tables of measurements in the docs are what their records in benchmarks/records say.

Such a table stands behind a line that names the function which writes it, and its record:

    <!-- benchmarks.serving.tails:table tails.json -->

It ends with the next blank line, and may be empty until it is written. `python -m tests.house.test_records` writes all of them anew.
"""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks" / "records"
SOURCE = re.compile(r"<!-- (?P<module>[\w.]+):(?P<name>\w+) (?P<record>[\w.]+) -->\n(?P<table>(?:.+\n)*)")


class Table(NamedTuple):
    """One of a page with the line that names its record, as it stands there and as it should be."""

    page: Path
    record: str
    stands: str
    should: str


def tables() -> Iterator[Table]:
    """All whose record a page names."""
    for page in sorted(ROOT.glob("docs/**/*.md")):
        for found in SOURCE.finditer(page.read_text("utf-8")):
            write = getattr(importlib.import_module(found["module"]), found["name"])
            record = json.loads((RECORDS / found["record"]).read_text("utf-8"))
            source = found[0].removesuffix(found["table"])
            yield Table(page, found["record"], found[0], source + write(record))


def test_tables_say_what_their_records_say():
    found = list(tables())
    assert found
    wrong = [
        f"{table.page.relative_to(ROOT)}: {table.record}" for table in found if table.stands != table.should
    ]
    assert not wrong, "python -m tests.house.test_records writes them anew"


def test_each_record_is_told_of():
    pages = "".join(page.read_text("utf-8") for page in ROOT.glob("docs/**/*.md"))
    assert not [path.name for path in RECORDS.iterdir() if path.name not in pages]


if __name__ == "__main__":
    for old in tables():
        old.page.write_text(old.page.read_text("utf-8").replace(old.stands, old.should), "utf-8")
