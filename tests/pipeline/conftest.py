"""A project whose readers are observed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pipeline.observed_project import Place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "d.csv").write_text("a,b\n1,2\n")
    (root / "d.json").write_text('[{"a": 1}]')
    (root / "d.jsonl").write_text('{"a": 1}\n')
    (root / "d.ini").write_text("[x]\ny = 1\n")
    for name in "ab":
        (root / "data" / f"{name}.txt").write_text(name)
    monkeypatch.chdir(root)
    made = Place(root, tmp_path / "store")
    yield made
    made.worker.forget()
