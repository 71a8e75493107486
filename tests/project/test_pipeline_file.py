"""The user's file as a module."""

from __future__ import annotations

import py_compile
import sys
import threading
from pathlib import Path

import pytest

from hooke.project.pipeline_file import load_entry

SLOW = """
import time
from hooke import pipeline, task

time.sleep(0.3)

@task
def one() -> int:
    return 1

@pipeline
def job() -> int:
    return one()
"""


@pytest.mark.needs("cpu")
def test_threads_that_load_one_file_at_once_all_find_its_pipeline(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "slow_to_import.py"
    file.write_text(SLOW)
    found: list[object] = []

    def load() -> None:
        try:
            found.append(load_entry(str(file))[0])
        except Exception as error:  # noqa: BLE001 - to be looked at
            found.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.modules.pop("slow_to_import")
    assert len(found) == 4 and len(set(map(id, found))) == 1, found
    assert found[0].name == "job"


@pytest.mark.needs("cpu")
def test_bytecode_that_a_full_disk_has_cut_short_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "cut_short_helper.py").write_text("N = 1\n" * 50)
    file = tmp_path / "cut_short.py"
    file.write_text("import cut_short_helper\n" + SLOW)
    for name in ("cut_short_helper", "cut_short"):
        cached = Path(py_compile.compile(str(tmp_path / f"{name}.py")))
        cached.write_bytes(cached.read_bytes()[:-9])
    assert load_entry(str(file))[0].name == "job"
