"""Forced tasks run although their results are stored, with all that uses them, and the rest does not."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

import hooke
from hooke.base.errors import TaskFailed, UsageError
from hooke.running.resume import resume
from hooke.running.run import Run
from hooke.running.why import dependents, why

JOB = """
    from pathlib import Path
    from hooke import task, pipeline

    HERE = Path(__file__).parent

    @task(observe=False)
    def load(n: int) -> list[int]:
        return [int(each) for each in (HERE / "numbers.txt").read_text().split()][:n]

    @task
    def names() -> list[str]:
        return ["a", "b"]

    @task
    def square(x: int) -> int:
        return x * x

    @task
    def total(xs: list[int], names: list[str]) -> int:
        if (HERE / "stuck").exists():
            raise ValueError("stuck")
        return sum(xs)

    @pipeline
    def job(n: int = 5) -> int:
        return total(square.map(load(n)), names())

    @pipeline
    def twice(n: int = 5) -> int:
        return total(load(n) , names()), total(load(n), names())
"""


@pytest.fixture
def shop(workshop):
    workshop.write(JOB)
    (workshop.folder / "numbers.txt").write_text("1 2 3 4 5")
    assert workshop.run(name="job").result() == 55
    (workshop.folder / "numbers.txt").write_text("1 2 3 4 6 7")
    return workshop


@pytest.mark.needs("cpu")
def test_a_forced_task_runs_with_all_that_uses_it(shop):
    assert shop.ran(shop.run(name="job")) == {}
    run = shop.run(name="job", force=["load"])
    assert run.result() == 66
    assert shop.ran(run) == {"load": 1, "square": 5, "total": 1}
    again = shop.run(name="job")
    assert (again.result(), shop.ran(again)) == (66, {}), "what was forced replaces what was stored"


@pytest.mark.needs("cpu")
def test_all_tasks_are_forced_by_true_and_one_by_its_name_alone(shop):
    assert shop.ran(shop.run(name="job", force=True)) == {"load": 1, "names": 1, "square": 5, "total": 1}
    assert shop.ran(shop.run(name="job", force="total")) == {"total": 1}


@pytest.mark.needs("cpu")
def test_two_forced_calls_with_one_key_run_once(shop):
    run = shop.run(name="twice", force=True)
    assert shop.ran(run) == {"load": 1, "names": 1, "total": 1}


@pytest.mark.needs("cpu")
def test_a_forced_run_goes_on_after_a_failure_without_what_it_has_done(shop):
    (shop.folder / "stuck").touch()
    with pytest.raises(TaskFailed):
        shop.run(name="job", force=["load"]).result()
    (shop.folder / "stuck").unlink()
    failed = shop.project.runs.names()[0]
    driver = resume(shop.project, failed)
    assert driver is not None and driver.drive() == "finished"
    run = Run(shop.project, failed)
    assert run.result() == 66
    assert shop.ran(run) == {"load": 1, "square": 5, "total": 1}


@pytest.mark.needs("cpu")
def test_an_unknown_task_is_refused_with_the_nearest_before_anything_is_written(shop):
    before = shop.project.runs.names()
    with pytest.raises(UsageError) as refused:
        shop.run(name="job", force=["laod"])
    assert "no task 'laod'" in str(refused.value) and "did you mean load?" in refused.value.fix
    assert shop.project.runs.names() == before


@pytest.mark.needs("cpu")
def test_run_takes_force(shop):
    from hooke.project.pipeline_file import load_entry

    pipeline, _ = load_entry(f"{shop.file}:job")
    assert hooke.run(pipeline, on="serial", force=["load"]).result() == 66


@pytest.mark.needs("cpu")
def test_why_says_that_it_was_forced(shop):
    run = shop.run(name="job", force=["square"])
    causes = {each.task: [cause.text for cause in each.causes] for each in why(shop.project.runs, run.id)}
    assert causes["square"] == ["it was forced (--force)"]
    assert causes["total"] == ["it uses square, which was forced (--force)"]
    assert causes["names"] == causes["load"] == []


def test_what_was_made_from_a_result_is_told_by_the_journals(shop):
    keys = {entry.task: entry.key for entry in shop.project.store().entries()}
    assert set(dependents(shop.project.runs, {keys["names"]}).values()) == {"total"}
    assert set(dependents(shop.project.runs, {keys["load"]}).values()) == {"square", "total"}
    assert dependents(shop.project.runs, {keys["total"]}) == {}


SHELF = """
    from urllib.request import Request, urlopen
    from pathlib import Path
    from hooke import task, pipeline

    HERE = Path(__file__).parent

    @task(observe=False)
    def extract(server: str) -> str:
        table = f"{server}/books"
        urlopen(Request(table, data=(HERE / "titles.txt").read_bytes(), method="PUT")).close()
        return table

    @task
    def count(table: str) -> int:
        with urlopen(table) as answer:
            return len(answer.read().split())

    @task
    def double(n: int) -> int:
        return 2 * n

    @pipeline
    def books(server: str) -> int:
        return double(count(extract(server)))
"""


class Shelf(BaseHTTPRequestHandler):
    """A database, for short: it keeps what was put under a name."""

    tables: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self):
        self.tables[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.tables[self.path])

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.needs("cpu")
def test_a_forced_task_that_gives_the_same_bytes_takes_along_what_uses_it(workshop, server):
    """Its result may be the name of something that changed where Hooke does not look, such as a table in a database."""
    workshop.write(SHELF)
    (workshop.folder / "titles.txt").write_text("Emma Persuasion")
    assert workshop.run(server, name="books").result() == 4
    (workshop.folder / "titles.txt").write_text("Emma Persuasion Sanditon")
    run = workshop.run(server, name="books", force=["extract"])
    assert run.result() == 6
    assert workshop.ran(run) == {"extract": 1, "count": 1, "double": 1}
