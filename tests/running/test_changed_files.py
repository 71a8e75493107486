"""A file that changes between planning and reading: its new content never counts as the old one."""

from __future__ import annotations

import os
import time

import pytest

from hooke.base.errors import TaskFailed
from hooke.keys.file import File, check_unchanged, files_loaded

JOB = """
    import os
    from pathlib import Path
    from hooke import File, pipeline, task

    HERE = Path(__file__).parent

    @task
    def wait() -> int:
        if (HERE / "meddle").exists():
            os.replace(HERE / "new.txt", HERE / "data.txt")
        return 1

    @task
    def read(data: File, waited: int) -> str:
        return Path(data).read_text()

    @task
    def write_late(data: File) -> str:
        text = Path(data).read_text()
        if (HERE / "meddle").exists():
            os.replace(HERE / "new.txt", HERE / "data.txt")
        return text

    @task
    def each(number: int, data: File) -> str:
        return f"{number} {Path(data).read_text()}"

    @task
    def of(data: File, number: int) -> str:
        return Path(data).read_text()

    @pipeline
    def before(data: File) -> str:
        return read(data, wait())

    @pipeline
    def during(data: File) -> str:
        return write_late(data)

    @pipeline
    def constant(data: File) -> list[str]:
        wait()
        return each.map(range(3), data=data)

    @pipeline
    def column(data: File) -> list[str]:
        waited = wait()
        return of.map([data, data], [waited, waited])
"""


@pytest.fixture
def shop(workshop):
    workshop.write(JOB)
    (workshop.folder / "data.txt").write_text("old")
    return workshop


@pytest.mark.parametrize("name", ["before", "during", "column"])
@pytest.mark.parametrize("on", ["serial", pytest.param("local:2", marks=pytest.mark.needs("processes"))])
def test_what_was_planned_with_one_content_is_never_read_with_another(shop, name, on):
    data = shop.folder / "data.txt"
    (shop.folder / "new.txt").write_text("new")
    (shop.folder / "meddle").touch()
    with pytest.raises(TaskFailed) as failed:
        shop.run(File(data), name=name, on=on).result()
    assert "data.txt changed since the run was planned" in str(failed.value)
    assert "run again" in failed.value.fix
    (shop.folder / "meddle").unlink()
    assert "new" in str(shop.run(File(data), name=name, on=on).result()), (
        "the new content has a key of its own"
    )
    data.write_text("old")
    again = str(shop.run(File(data), name=name, on=on).result())
    assert "old" in again and "new" not in again


def test_the_constant_of_a_map_is_checked_in_each_chunk(shop):
    assert shop.run(File(shop.folder / "data.txt"), name="constant").result() == ["0 old", "1 old", "2 old"]


def test_a_touched_file_and_one_that_is_gone_are_no_other_content(tmp_path):
    import pickle

    data = tmp_path / "data.txt"
    data.write_text("old")
    file = File(data)
    file.__hooke_key__()
    sent = pickle.dumps([file])
    with files_loaded() as loaded:
        pickle.loads(sent)
    assert [each.key for each in loaded] == [file.key]
    os.utime(data, (time.time() + 5, time.time() + 5))
    check_unchanged(loaded)
    data.unlink()
    check_unchanged(loaded)
