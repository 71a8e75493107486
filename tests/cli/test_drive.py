import datetime
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hooke.cli import entry
from hooke.cli.drive import result_json, result_text


@dataclass
class Point:
    x: int
    y: float


class Bare:
    pass


class Broken:
    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


class TestText:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "None"),
            (3, "3"),
            (0.25, "0.25"),
            ("two\nlines", "two\nlines"),
            ("", ""),
            ([1, 2], "[1, 2]"),
            ({}, "{}"),
            ({"a": 1, "bb": "x"}, "{'a': 1, 'bb': 'x'}"),
            (Point(1, 2.0), "Point(x=1, y=2.0)"),
            ({"p": Point(1, 2.0), "text": "x"}, "p     Point(x=1, y=2.0)\ntext  x"),
            (np.float64(0.5), "0.5"),
        ],
    )
    def test_short_values_are_said_as_python_does(self, value, text):
        assert result_text(value) == text

    def test_frames_show_themselves_below_their_names(self):
        lines = result_text({"scores": pl.DataFrame({"a": [1]}), "n": 1}).splitlines()
        assert lines[0] == "scores"
        assert all(line.startswith("  ") for line in lines[1:-1])
        assert lines[-1] == "n       1"

    def test_big_things_are_shown_by_shape(self):
        assert result_text(np.zeros((1000, 3000))).splitlines()[0] == "ndarray(1000, 3000)"
        assert len(result_text(list(range(1000))).splitlines()) == 21
        assert len(result_text({"model": "x" * 5000 + "\n"}).splitlines()) == 1

    def test_no_repr_breaks_it(self):
        assert "Bare" in result_text(Bare())
        assert "Broken" in result_text({"x": Broken()})


class TestJson:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (float("nan"), None),
            ({1: (2, 3)}, {"1": [2, 3]}),
            ({"b", "a"}, ["a", "b"]),
            (Point(1, 2.0), {"x": 1, "y": 2.0}),
            (np.int64(3), 3),
            (np.arange(3), [0, 1, 2]),
            (np.zeros((1000, 1000)), "ndarray(1000, 1000)"),
            (pl.DataFrame({"a": [1, 2]}), [{"a": 1}, {"a": 2}]),
            (Path("a/b"), "a/b"),
            (datetime.date(2013, 1, 2), "2013-01-02"),
        ],
    )
    def test_known(self, value, expected):
        made = result_json(value)
        assert made == expected
        json.dumps(made, allow_nan=False)

    def test_unknown_is_text(self):
        assert "Bare" in result_json([Bare()])[0]


@pytest.mark.needs("processes")
def test_a_run_goes_on_at_another_backend_without_what_is_done(desk):
    desk.write("job.py", """
        from pathlib import Path

        from hooke import pipeline, task

        @task
        def half(x: int) -> int:
            with open("done.txt", "a") as file:
                file.write(f"{x}\\n")
            return x // 2

        @task
        def total(xs: list[int]) -> int:
            if not Path("go").exists():
                raise ValueError("not yet")
            return sum(xs)

        @pipeline
        def job():
            return total(half.map(range(6)))
    """)  # fmt: skip
    failed = desk.hooke("run", "job.py", "--on", "local:2")
    assert failed.code == 1
    (desk.folder / "go").touch()
    moved = desk.hooke("resume", "--on", "serial")
    assert (moved.code, moved.out) == (0, "6\n"), moved.err
    assert "resumed on serial" in moved.err
    assert sorted((desk.folder / "done.txt").read_text().split()) == [str(x) for x in range(6)]


@pytest.mark.needs("processes")
def test_a_result_that_does_not_unpickle_is_the_users_fault_and_named(desk):
    desk.write("job.py", """
        from hooke import pipeline, task

        class Value:
            def __getstate__(self):
                return {"x": 1}

            def __setstate__(self, state):
                raise ValueError("no way back")

        @task
        def make() -> Value:
            return Value()

        @pipeline
        def job():
            return make()
    """)  # fmt: skip
    done = desk.hooke("run", "job.py")
    assert done.code == 1
    assert "finished, but its result cannot be loaded here: ValueError: no way back" in done.err
    assert "__setstate__" in done.err and "bug in Hooke" not in done.err


@pytest.mark.needs("processes")
def test_a_folder_whose_name_is_not_utf8_is_refused_by_name(desk):
    folder = os.fsdecode(os.fsencode(desk.folder) + b"/caf\xe9")
    os.mkdir(folder)
    Path(folder, "job.py").write_text(
        "from hooke import pipeline, task\n@task\ndef one():\n    return 1\n@pipeline\ndef job():\n    return one()\n"
    )
    done = desk.hooke("run", "job.py", cwd=Path(folder))
    assert done.code == 2
    assert r"caf\udce9 is not UTF-8" in done.err and "rename it" in done.err


def test_a_thread_that_cannot_start_is_the_machines_fault(monkeypatch, capsys):
    def refuses(*_args, **_kwargs):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(entry.hooke, "main", refuses)
    assert entry.run_command(["runs"]) == 1
    said = capsys.readouterr().err
    assert "can't start new thread" in said and "ulimit -u" in said and "bug" not in said


@pytest.mark.long
@pytest.mark.needs("processes")
def test_removing_a_result_takes_what_was_made_from_it_along_or_says_so(desk):
    desk.write("numbers.txt", "1 2 3")
    desk.write("job.py", """
        from pathlib import Path

        from hooke import pipeline, task

        @task(observe=False)
        def load() -> list[int]:
            return [int(each) for each in Path("numbers.txt").read_text().split()]

        @task
        def half(x: int) -> float:
            return x / 2

        @task
        def total(xs: list[float]) -> float:
            return sum(xs)

        @pipeline
        def job():
            return total(half.map(load()))
    """)  # fmt: skip
    assert desk.hooke("run", "job.py", "--on", "serial").out == "3.0\n"
    desk.write("numbers.txt", "1 2 3 4")
    refused = desk.hooke("cache", "rm", "--task", "load")
    assert refused.code == 2 and "add -r" in refused.err
    assert "3 more results were made from the chosen one: 2 of half, 1 of total" in refused.err
    assert desk.hooke("run", "job.py", "--on", "serial").out == "3.0\n", "nothing was removed"
    assert desk.hooke("cache", "rm", "-r", "--task", "load").code == 0
    assert desk.hooke("run", "job.py", "--on", "serial").out == "5.0\n"
    assert desk.hooke("cache", "rm", "--task", "total").code == 0, "nothing was made from it"
    desk.write("numbers.txt", "1 2 3 4 5")
    assert desk.hooke("run", "--force=load", "job.py", "--on", "serial").out == "7.5\n"
    everything = desk.hooke("run", "--force", "job.py", "--on", "serial")
    assert "cached" not in everything.err.replace("0 cached", "") and everything.out == "7.5\n"
    typo = desk.hooke("run", "job.py", "--force=laod")
    assert typo.code == 2 and "did you mean load?" in typo.err
    for words in (
        ("job.py", "--force", "laod", "--on", "serial"),
        ("--force", "laod", "job.py", "--on", "serial"),
    ):
        spaced = desk.hooke("run", *words)
        assert spaced.code == 2 and "after an equals sign, not after a space: --force laod" in spaced.err
        assert "did you mean --force=load? its tasks: half, load, total" in spaced.err
        again = shlex.join(
            ["--force=load" if word == "--force" else word for word in words if word != "laod"]
        )
        assert f"next: hooke run {again}\n" in spaced.err
    strange = desk.hooke("run", "job.py", "--force", "zzz")
    assert (
        strange.code == 2
        and "fix: its tasks: half, load, total" in strange.err
        and "next:" not in strange.err
    )
