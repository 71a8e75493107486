"""Files and variables that tasks read in passing, end to end: real workers, the command line's explanations, and stores."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from hooke.running.why import why

JOB = """
    import os
    from pathlib import Path
    from hooke import task, pipeline

    HERE = Path(__file__).parent

    @task
    def load() -> list[int]:
        with open(HERE / "d.csv") as file:
            return [int(each) for each in file.read().split()]

    @task
    def scaled(x: int) -> int:
        return x * int(os.environ.get("FACTOR", "1"))

    @task
    def total(xs: list[int]) -> int:
        return sum(xs)

    @task
    def named(name: str) -> str:
        return Path(f"{HERE}/{name}.txt").read_text()

    @task
    def joined(texts: list[str]) -> str:
        return " ".join(texts)

    @task
    def touched() -> int:
        text = (HERE / "d.csv").read_text()
        (HERE / "d.csv").write_text(text + " 1")
        return len(text)

    @pipeline
    def job() -> int:
        return total(scaled.map(load()))

    @pipeline
    def files() -> str:
        return joined(named.map(["a", "b", "c"]))

    @pipeline
    def changing() -> int:
        return touched()
"""


@pytest.fixture
def shop(workshop, monkeypatch):
    monkeypatch.delenv("FACTOR", raising=False)
    workshop.write(JOB)
    (workshop.folder / "d.csv").write_text("1 2 3")
    for name in "abc":
        (workshop.folder / f"{name}.txt").write_text(name)
    return workshop


@pytest.mark.needs("cpu")
def test_an_edited_file_that_no_key_names(shop):
    assert shop.run(name="job").result() == 6
    assert shop.ran(shop.run(name="job")) == {}
    (shop.folder / "d.csv").write_text("1 2 4")
    run = shop.run(name="job")
    assert run.result() == 7
    assert shop.ran(run) == {"load": 1, "scaled": 1, "total": 1}
    (cause,) = why(shop.project.runs, shop.project.runs.names()[0])[0].causes
    assert cause.text == "ran again: d.csv changed (read, not declared)"
    (shop.folder / "d.csv").write_text("1 2 3")
    run = shop.run(name="job")
    assert (run.result(), shop.ran(run)) == (6, {})


@pytest.mark.needs("cpu")
def test_a_variable_that_no_key_names(shop, monkeypatch):
    assert shop.run(name="job").result() == 6
    monkeypatch.setenv("FACTOR", "10")
    run = shop.run(name="job")
    assert run.result() == 60
    assert shop.ran(run) == {"scaled": 3, "total": 1}
    monkeypatch.delenv("FACTOR")
    run = shop.run(name="job")
    assert (run.result(), shop.ran(run)) == (6, {})


@pytest.mark.needs("cpu")
def test_each_item_has_its_own_file(shop):
    assert shop.run(name="files").result() == "a b c"
    (shop.folder / "b.txt").write_text("B")
    run = shop.run(name="files")
    assert (run.result(), shop.ran(run)) == ("a B c", {"named": 1, "joined": 1})


def test_a_task_that_changes_what_it_read_runs_in_each_run(shop, caplog):
    assert shop.run(name="changing").result() == 5
    run = shop.run(name="changing")
    assert (run.result(), shop.ran(run)) == (7, {"touched": 1})
    explained = why(shop.project.runs, shop.project.runs.names()[0])[0]
    assert "d.csv" in explained.unsettled
    assert any("d.csv" in record.message for record in caplog.records)


def test_a_result_that_counted_in_its_run_only_is_not_said_to_be_evicted(shop):
    shop.write("""
        from pathlib import Path
        from hooke import task, pipeline

        HERE = Path(__file__).parent

        @task
        def same() -> int:
            text = (HERE / "d.csv").read_text()
            (HERE / "d.csv").write_text(text)
            return len(text)

        @task
        def double(n: int) -> int:
            return 2 * n

        @pipeline
        def again() -> int:
            return double(same())
    """)
    first = shop.run(name="again")
    second = shop.run(name="again")
    assert shop.ran(second) == {"same": 1, "double": 1}
    explained = why(shop.project.runs, second.id)
    assert [[cause.kind for cause in each.causes] for each in explained] == [["unsettled"], ["unsettled"]]
    assert explained[1].causes[0].text == f"its result of run {first.id} counted in that run only"


@pytest.mark.needs("cpu")
def test_what_lacks_items_that_fail_now_says_so(shop):
    shop.write("""
        from pathlib import Path
        from hooke import task, pipeline

        HERE = Path(__file__).parent

        @task
        def low(x: int) -> int:
            if x >= int((HERE / "limit.txt").read_text()):
                raise ValueError(x)
            return x

        @task
        def total(xs: list[int]) -> int:
            return sum(xs)

        @pipeline
        def some() -> int:
            return total(low.map([1, 2, 3], on_error="continue"))
    """)
    for limit, result in (("3", 3), ("9", 6), ("3", 3)):
        (shop.folder / "limit.txt").write_text(limit)
        run = shop.run(name="some")
        assert run.result() == result
    causes = {each.task: [cause.text for cause in each.causes] for each in why(shop.project.runs, run.id)}
    assert causes["total"] == ["it was computed without items that had failed"]


CROWD = """
    import os, sys, time
    from pathlib import Path
    from hooke import pipeline, run, task

    HERE = Path(__file__).parent

    def ran(what):
        fd = os.open(f"{HERE.parent}/ran", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{what}\\n".encode())
        os.close(fd)
        time.sleep(0.05)

    @task
    def load(name):
        ran(f"load {name}")
        return (HERE / f"{name}.txt").read_text()

    @task
    def loud(text):
        ran(f"loud {text}")
        return text.upper()

    @task
    def joined(texts, first):
        ran("joined")
        return " ".join(texts) + first

    @pipeline
    def job():
        return joined(loud.map(load.map(["a", "b", "c"])), loud(load("d")))

    if __name__ == "__main__":
        print(run(job, on="serial").result())
"""


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_runs_at_once_compute_each_result_once_for_each_set_of_files(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    script = folder / "crowd.py"
    script.write_text(textwrap.dedent(CROWD))
    for name in "abcd":
        (folder / f"{name}.txt").write_text(name)
    for wanted in ("A B CD", "A X CD", "A B CD"):
        (folder / "b.txt").write_text("x" if "X" in wanted else "b")
        (tmp_path / "ran").write_text("")
        command = [sys.executable, str(script)]
        crowd = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert [process.communicate(timeout=100)[0].strip() for process in crowd] == [wanted] * 3
        counts = Counter((tmp_path / "ran").read_text().splitlines())
        assert set(counts.values()) <= {1}, counts
    assert not counts, "the files are as they were in the first round"


FOUND_BY_PATH = """
    import importlib.util, runpy, sys
    from importlib.machinery import SourceFileLoader
    from pathlib import Path
    from hooke import task, pipeline

    HERE = Path(__file__).parent

    @task
    def folder() -> int:
        sys.path.insert(0, str(HERE / "lib"))
        import snippet
        return snippet.go()

    @task
    def again(x: int) -> int:
        sys.path.insert(0, str(HERE / "lib"))
        import snippet
        return x + snippet.go()

    @task
    def spec() -> int:
        spec = importlib.util.spec_from_file_location("loaded", HERE / "lib" / "loose.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.go()

    @task
    def loader() -> int:
        return SourceFileLoader("loaded", "lib/loose.py").load_module().go()

    @task
    def program() -> int:
        return runpy.run_module("beside")["X"]

    @task
    def covered(name: str) -> int:
        import known
        return known.go() + importlib.import_module(f"plugs.{name}").go()

    @task
    def total(xs: list[int]) -> int:
        return sum(xs)

    @pipeline
    def job() -> int:
        return total([again(folder()), spec(), loader(), program(), covered("one")])
"""


@pytest.mark.needs("processes")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_module_that_only_the_task_finds_is_an_input_and_others_are_in_the_key(workshop):
    def write(number, comment=""):
        (workshop.folder / "lib" / "snippet.py").write_text("from deeper import N\ndef go(): return N\n")
        (workshop.folder / "lib" / "loose.py").write_text(f"def go(): return {number}\n")
        (workshop.folder / "lib" / "deeper.py").write_text(f"N = {number}\n")
        (workshop.folder / "beside.py").write_text(f"X = {number}\n")
        (workshop.folder / "known.py").write_text(f"{comment}def go(): return 1\n")
        (workshop.folder / "plugs" / "one.py").write_text(f"{comment}def go(): return 2\n")

    for name in ("lib", "plugs"):
        (workshop.folder / name).mkdir()
    (workshop.folder / "plugs" / "__init__.py").write_text("")
    workshop.write(FOUND_BY_PATH)
    write(1)
    assert workshop.run(name="job").result() == 5 * 1 + 3
    assert workshop.ran(workshop.run(name="job")) == {}
    write(1, "# why\n")
    assert workshop.ran(workshop.run(name="job")) == {}
    write(5, "# why\n")
    run = workshop.run(name="job")
    assert run.result() == 5 * 5 + 3
    names = ("folder", "again", "spec", "loader", "program", "total")
    assert workshop.ran(run) == dict.fromkeys(names, 1)


PICKLED = """
    import pickle
    from pathlib import Path
    from hooke import task, pipeline
    import models

    HERE = Path(__file__).parent

    class Here:
        def go(self) -> int: return 1

    @task
    def predict(name: str) -> int:
        return pickle.loads((HERE / name).read_bytes()).go()

    @task
    def known() -> int:
        return pickle.loads((HERE / "there.pkl").read_bytes()).go() + models.There().go()

    @task
    def total(xs: list[int]) -> int:
        return sum(xs)

    @pipeline
    def job() -> int:
        return total([predict("there.pkl"), predict("here.pkl"), known()])
"""


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_the_class_of_an_object_in_a_file_is_an_input(workshop):
    def run():
        program = (
            f"import {workshop.file.stem} as job, hooke, sys; run = hooke.run(job.job, on='local', workers=1, progress='none');"
            "print(run.result(), *sorted(f'{row.task}={row.done}' for row in run.tasks() if row.done))"
        )
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=workshop.folder
        ).stdout.split()

    models = workshop.folder / "models.py"
    models.write_text("class There:\n    def go(self): return 10\n")
    workshop.write(PICKLED)
    for name, module, kind in (("there", "models", "There"), ("here", workshop.file.stem, "Here")):
        (workshop.folder / f"{name}.pkl").write_bytes(f"c{module}\n{kind}\n)R.".encode())
    assert run() == ["31", "known=1", "predict=2", "total=1"]
    assert run() == ["31"]
    models.write_text("class There:\n    def go(self): return 20\n# why\n")
    assert run() == ["61", "known=1", "predict=1", "total=1"]
    workshop.edit("return 1\n", "return 2\n")
    assert run() == ["62", "predict=1", "total=1"]


ENVIRONMENTS = """
    import os
    from os import environ
    from hooke import task, pipeline

    get = os.environ.get
    HELD = {"environment": os.environ}

    @task
    def by_name() -> str:
        return environ.get("HOOKED_MODE")

    @task
    def by_method() -> str:
        return get("HOOKED_MODE")

    @task
    def in_dict() -> str:
        return HELD["environment"]["HOOKED_MODE"]

    @task
    def joined(texts: list[str]) -> str:
        return " ".join(texts)

    @pipeline
    def job() -> str:
        return joined([by_name(), by_method(), in_dict()])
"""


@pytest.mark.needs("cpu")
def test_the_environment_as_a_global_is_no_part_of_the_key(workshop, monkeypatch):
    monkeypatch.setenv("HOOKED_MODE", "a")
    workshop.write(ENVIRONMENTS)
    assert workshop.run(name="job", on="local", workers=1).result() == "a a a"
    monkeypatch.setenv("HOOKED_OTHER", "b")
    assert workshop.ran(workshop.run(name="job", on="local", workers=1)) == {}
    monkeypatch.setenv("HOOKED_MODE", "c")
    assert workshop.run(name="job", on="local", workers=1).result() == "c c c"


GANG = """
    import os
    from pathlib import Path
    from hooke import task, pipeline

    HERE = Path(__file__).parent

    @task(gang=2, results="all")
    def read_by(rank: int) -> str:
        if int(os.environ["RANK"]) != rank:
            return "-"
        file = HERE / f"{rank}.txt"
        text = file.read_text()
        if text == "changing":
            file.write_text("changed")
        return text + os.environ.get("FACTOR", "")

    @task
    def joined(texts: list[list[str]]) -> str:
        return " ".join(text for each in texts for text in each)

    @pipeline
    def call(rank: int) -> str:
        return joined([read_by(rank)])

    @pipeline
    def items() -> str:
        return joined(read_by.map([0, 1]))
"""


class Gang:
    """A gang of two processes, of which one reads a file and a variable."""

    def __init__(self, shop):
        self.shop = shop

    def put(self, rank, text):
        (self.shop.folder / f"{rank}.txt").write_text(text)

    def run(self, *args, name):
        run = self.shop.run(*args, name=name, on="local", workers=2)
        return run.result(), self.shop.ran(run)


@pytest.fixture
def gang(shop):
    shop.write(GANG)
    gang = Gang(shop)
    gang.put(0, "one")
    gang.put(1, "one")
    return gang


@pytest.mark.needs("processes")
@pytest.mark.parametrize(("rank", "shown"), [(0, "{} -"), (1, "- {}")])
def test_what_one_rank_of_a_gang_reads_is_an_input_of_the_gang(gang, monkeypatch, rank, shown):
    again = {"read_by": 1, "joined": 1}
    assert gang.run(rank, name="call") == (shown.format("one"), again)
    assert gang.run(rank, name="call") == (shown.format("one"), {})
    gang.put(rank, "two")
    assert gang.run(rank, name="call") == (shown.format("two"), again)
    monkeypatch.setenv("FACTOR", "x2")
    assert gang.run(rank, name="call") == (shown.format("twox2"), again)
    monkeypatch.delenv("FACTOR")
    gang.put(rank, "one")
    gang.put(1 - rank, "two")
    assert gang.run(rank, name="call") == (shown.format("one"), {}), "as in the first run"
    gang.put(rank, "changing")
    assert gang.run(rank, name="call") == (shown.format("changing"), again)
    gang.put(rank, "changing")
    assert gang.run(rank, name="call") == (shown.format("changing"), again), "a rank changed what it had read"


@pytest.mark.needs("processes")
def test_each_item_of_a_map_of_gangs_has_what_its_own_ranks_read(gang):
    assert gang.run(name="items") == ("one - - one", {"read_by": 2, "joined": 1})
    assert gang.run(name="items") == ("one - - one", {})
    gang.put(1, "two")
    assert gang.run(name="items") == ("one - - two", {"read_by": 1, "joined": 1})
