import sys
import textwrap
from pathlib import Path

import pytest

from hooke.project.folder import Project
from hooke.project.loading import load_entry
from hooke.running.driver import RunOrder, prepare
from hooke.running.run import Run


class Workshop:
    """A project in a folder of its own, whose pipeline file a test writes and edits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / f"job_{folder.name.replace('-', '_')}.py"

    def write(self, source: str) -> None:
        self.file.write_text(textwrap.dedent(source), encoding="utf-8")
        sys.modules.pop(self.file.stem, None)
        # Within one second an edit of equal length would be taken for no edit.
        for cached in (self.folder / "__pycache__").glob("*.pyc"):
            cached.unlink()

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text(encoding="utf-8")
        assert text.count(old) == 1
        self.write(text.replace(old, new))

    @property
    def project(self) -> Project:
        return Project.find(self.folder)

    def run(self, *args, on="serial", workers=None, name="", observers=(), **params) -> Run:
        pipeline, _ = load_entry(f"{self.file}:{name}" if name else str(self.file))
        order = RunOrder(
            pipeline=pipeline, args=args, params=params, on=on, workers=workers, observers=tuple(observers)
        )
        driver = prepare(order, self.project)
        driver.drive()
        return Run(driver.project, driver.run)

    def ran(self, run: Run) -> dict[str, int]:
        """Task -> items that really ran."""
        return {row.task: row.done for row in run.tasks() if row.done}


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shop = Workshop(tmp_path)
    yield shop
    sys.modules.pop(shop.file.stem, None)
