"""Files as results: stored by content, put back when a later task needs them, and never over what no task wrote."""

from __future__ import annotations

import os
import random
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from distributed import LocalCluster
from tests.fixtures.small_disk import fill

from hooke.base.errors import HookeError, TaskFailed, UsageError
from hooke.journal.events import AttemptFinished
from hooke.keys.file import File
from hooke.running.resume import resume
from hooke.running.run import Run


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as made:
        yield made.scheduler_address


@pytest.fixture(
    params=[
        "serial",
        pytest.param("local:2", marks=pytest.mark.needs("processes")),
        pytest.param("dask", marks=pytest.mark.needs("processes")),
    ]
)
def on(request):
    return request.getfixturevalue("cluster") if request.param == "dask" else request.param


JOB = """
    import dataclasses
    import os
    from pathlib import Path
    from hooke import File, pipeline, task

    HERE = Path(__file__).parent

    @dataclasses.dataclass
    class Made:
        table: File
        rows: int

    @task
    def make(months: int) -> File:
        out = Path("out.csv")
        out.write_text("row\\n" * months)
        return File(out)

    @task
    def make_path(months: int) -> Path:
        out = HERE / "deep" / "out.csv"
        out.parent.mkdir(exist_ok=True)
        out.write_text("row\\n" * months)
        return out

    @task
    def make_nested(months: int) -> dict:
        out = HERE / "nested.csv"
        out.write_text("row\\n" * months)
        return {"all": [(1, Made(File(out), months))]}

    @task
    def make_each(month: int) -> File:
        out = HERE / f"month-{month}.csv"
        out.write_text("row\\n" * month)
        return File(out)

    @task
    def list_paths(months: int) -> list[Path]:
        made = []
        for month in range(months):
            out = HERE / f"path-{month}.csv"
            out.write_text("row\\n" * (month + EXTRA))
            made.append(out)
        return made

    EXTRA = 1

    @task
    def count(table) -> int:
        return len(Path(table).read_text().splitlines()) + 0

    @task
    def count_nested(made: dict) -> int:
        return len(Path(made["all"][0][1].table).read_text().splitlines()) + 0

    @pipeline
    def report(months: int = 3) -> int:
        return count(make(months))

    @pipeline
    def by_path(months: int = 3) -> int:
        return count(make_path(months))

    @pipeline
    def nested(months: int = 3) -> int:
        return count_nested(make_nested(months))

    @pipeline
    def only(months: int = 3) -> File:
        return make(months)

    @pipeline
    def items(months: int = 3) -> list[int]:
        return count.map(make_each.map(range(1, months + 1)))

    @pipeline
    def dynamic(months: int = 3) -> list[int]:
        return count.map(list_paths(months))
"""


@pytest.fixture
def shop(workshop):
    workshop.write(JOB)
    return workshop


def edit_count(shop):
    """Another version of the consumer, which has no result yet."""
    text = shop.file.read_text()
    old = text.partition("splitlines()) + ")[2].partition("\n")[0]
    shop.write(text.replace(f"splitlines()) + {old}", f"splitlines()) + {old} + 0"))


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("name", ["report", "by_path", "nested"])
def test_a_deleted_file_is_put_back_without_its_task(shop, name, on):
    assert shop.run(3, name=name, on=on).result() == 3
    (path,) = [path for path in shop.folder.rglob("*.csv") if ".hooke" not in path.parts]
    path.unlink()
    edit_count(shop)
    again = shop.run(3, name=name, on=on)
    assert again.result() == 3
    assert path.read_text() == "row\n" * 3
    assert not {"make", "make_path", "make_nested"} & shop.ran(again).keys()


def test_a_clock_that_is_ahead_of_the_one_of_files_makes_no_file_anothers(shop, monkeypatch):
    """In virtual machines the coarse clock is, now and then: one in a hundred files then counted as not written by its task."""
    ahead = time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: ahead(clock) + 20_000_000)
    run = shop.run(3, name="nested", on="serial")
    (made,) = [each for each in run.journal if isinstance(each, AttemptFinished) and each.node == 0]
    assert [file.path for file in made.ref.files if file.digest] == ["nested.csv"]
    assert [each for part in made.observed for each in part.inputs] == []


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("name", ["report", "by_path", "nested"])
def test_what_a_hand_wrote_is_never_overwritten_and_never_counted(shop, name, on):
    """The audit's reproduction: overwrite the file by hand, edit the consumer, run."""
    shop.run(3, name=name, on=on)
    (path,) = [path for path in shop.folder.rglob("*.csv") if ".hooke" not in path.parts]
    path.write_text("by hand\n")
    edit_count(shop)
    with pytest.raises(TaskFailed) as failed:
        shop.run(3, name=name, on=on).result()
    said = str(failed.value)
    assert path.name in said and "overwritten by something else" in said
    assert "move the file away or delete it" in failed.value.fix and "--force=TASK" in failed.value.fix
    assert path.read_text() == "by hand\n"
    path.unlink()
    assert shop.run(3, name=name, on=on).result() == 3


@pytest.mark.needs("cpu")
def test_a_parameter_goes_back_and_forth(shop, on):
    for months in (4, 3):
        assert shop.run(months, name="report", on=on).result() == months
    edit_count(shop)
    for months in (4, 3, 4):
        again = shop.run(months, name="report", on=on)
        assert again.result() == months
        assert "make" not in shop.ran(again)
        edit_count(shop)


def test_forcing_the_task_replaces_what_a_hand_wrote(shop):
    shop.run(3, name="report")
    (shop.folder / "out.csv").write_text("by hand\n")
    assert shop.run(3, name="report", force=["make"]).result() == 3
    assert (shop.folder / "out.csv").read_text() == "row\n" * 3


@pytest.mark.needs("cpu")
def test_the_result_of_a_run_is_put_back_even_by_a_run_in_which_nothing_ran(shop):
    first = shop.run(3, name="only")
    path = shop.folder / "out.csv"
    path.unlink()
    second = shop.run(3, name="only")
    assert path.read_text() == "row\n" * 3, "the run itself put it back"
    assert not shop.ran(second)
    shop.run(4, name="only")
    assert path.read_text() == "row\n" * 4
    assert Path(first.result()).read_text() == "row\n" * 3
    path.write_text("by hand\n")
    with pytest.raises(UsageError, match="overwritten by something else"):
        first.result()
    with pytest.raises(UsageError, match="overwritten by something else"):
        shop.run(3, name="only")
    assert path.read_text() == "by hand\n"


@pytest.mark.needs("cpu")
def test_items_of_a_map_return_files(shop, on):
    assert shop.run(3, name="items", on=on).result() == [1, 2, 3]
    for month in (1, 3):
        (shop.folder / f"month-{month}.csv").unlink()
    edit_count(shop)
    again = shop.run(3, name="items", on=on)
    assert again.result() == [1, 2, 3]
    assert "make_each" not in shop.ran(again)
    (shop.folder / "month-2.csv").write_text("by hand\n")
    edit_count(shop)
    with pytest.raises(TaskFailed, match=r"month-2\.csv"):
        shop.run(3, name="items", on=on).result()


@pytest.mark.needs("cpu")
def test_items_of_a_list_that_a_task_made_are_keyed_by_content(shop, on):
    assert shop.run(3, name="dynamic", on=on).result() == [1, 2, 3]
    assert not shop.ran(shop.run(3, name="dynamic", on=on))
    shop.edit("EXTRA = 1", "EXTRA = 2")
    assert shop.run(3, name="dynamic", on=on).result() == [2, 3, 4], (
        "the names are the same, the files are not"
    )
    (shop.folder / "path-1.csv").unlink()
    edit_count(shop)
    again = shop.run(3, name="dynamic", on=on)
    assert again.result() == [2, 3, 4]
    assert "list_paths" not in shop.ran(again)


def test_a_result_whose_content_was_evicted_is_made_again(shop):
    shop.run(3, name="report")
    store = shop.project.store()
    (content,) = {file.digest for entry in store.entries() for file in entry.ref.files}
    os.unlink(shop.folder / f".hooke/store/objects/{content[:2]}/{content}")
    (shop.folder / "out.csv").unlink()
    edit_count(shop)
    again = shop.run(3, name="report")
    assert again.result() == 3
    assert shop.ran(again)["make"] == 1


@pytest.mark.needs("cpu")
def test_eviction_takes_a_result_with_the_content_of_its_file(shop):
    shop.run(3, name="report")
    store = shop.project.store()
    store.gc(0)
    assert not list(store.entries())
    edit_count(shop)
    assert shop.ran(shop.run(3, name="report")) == {"make": 1, "count": 1}


@pytest.mark.needs("cpu")
def test_content_that_was_evicted_is_still_known_as_a_result(shop):
    for months in (3, 4):
        shop.run(months, name="report")
    store = shop.project.store()
    four = {file.digest for entry in store.entries() for file in entry.ref.files}
    assert len(four) == 2
    newest = max(store.entries(), key=lambda entry: entry.at if entry.ref.files else 0)
    os.unlink(
        shop.folder / f".hooke/store/objects/{newest.ref.files[0].digest[:2]}/{newest.ref.files[0].digest}"
    )
    edit_count(shop)
    assert shop.run(3, name="report").result() == 3
    assert shop.run(4, name="report").result() == 4


@pytest.mark.needs("cpu")
def test_permissions_and_large_files_come_back(workshop):
    workshop.write("""
        import os
        from pathlib import Path
        from hooke import File, pipeline, task

        @task
        def build() -> tuple[File, File]:
            Path("tool.sh").write_text("#!/bin/sh\\necho hello\\n")
            os.chmod("tool.sh", 0o750)
            block = bytes(range(256)) * 4096
            with open("large.bin", "wb") as file:
                for _ in range(20):
                    file.write(block)
            return File("tool.sh"), File("large.bin")

        @task
        def use(made: tuple[File, File]) -> int:
            import subprocess
            said = subprocess.run(["./tool.sh"], capture_output=True, check=True).stdout
            return len(said) + os.path.getsize(made[1])

        @pipeline
        def job() -> int:
            return use(build())
    """)
    assert workshop.run().result() == 6 + 20 * (1 << 20)
    content = (workshop.folder / "large.bin").read_bytes()
    for name in ("tool.sh", "large.bin"):
        (workshop.folder / name).unlink()
    workshop.edit("return len(said) + os", "return os")
    assert workshop.run().result() == 20 << 20
    assert (workshop.folder / "large.bin").read_bytes() == content
    assert stat.S_IMODE((workshop.folder / "tool.sh").stat().st_mode) == 0o750
    assert not list(workshop.folder.glob(".*.tmp"))


GIVEN = """
    from pathlib import Path
    from hooke import File, pipeline, task

    @task
    def pick(folder: str) -> list[Path]:
        return sorted(Path(folder).glob("*.csv"))

    @task
    def choose(folder: str) -> File:
        return File(sorted(Path(folder).glob("*.csv"))[0])

    @task
    def same(table: File) -> File:
        return table

    @task
    def write(text: str) -> File:
        Path("made.csv").write_text(text)
        return File("made.csv")

    @task
    def read(table) -> str:
        return Path(table).read_text().strip()

    @task
    def read_all(tables: list[Path]) -> str:
        return " ".join(table.read_text().strip() for table in tables)

    @pipeline
    def chosen(folder: str) -> str:
        return read(choose(folder))

    @pipeline
    def picked(folder: str) -> list[str]:
        return read.map(pick(folder))

    @pipeline
    def passed(table: File) -> str:
        return read(same(table))

    @pipeline
    def written(text: str) -> str:
        return read(same(write(text)))
"""


@pytest.fixture
def given(workshop):
    workshop.write(GIVEN)
    (workshop.folder / "data").mkdir()
    (workshop.folder / "data" / "a.csv").write_text("a")
    os.utime(workshop.folder / "data" / "a.csv", (1e9, 1e9))
    return workshop


def edit_read(given):
    """Another version of the consumer, which has no result yet."""
    given.write(given.file.read_text().replace("Path(table).read_text()", "'' + Path(table).read_text()"))


@pytest.mark.needs("cpu")
def test_a_file_that_the_task_did_not_write_is_the_users_to_edit(given):
    assert given.run("data", name="chosen").result() == "a"
    assert not given.ran(given.run("data", name="chosen"))
    (given.folder / "data" / "a.csv").write_text("b")
    again = given.run("data", name="chosen")
    assert again.result() == "b"
    assert given.ran(again)["choose"] == 1
    given.run("data", name="picked")
    (given.folder / "data" / "a.csv").write_text("c")
    assert given.run("data", name="picked").result() == ["c"]


@pytest.mark.needs("cpu")
def test_a_task_returns_the_file_that_it_was_given(given):
    table = given.folder / "data" / "a.csv"
    assert given.run(File(table), name="passed").result() == "a"
    table.write_text("b")
    assert given.run(File(table), name="passed").result() == "b"
    for text in ("one", "two"):
        assert given.run(text, name="written").result() == text
    edit_read(given)
    again = given.run("one", name="written")
    assert again.result() == "one"
    assert given.ran(again) == {"read": 1}


@pytest.mark.needs("cpu")
def test_a_file_outside_the_project_counts_while_it_is_as_it_was(workshop, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "out.csv"
    workshop.write("""
        from pathlib import Path
        from hooke import File, pipeline, task

        @task
        def make(path: str) -> File:
            Path(path).write_text("made")
            return File(path)

        @task
        def read(table: File) -> str:
            return Path(table).read_text() + ""

        @pipeline
        def job(path: str) -> str:
            return read(make(path))
    """)
    assert workshop.run(str(outside)).result() == "made"
    assert not any(file.digest for entry in workshop.project.store().entries() for file in entry.ref.files)
    workshop.edit('+ ""', '+ "" + ""')
    assert workshop.ran(workshop.run(str(outside))) == {"read": 1}
    for change in (outside.unlink, lambda: outside.write_text("by hand")):
        change()
        workshop.write(workshop.file.read_text() + "\n# again\n")
        workshop.edit("read_text() +", 'read_text() + "" +')
        again = workshop.run(str(outside))
        assert again.result() == "made"
        assert workshop.ran(again) == {"make": 1, "read": 1}


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("name", ["both", "every"])
def test_two_calls_that_write_one_file_are_refused(workshop, name, on):
    workshop.write("""
        from pathlib import Path
        from hooke import File, pipeline, task

        @task
        def make(months: int) -> File:
            Path("out.csv").write_text("row\\n" * months)
            return File("out.csv")

        @task
        def count(table: File) -> int:
            return len(Path(table).read_text().splitlines())

        @pipeline
        def both() -> tuple[int, int]:
            return count(make(3)), count(make(4))

        @pipeline
        def every() -> list[int]:
            return count.map(make.map([3, 4]))
    """)
    with pytest.raises(HookeError) as failed:
        workshop.run(name=name, on=on).result()
    assert "out.csv" in str(failed.value)
    if on == "serial":  # elsewhere, a consumer may see first what the other call writes
        assert "out.csv is the result of two calls" in str(failed.value)
        assert "give each its own file" in str(failed.value)


@pytest.mark.needs("cpu")
def test_equal_calls_may_return_one_file(workshop):
    workshop.write("""
        from pathlib import Path
        from hooke import File, pipeline, task

        @task
        def make(months: int) -> File:
            Path("out.csv").write_text("row\\n" * months)
            return File("out.csv")

        @task
        def count(table: File) -> int:
            return len(Path(table).read_text().splitlines())

        @pipeline
        def job() -> list[int]:
            return count.map(make.map([3, 3]))

        @pipeline
        def twice() -> tuple[int, int]:
            return count(make(3)), count(make(3))
    """)
    assert workshop.run(name="job").result() == [3, 3]
    assert workshop.run(name="twice").result() == (3, 3)


@pytest.mark.needs("cpu")
def test_a_task_may_write_over_the_file_that_it_returns(workshop):
    workshop.write("""
        from pathlib import Path
        from hooke import File, pipeline, task

        @task
        def train(steps: int) -> Path:
            Path("model.txt").write_text(f"{steps} steps")
            return Path("model.txt")

        @task
        def tune(model: Path) -> Path:
            model.write_text(model.read_text() + ", tuned")
            return model

        @task
        def score(model: Path) -> str:
            return model.read_text()

        @pipeline
        def job(steps: int) -> tuple[str, str]:
            trained = train(steps)
            return score(tune(trained)), score(trained)
    """)
    for steps in (1, 2, 1):
        assert workshop.run(steps).result() == (f"{steps} steps, tuned", f"{steps} steps")
        workshop.write(
            workshop.file.read_text().replace("return model.read_text()", "return '' + model.read_text()")
        )


def test_a_task_that_changes_its_input_is_told(workshop):
    workshop.write("""
        from pathlib import Path
        from hooke import File, pipeline, task

        @task
        def make() -> File:
            Path("out.csv").write_text("a")
            return File("out.csv")

        @task
        def spoil(table: File) -> int:
            Path(table).write_text("b")
            return 1

        @pipeline
        def job() -> int:
            return spoil(make())
    """)
    with pytest.raises(TaskFailed) as failed:
        workshop.run().result()
    assert "out.csv changed while this task used it" in str(failed.value)
    assert "write to another path" in failed.value.fix


def test_links_that_lead_out_of_the_project_are_not_written_through(workshop, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    workshop.write(JOB)
    workshop.run(3, name="by_path")
    folder = workshop.folder / "deep"
    (folder / "out.csv").unlink()
    folder.rmdir()
    folder.symlink_to(elsewhere)
    edit_count(workshop)
    with pytest.raises(TaskFailed, match="leads out of the project"):
        workshop.run(3, name="by_path").result()
    assert not list(elsewhere.iterdir())


@pytest.mark.needs("cpu")
def test_a_folder_and_a_missing_file_as_a_file_are_refused(workshop):
    workshop.write("""
        from pathlib import Path
        from hooke import File, pipeline, task

        @task
        def give(name: str) -> File:
            Path("folder").mkdir(exist_ok=True)
            return File(name)

        @task
        def give_path(name: str) -> Path:
            Path(name).mkdir(exist_ok=True)
            return Path(name)

        @pipeline
        def job(name: str) -> File:
            return give(name)

        @pipeline
        def paths(name: str) -> Path:
            return give_path(name)
    """)
    with pytest.raises(TaskFailed) as failed:
        workshop.run("folder", name="job").result()
    assert "is a folder" in str(failed.value) and "list of its files" in failed.value.fix
    with pytest.raises(TaskFailed, match=r"nothing\.csv, which cannot be read"):
        workshop.run("nothing.csv", name="job").result()
    assert workshop.run("folder", name="paths").result() == Path("folder"), "a folder's path is only text"


def test_a_failed_run_is_resumed_with_its_files(shop):
    """What the journal knows as finished counts only with the content of its files."""
    shop.edit("return len(Path(table).read_text().splitlines()) + 0", "raise ValueError('not yet')")
    with pytest.raises(TaskFailed):
        shop.run(3, name="report").result()
    (shop.folder / "out.csv").unlink()
    (run,) = shop.project.runs.names()
    shop.edit("raise ValueError('not yet')", "return len(Path(table).read_text().splitlines())")
    driver = resume(shop.project, run)
    assert driver is not None
    driver.drive()
    assert Run(shop.project, run).result() == 3
    assert (shop.folder / "out.csv").read_text() == "row\n" * 3


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_edits_gives_the_plain_answer_or_names_the_conflict(workshop, seed):
    """Against a plain oracle: what the file must hold, and whether something else than a task has written to it."""
    workshop.write(JOB)
    path, draw, known = workshop.folder / "out.csv", random.Random(seed), set()
    for _ in range(14):
        match draw.choice(["run", "run", "run", "hand", "delete", "edit", "evict", "evict one", "copy"]):
            case "run":
                months = draw.choice([1, 2, 3])
                before = path.read_text() if path.exists() else None
                run = workshop.run(months, name="report")
                if run.status == "finished":
                    assert run.result() == months
                    known.add("row\n" * months)
                    if workshop.ran(run):
                        assert path.read_text() == "row\n" * months
                    continue
                with pytest.raises(TaskFailed, match="overwritten by something else"):
                    run.result()
                assert before is not None and before not in known, "a known result is no conflict"
                assert path.read_text() == before, "unknown bytes are never overwritten"
            case "hand":
                path.write_text(f"by hand {draw.random()}\n")
            case "copy":
                path.write_text("row\n" * draw.choice([1, 2, 3]))
            case "delete":
                path.unlink(missing_ok=True)
            case "edit":
                edit_count(workshop)
            case "evict":
                workshop.project.store().gc(0)
            case "evict one":
                contents = sorted({f.digest for e in workshop.project.store().entries() for f in e.ref.files})
                if contents:
                    gone = draw.choice(contents)
                    (workshop.folder / f".hooke/store/objects/{gone[:2]}/{gone}").unlink(missing_ok=True)


@pytest.mark.needs("cpu")
def test_a_full_disk_loses_nothing(workshop, small_disk):
    workshop.write("""
        from pathlib import Path
        from hooke import File, pipeline, task

        @task
        def make(kib: int) -> File:
            Path("disk/out.bin").write_bytes(bytes(kib << 10))
            return File("disk/out.bin")

        @task
        def size(made: File) -> int:
            return len(Path(made).read_bytes()) + 0

        @pipeline
        def job(kib: int) -> int:
            return size(make(kib))
    """)
    for kib in (32, 4):
        assert workshop.run(kib).result() == kib << 10
    ballast = fill(small_disk)
    workshop.edit("+ 0", "+ 0 + 0")
    with pytest.raises(TaskFailed) as failed:
        workshop.run(32).result()
    assert (
        "the file of a result cannot be written" in str(failed.value)
        and "free some space" in failed.value.fix
    )
    assert (small_disk / "out.bin").stat().st_size == 4 << 10, "what was there is there"
    assert not list(small_disk.glob(".*.tmp"))
    ballast.unlink()
    assert workshop.run(32).result() == 32 << 10


@pytest.mark.long
@pytest.mark.needs("processes")
def test_runs_at_once_that_need_one_file_in_two_states_are_right_or_say_so(shop):
    for months in (3, 4):
        shop.run(months, name="report")
    edit_count(shop)

    def outcome(months: int) -> int | str:
        try:
            return shop.run(months, name="report", on="local:1", force=["count"]).result()
        except HookeError as error:
            return str(error)

    wanted = [3, 4, 3, 4, 3, 4]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(outcome, wanted))
    assert all(
        each == months or "out.csv" in str(each) for each, months in zip(found, wanted, strict=True)
    ), found
    assert not list(shop.folder.glob(".*.tmp"))
