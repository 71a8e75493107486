"""Whole runs record what their tasks read, and no process uses what it keeps in memory of a file that has changed."""

from pathlib import Path

import pytest

from hooke.journal.events import AttemptFinished

ENGINES = ("serial", "local:1")

READING = """
    import functools
    import os
    from pathlib import Path

    from hooke import task, pipeline

    @functools.lru_cache
    def conf():
        return Path("conf.txt").read_text()

    @task(cache=False)
    def direct() -> str:
        return Path("d.csv").read_text()

    @task(cache=False)
    def kept(n: int) -> str:
        return conf()

    @task(cache=False)
    def by_module() -> str:
        import settings
        return settings.text() + os.environ.get("HOOKED_MODE", "")

    @task(cache=False, observe=False)
    def off() -> str:
        return Path("d.csv").read_text()

    @pipeline
    def job():
        return {"direct": direct(), "kept": kept.map([1, 2, 3]), "module": by_module(), "off": off()}
"""


def observed(workshop, run):
    """(file or variable, task) of all that was read."""
    tasks, found = {}, []
    for event in workshop.project.runs.events(run.id):
        if type(event).__name__ == "NodePlanned":
            tasks[event.node] = event.task
        if isinstance(event, AttemptFinished):
            for items in event.observed:
                assert not items.unsettled
                found += [(tasks[event.node], items.hi - items.lo, each.name) for each in items.inputs]
    return found


@pytest.fixture
def files(workshop):
    Path("hooke.toml").touch()
    Path("d.csv").write_text("one")
    Path("conf.txt").write_text("conf")
    Path("settings.py").write_text(
        "from pathlib import Path\nTEXT = Path('settings.txt').read_text()\ndef text():\n    return TEXT\n"
    )
    Path("settings.txt").write_text("first")
    workshop.write(READING)
    return workshop


@pytest.mark.parametrize("on", ENGINES)
def test_a_run_records_what_its_tasks_read(files, on, monkeypatch):
    monkeypatch.syspath_prepend(str(files.folder))
    monkeypatch.setenv("HOOKED_MODE", "x")
    run = files.run(on=on)
    found = observed(files, run)
    assert {(task, name) for task, _, name in found} == {
        ("direct", "d.csv"),
        ("kept", "conf.txt"),
        ("by_module", "HOOKED_MODE"),
        *(
            [("by_module", "settings.txt")] if on != "serial" else []
        ),  # the driver has imported it for the key
    }
    assert sum(items for task, items, _ in found if task == "kept") == 3


@pytest.mark.needs("cpu")
def test_a_warm_worker_uses_nothing_that_a_function_keeps_of_a_changed_file(files, monkeypatch):
    monkeypatch.syspath_prepend(str(files.folder))
    monkeypatch.setenv("HOOKED_MODE", "x")
    assert files.run(on="local:1").result()["kept"] == ["conf"] * 3
    Path("conf.txt").write_text("another")
    again = files.run(on="local:1").result()
    assert (again["kept"], again["module"]) == (["another"] * 3, "firstx")
    monkeypatch.setenv("HOOKED_MODE", "y")
    assert files.run(on="local:1").result()["module"] == "firsty"


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("on", ENGINES)
def test_nor_does_the_first_attempt_of_a_later_run_in_the_same_process(workshop, on):
    Path("hooke.toml").touch()
    Path("conf.txt").write_text("conf")
    workshop.write("""
        import functools
        from pathlib import Path
        from hooke import task, pipeline

        @functools.lru_cache
        def conf():
            return Path("conf.txt").read_text()

        @task
        def kept() -> str:
            return conf()

        @pipeline
        def job():
            return kept()
    """)
    assert workshop.run(on=on).result() == "conf"
    Path("conf.txt").write_text("another")
    again = workshop.run(on=on)
    [finished] = [
        event for event in workshop.project.runs.events(again.id) if isinstance(event, AttemptFinished)
    ]
    if on == "serial":  # the function runs in this process, which has the old content: it is not reused
        assert "conf.txt changed" in finished.observed[0].unsettled
    else:
        assert again.result() == "another"
        assert not finished.observed[0].unsettled


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("on", ENGINES)
def test_wrapped_readers_do_not_change_keys(workshop, on):
    pytest.importorskip("polars")
    Path("hooke.toml").touch()
    Path("d.csv").write_text("a\n1\n")
    workshop.write("""
        from polars import read_csv
        import polars as pl
        from hooke import task, pipeline

        @task
        def total() -> int:
            return int(read_csv("d.csv")["a"].sum() + pl.read_csv("d.csv")["a"].sum())

        @pipeline
        def job():
            return total()
    """)
    run = workshop.run(on=on)
    assert run.result() == 2
    assert {name for _, _, name in observed(workshop, run)} == {"d.csv"}
