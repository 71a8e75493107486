"""`hooke exec`: one task with inputs by reference."""

import json
import re
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from hooke.base.errors import TaskFailed, UsageError
from hooke.cli.entry import hooke
from hooke.cli.screens import CommandSession
from hooke.exporters.value_text import stored_value
from hooke.pipeline.references import resolve
from hooke.processes.devices import Devices
from hooke.running.single_task import ExecOrder, execute_task

JOB = """
    import os
    from pathlib import Path
    from hooke import File, task

    def note(text):
        with open("ran", "a") as file:
            file.write(text + "\\n")

    @task
    def numbers(n: int) -> list[int]:
        note("numbers")
        print("printed")
        return list(range(n))

    @task(retries=5, timeout="1ms")
    def total(values, *, start=0, **more):
        note("total")
        return start + sum(values) + sum(more.values())

    @task
    def fails(x):
        note("fails")
        raise ValueError("no")

    @task
    def words(file: File):
        note("words")
        return Path(file).read_text().split()

    @task
    def reads():
        note("reads")
        return Path("data.txt").read_text()

    @task
    def write(x):
        Path("out.txt").write_text(str(x))
        return {"made": File("out.txt")}

    @task(cache=False)
    def impure():
        note("impure")

    class Model:
        @task
        def scaled(self, by):
            return by * 2

    @task(gang=2, results="all")
    def ranks(x):
        return x + int(os.environ["RANK"])
"""


@pytest.fixture
def shop(workshop):
    workshop.write(JOB)
    return workshop


def done(shop, task, *, listed=False, **inputs):
    target = f"{shop.file}:{task}" if task else str(shop.file)
    return execute_task(ExecOrder(target=target, inputs=inputs, listed=listed))


def value(shop, reference):
    return resolve(stored_value(reference), shop.project.store())


def ran():
    return Path("ran").read_text().split() if Path("ran").exists() else []


def test_inputs_are_values_or_references_and_parts_of_them(shop):
    listed = done(shop, "numbers", n="4")
    found = done(
        shop,
        "total",
        values=listed.reference,
        start=f"{listed.reference}[3]",
        more=repr({"a": listed.reference + "[1]"}),
    )
    assert value(shop, found.reference) == 6 + 3 + 1
    assert (
        value(shop, done(shop, "total", values=f"[{listed.reference + '[2]'!r}, 5]", extra="1").reference)
        == 8
    )
    assert ran() == ["numbers", "total", "total"]


def test_what_is_stored_for_the_same_content_is_found(shop):
    first = done(shop, "numbers", n="3")
    assert done(shop, "numbers", n="3") == first and ran() == ["numbers"]
    same = done(shop, "", value="[0, 1, 2]")
    assert same.reference == first.reference, "a value is named by its content, whoever made it"
    found = done(shop, "total", values=first.reference)
    assert done(shop, "total", values=same.reference) == found and ran() == ["numbers", "total"]
    shop.edit("list(range(n))", "[0, 1, *range(2, n)]")
    assert done(shop, "numbers", n="3") == first, "other code"
    assert done(shop, "total", values=first.reference) == found, "made the same, so what follows is found"
    assert ran() == ["numbers", "total", "numbers"]


def test_items_are_objects_of_their_own(shop):
    few, many = done(shop, "numbers", n="2", listed=True), done(shop, "numbers", n="3", listed=True)
    assert few.items == many.items[:2] and [value(shop, each) for each in many.items] == [0, 1, 2]
    with pytest.raises(UsageError, match="the items of a int are wanted"):
        done(shop, "total", values="[1]", listed=True)


def test_a_failure_is_that_of_a_run_and_is_not_tried_again(shop):
    with pytest.raises(TaskFailed, match=r"fails\(x=1\) failed: ValueError: no"):
        done(shop, "fails", x="1")
    assert ran() == ["fails"]


FAILING = """
    import os, time
    from pathlib import Path
    from hooke import Permanent, task

    def tries(path, most):
        with open(path, "a") as file:
            file.write(".")
        return len(Path(path).read_text()) > most

    @task(retries=2)
    def raises(x, most=9):
        if not tries("raised", most):
            raise ValueError(f"try {x}")
        return x

    @task(retries=2)
    def for_good(x):
        tries("for_good", 9)
        raise Permanent("no use")

    @task
    def dies(x):
        os.kill(os.getpid(), 9)

    @task(timeout="200ms")
    def sleeps(x):
        time.sleep(600)

    @task
    def listed(values, more=None):
        return [values, more]
"""


def item(shop, task, **inputs):
    return execute_task(ExecOrder(target=f"{shop.file}:{task}", inputs=inputs, on_error="continue"))


@pytest.mark.needs("cpu")
def test_an_item_that_may_fail_has_all_its_tries_and_is_left_out_of_lists(workshop):
    workshop.write(FAILING)
    good = item(workshop, "raises", x="1", most="2")
    assert value(workshop, good.reference) == 1 and good.failure is None
    assert Path("raised").read_text() == "..."
    failed = {name: item(workshop, name, x="1") for name in ("raises", "for_good", "dies", "sleeps")}
    assert {each.reference for each in failed.values()} == {"hooke:failed"}
    assert len(Path("raised").read_text()) == 6 and Path("for_good").read_text() == "."
    for name, said in (("raises", "ValueError: try 1"), ("dies", "SIGKILL"), ("sleeps", "timeout")):
        assert said in str(failed[name].failure), str(failed[name].failure)
    found = done(workshop, "listed", values=f"[{good.reference!r}, 'hooke:failed', ['hooke:failed']]")
    assert value(workshop, found.reference) == [[1, []], None]
    assert done(workshop, "listed", values="[1]", more="hooke:failed").reference == "hooke:failed"
    assert item(workshop, "listed", values="[1]", more="'hooke:failed'").failure is None
    assert done(workshop, "", value="hooke:failed").reference == "hooke:failed"
    for task in ("", "listed"):
        with pytest.raises(UsageError, match="an item that failed has no items"):
            done(workshop, task, **{"values" if task else "value": "hooke:failed"}, listed=True)
    with pytest.raises(UsageError, match="an item of a list, and nothing else"):
        done(workshop, "listed", values="{'a': 'hooke:failed'}")


@pytest.mark.needs("cpu")
def test_what_is_not_the_items_own_fails_it(workshop):
    workshop.write(FAILING)
    with pytest.raises(Exception, match="the store does not hold the object"):
        item(workshop, "listed", values="hooke:" + "0" * 64 + ".12")
    told = run_command(f"{workshop.file.name}:for_good", "--in", "x=1", "--on-error", "continue")
    assert (told.return_value, told.stdout) == (0, "hooke:failed\n")
    assert "Permanent: no use" in told.stderr and "hooke show" not in told.stderr
    listed = run_command(
        f"{workshop.file.name}:raises", "--in", "x=1", "--on-error", "continue", "--items", "-"
    )
    assert "the task may fail" in str(listed.exception) and not Path("raised").exists()


def test_files_that_change_count_as_in_a_run(shop):
    Path("data.txt").write_text("a b")
    Path("words.txt").write_text("c d")
    assert value(shop, done(shop, "reads").reference) == "a b"
    assert value(shop, done(shop, "words", file="File('words.txt')").reference) == ["c", "d"]
    done(shop, "reads"), done(shop, "words", file="File('words.txt')")
    assert ran() == ["reads", "words"]
    Path("data.txt").write_text("a c")
    Path("words.txt").write_text("c e")
    assert value(shop, done(shop, "reads").reference) == "a c"
    assert value(shop, done(shop, "words", file="File('words.txt')").reference) == ["c", "e"]


def test_files_that_a_task_returns_are_put_back(shop):
    made = done(shop, "write", x="'one two'").reference
    kept = done(shop, "", value=f"[{made + repr(['made'])!r}]", listed=True)
    Path("out.txt").unlink()
    assert value(shop, done(shop, "words", file=kept.items[0]).reference) == ["one", "two"]
    assert Path("out.txt").read_text() == "one two"


@pytest.mark.needs("cpu")
def test_a_gang_has_its_ranks_and_a_method_its_object(shop):
    assert value(shop, done(shop, "ranks", x="10").reference) == [10, 11]
    assert value(shop, done(shop, "Model.scaled", self="None", by="4").reference) == 8
    done(shop, "impure"), done(shop, "impure")
    assert ran() == ["impure", "impure"]


def test_a_shared_store_has_its_signatures(shop):
    Path("secret").write_text("0123456789abcdef")
    Path("hooke.toml").write_text('[store]\nurl = "shared"\nsecret_file = "secret"\n')
    listed = done(shop, "numbers", n="2", listed=True)
    assert value(shop, done(shop, "total", values=f"[{listed.items[1]!r}, 5]").reference) == 6
    Path("secret").write_text("another secret of the store")
    with pytest.raises(TaskFailed, match="sign"):
        done(shop, "total", values=listed.reference)


@pytest.mark.needs("cpu")
def test_two_at_once_compute_it_once(shop):
    shop.edit('print("printed")', "import time; time.sleep(0.5)")
    found = []
    others = [threading.Thread(target=lambda: found.append(done(shop, "numbers", n="2"))) for _ in range(2)]
    for each in others:
        each.start()
    for each in others:
        each.join()
    assert found[0] == found[1] and ran() == ["numbers"]


GPUS = """
    import os
    from hooke import task

    @task(gpus=1)
    def one(x):
        return os.environ["CUDA_VISIBLE_DEVICES"]

    @task(gpus=1, gang=2, results="all")
    def both(x):
        return os.environ["CUDA_VISIBLE_DEVICES"]

    @task(gpus=1)
    def here(x):
        return os.environ.get("CUDA_VISIBLE_DEVICES")
"""


@pytest.mark.needs("cpu")
def test_processes_of_its_own_see_the_gpus_that_the_task_asks_for(workshop, monkeypatch):
    workshop.write(GPUS)
    monkeypatch.setattr("hooke.engines.worker.pool.devices_of_this_machine", lambda: Devices(("7", "8")))
    assert value(workshop, item(workshop, "one", x="1").reference) == "7"
    assert value(workshop, done(workshop, "both", x="1").reference) == ["7,8"] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert value(workshop, done(workshop, "here", x="1").reference) == "5", "the caller's"
    monkeypatch.setattr("hooke.engines.worker.pool.devices_of_this_machine", lambda: Devices(()))
    with pytest.raises(TaskFailed, match="asks for 1 gpus, and this machine has none"):
        item(workshop, "one", x="2")


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("task", "inputs", "message"),
    [
        ("number", {"n": "1"}, "has no task 'number'.*did you mean numbers"),
        ("numbers", {"m": "1"}, "task 'numbers' has no parameter 'm'"),
        ("numbers", {}, "task 'numbers' lacks a value for its parameter 'n'"),
        ("numbers", {"n": "a"}, "--in n: 'a' is not a value"),
        ("numbers", {"n": "hooke:12"}, "--in n: hooke:12 is not a reference"),
        ("", {"n": "1", "m": "2"}, "exactly one input is the result, but 2 are given"),
    ],
)
def test_wrong_orders_are_refused(shop, task, inputs, message):
    with pytest.raises(UsageError) as error:
        done(shop, task, **inputs)
    assert re.search(message, str(error.value), re.DOTALL)


def test_a_reference_that_the_store_lacks(shop):
    for task in ("numbers", ""):
        with pytest.raises(Exception, match="the store does not hold the object"):
            done(shop, task, n="hooke:" + "0" * 64 + ".12")


def run_command(*words, stdin=""):
    return CliRunner().invoke(
        hooke, ["exec", *words], input=stdin, obj=CommandSession(), standalone_mode=False
    )


def test_the_command_writes_references_where_it_is_told(shop):
    target = f"{shop.file.name}:numbers"
    told = run_command(target, "--in", "-", "--out", "ref", "--items", "items.json", stdin="n=2\n")
    assert told.return_value == 0 and told.stdout == "", told
    reference, items = Path("ref").read_text(), json.loads(Path("items.json").read_text())
    assert value(shop, reference) == [0, 1] and [value(shop, each) for each in items] == [0, 1]
    assert run_command(target, "--in", "n=2").stdout == reference + "\n", (
        "what the task prints is not among it"
    )
    assert json.loads(run_command(target, "--in", "n=2", "--items", "-").stdout) == items
    run_command(target, "--in", "n=2", "--out", "ref.json")
    assert json.loads(Path("ref.json").read_text()) == reference
    for wrong in (["--in", "n"], ["--in", "n=1", "--in", "n=2"]):
        assert isinstance(run_command(target, *wrong).exception, UsageError)
