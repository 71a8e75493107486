"""What a task reads is recorded: in each kind of process, charged to the code that keeps it, and nothing else."""

from __future__ import annotations

import functools
import glob
import importlib
import linecache
import os
import pickle
import pydoc
import shutil
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pipeline.observed_project import CSV, Inputs, Place, short

from hooke.base.observed import first_changed
from hooke.base.ref import Observed
from hooke.journal.events import AttemptFailed, AttemptFinished
from hooke.keys.file import File
from hooke.keys.fingerprint import fingerprint_code
from hooke.pipeline.observed_events import PathRules, ReadEvent, settle

# --- Absent files, own writes, and changes.


def test_a_failed_open_counts_as_absent(place: Place) -> None:
    def look() -> None:
        for name in ("none.yaml", "none/none.yaml"):
            with pytest.raises(FileNotFoundError):
                Path(name).read_text()
        with pytest.raises(FileNotFoundError):
            os.listdir("nowhere")

    assert place.inputs(look) == [
        ("absent", "none.yaml"),
        ("absent", "none/none.yaml"),
        ("absent", "nowhere"),
    ]


def test_a_look_for_a_file_that_is_not_there_counts_as_absent(place: Place) -> None:
    def look() -> None:
        assert not os.path.exists("none.yaml")
        assert not Path("none.csv").is_file()
        assert not glob.glob("da*/none.txt")
        assert os.path.exists("d.csv")

    assert place.inputs(look) == [
        ("absent", "data/none.txt"),
        ("absent", "none.csv"),
        ("absent", "none.yaml"),
        ("listing", "."),
    ]


def _look_and_make() -> None:
    if not os.path.exists("made/below"):
        os.makedirs("made/below")
    if not Path("own.txt").exists():
        subprocess.run("echo x > own.txt", shell=True, check=True)
    Path("own.txt").read_text()


def test_a_line_that_linecache_reads_for_the_task_counts(place: Place) -> None:
    assert place.inputs(lambda: linecache.getline("d.csv", 1)) == CSV


def _make_and_read() -> None:
    Path("own.txt").write_text("x")
    Path("own.txt").read_text()


def _replace_and_read() -> None:
    Path("own.tmp").write_text("x")
    os.replace("own.tmp", "d.csv")
    Path("d.csv").read_text()


def _make_folder_and_list() -> None:
    os.makedirs("made/below", exist_ok=True)
    Path("made/below/x").write_text("x")
    os.listdir("made/below")
    os.listdir("made")


def _append() -> None:
    with open("d.csv", "a") as stream:
        stream.write("3,4\n")


@pytest.mark.parametrize(
    ("function", "wrote"),
    [
        (_look_and_make, ("made", "made/below", "own.txt")),
        (_make_and_read, ("own.txt",)),
        (_replace_and_read, ("d.csv",)),
        (_make_folder_and_list, ("made", "made/below", "made/below/x")),
        (_append, ("d.csv",)),
    ],
)
def test_own_writes_are_no_inputs(place: Place, function: Callable[[], None], wrote: tuple[str, ...]) -> None:
    observed = place.observed(function)
    assert (observed.inputs, observed.unsettled, observed.wrote) == ((), "", wrote)


def test_what_is_removed_through_an_open_folder_is_not_taken_for_a_file_of_the_same_name(
    place: Place,
) -> None:
    (place.root / "old" / "below").mkdir(parents=True)
    for name in ("old/d.csv", "old/below/d.json"):
        (place.root / name).write_text("")

    def clean() -> None:
        open("d.csv").close()
        shutil.rmtree("old")

    observed = place.observed(clean)
    assert (short(observed), observed.unsettled) == (CSV, "")


def test_a_file_that_is_cut_while_it_is_open_does_not_stop_the_recording(place: Place) -> None:
    def cut() -> None:
        with Path("d.csv").open() as _, Path("out.txt").open("w") as out:
            out.write("more than is kept")
            out.flush()
            os.ftruncate(out.fileno(), 4)
            os.truncate(out.fileno(), 2)

    observed = place.observed(cut)
    assert not observed.unsettled
    assert short(observed) == [("file", "d.csv")]
    assert observed.wrote == ("out.txt",)


def test_an_existing_folder_does_not_become_the_attempts_own(place: Place) -> None:
    def read() -> None:
        os.makedirs("data", exist_ok=True)
        open("data/a.txt").close()

    assert place.inputs(read) == [("file", "data/a.txt")]


def _count_up() -> None:
    text = Path("d.csv").read_text()
    Path("d.csv").write_text(f"{text}x")


def _update() -> None:
    with open("d.csv", "r+") as stream:
        stream.read()
        stream.write("5,6\n")


def _look_for_memo_and_make() -> None:
    with pytest.raises(FileNotFoundError):
        Path("memo").read_text()
    Path("memo").write_text("x")


def _read_and_remove() -> None:
    Path("d.csv").read_text()
    os.remove("d.csv")


def _append_and_read() -> None:
    _append()
    Path("d.csv").read_text()


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (_count_up, "it read d.csv and then changed it"),
        (_update, "it read d.csv and then changed it"),
        (_look_for_memo_and_make, "it looked for memo and then made it"),
        (_read_and_remove, "it read d.csv and then removed it"),
        (_append_and_read, "it changed d.csv and then read it"),
    ],
)
def test_what_is_read_and_then_changed_makes_the_result_unsettled(
    place: Place, function: Callable[[], None], why: str
) -> None:
    assert place.observed(function).unsettled == why


def test_a_file_that_changes_under_the_task_makes_it_unsettled(place: Place) -> None:
    def read() -> None:
        Path("d.csv").read_text()
        subprocess.run([sys.executable, "-c", "open('d' + '.csv', 'a').write('z')"], check=True)

    assert place.observed(read).unsettled == "d.csv changed while the task ran"


def test_a_listing_leaves_out_what_the_task_writes_there_before_and_after(place: Place) -> None:
    def convert() -> None:
        Path("data/before.out").write_text("")
        for name in os.listdir("data"):
            Path(f"data/{name}.out").write_text("")

    observed = place.observed(convert)
    assert first_changed(observed.inputs, root=place.root, environment={}) is None
    again = place.observed(convert)
    assert ("listing", "data") in short(again)
    Path("data/c.txt").write_text("")
    assert first_changed(observed.inputs, root=place.root, environment={}) is not None


# --- What never counts.


def test_imports_and_code_do_not_count(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("imported_by_task.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(place.root))

    def load() -> int:
        import imported_by_task  # type: ignore[import-not-found]

        return int(imported_by_task.VALUE)

    fingerprint_code(load)  # as each worker does, which imports what the key covers
    assert place.inputs(load) == []


def test_a_traceback_does_not_read_an_input(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("raises_later.py").write_text("def fail():\n    raise ValueError('x')\n")
    monkeypatch.syspath_prepend(str(place.root))
    module: Any = importlib.import_module("raises_later")

    def explain() -> str:
        import traceback

        try:
            module.fail()
        except ValueError:
            return traceback.format_exc()
        return ""

    assert place.inputs(explain) == []


NEVER = [
    ".hooke/runs/x",
    ".venv/lib/x",
    "env/lib/x",
    "__pycache__/x.pyc",
    ".git/config",
    "mlruns/0/meta.yaml",
    "lib/site-packages/x",
    "wandb/x",
    "mlflow.db",
    ".cache/x",
]


@pytest.mark.parametrize("name", NEVER)
def test_environments_caches_and_stores_do_not_count(place: Place, name: str) -> None:
    (place.root / name).parent.mkdir(parents=True, exist_ok=True)
    (place.root / name).write_text("")
    if name.startswith("env/"):
        (place.root / "env" / "pyvenv.cfg").write_text("")
    assert place.inputs(lambda: open(name).close()) == []


def test_devices_temporary_files_and_the_interpreter_do_not_count(place: Place) -> None:
    def read() -> None:
        open("/proc/self/status").close()
        open("/dev/null").close()
        open(os.__file__).close()
        with tempfile.NamedTemporaryFile() as file:
            open(file.name).close()

    assert place.inputs(read) == []


def test_a_declared_file_is_in_the_key_and_does_not_count(place: Place) -> None:
    file = File("d.csv")
    file.__hooke_key__()
    assert place.inputs(lambda given: Path(given).read_text(), file) == []


def test_a_task_that_is_not_to_be_observed_is_not(place: Place) -> None:
    answer = place.run(lambda: open("d.csv").close(), observe=False)
    assert answer.observed == ()


@dataclass(frozen=True, slots=True)
class Settings:
    folder: Path


def test_files_elsewhere_count_where_an_argument_a_variable_or_the_code_names_them(
    place: Place, tmp_path: Path
) -> None:
    other = Path(os.path.expanduser("~")) / f"hooke-test-{os.getpid()}"
    for home in (other, tmp_path / "elsewhere"):  # the second is below the folder for temporary files
        home.mkdir()
        try:
            (home / "x.txt").write_text("x")
            _check_files_elsewhere(place, home)
        finally:
            shutil.rmtree(home)

    def in_temporary(folder: str, rest: str) -> None:
        open(os.path.join(folder, rest.replace("+", "/"))).close()

    (tmp_path / "x.txt").write_text("x")
    rest = os.path.relpath(tmp_path / "x.txt", tempfile.gettempdir()).replace("/", "+")
    assert place.inputs(in_temporary, tempfile.gettempdir(), rest) == []


def _check_files_elsewhere(place: Place, home: Path) -> None:
    def by_argument(path: str) -> None:
        open(path).close()

    def in_folder(folder: str) -> None:
        open(os.path.join(folder, "x.txt")).close()

    def unnamed(parts: tuple[str, str]) -> None:
        open(os.path.join("/", parts[0].replace("+", "/"), parts[1] + ".txt")).close()

    named = [("file", str(home / "x.txt"))]
    assert place.inputs(by_argument, str(home / "x.txt")) == named
    assert place.inputs(in_folder, str(home)) == named

    def in_settings(settings: Any) -> None:
        open(os.path.join(str(settings.folder), "x.txt")).close()

    def in_variable() -> None:
        open(os.path.join(os.environ["DATA_DIR"], "x.txt")).close()

    assert place.inputs(in_settings, Settings(folder=home)) == named
    assert place.inputs(in_settings, SimpleNamespace(folder=str(home))) == named
    assert place.inputs(in_variable, DATA_DIR=str(home)) == [*named, ("variable", "DATA_DIR")]
    assert place.inputs(unnamed, (str(home)[1:].replace("/", "+"), "x")) == []


# --- Variables.


def _alias() -> Any:
    return ALIAS["HOOKED_MODE"]


ALIAS = os.environ
MODE = [("variable", "HOOKED_MODE")]
VARIABLES: dict[str, tuple[Callable[[], Any], Inputs]] = {
    "[]": (lambda: os.environ["HOOKED_MODE"], MODE),
    "get": (lambda: os.environ.get("HOOKED_MODE"), MODE),
    "getenv": (lambda: os.getenv("HOOKED_MODE"), MODE),
    "in": (lambda: "HOOKED_MODE" in os.environ, MODE),
    "an alias taken before": (_alias, MODE),
    "not set": (lambda: os.getenv("HOOKED_NONE", "x"), [("variable", "HOOKED_NONE")]),
    "a copy": (lambda: os.environ.copy()["HOOKED_MODE"], []),
    "dict": (lambda: dict(os.environ)["HOOKED_MODE"], []),
    "unpacked": (lambda: {**os.environ}["HOOKED_MODE"], []),
    "merged": (lambda: (os.environ | {"x": "y"})["HOOKED_MODE"], []),
    "items": (lambda: len(list(os.environ.items())), []),
    "read after a copy": (lambda: (os.environ.copy(), os.environ["HOOKED_MODE"])[1], MODE),
    "inherited": (lambda: subprocess.run(["true"], check=True).returncode, []),
    "as bytes": (lambda: os.environb[b"HOOKED_MODE"], MODE),
    "as bytes, by getenvb": (lambda: os.getenvb(b"HOOKED_MODE"), MODE),
    "expandvars": (lambda: os.path.expandvars("$HOOKED_MODE/x"), MODE),
    "a template": (lambda: string.Template("$HOOKED_MODE").substitute(os.environ), MODE),
    "a chain of maps": (lambda: ChainMap({}, os.environ)["HOOKED_MODE"], MODE),
    "by a library": (pydoc.getpager, []),
    "of the process": (
        lambda: (os.environ["PATH"], os.getenv("RANK"), os.getenv("CUDA_VISIBLE_DEVICES")),
        [],
    ),
}


@pytest.mark.parametrize("reader", VARIABLES)
def test_variables(place: Place, reader: str) -> None:
    function, expected = VARIABLES[reader]
    assert place.inputs(function, HOOKED_MODE="fast") == expected


def test_the_drivers_values_are_used_and_set_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKED_MODE", "of the worker")
    answer = place.run(lambda: os.environ["HOOKED_MODE"], HOOKED_MODE="of the driver")
    assert isinstance(answer, AttemptFinished)
    assert place.worker.store.get(answer.ref) == "of the driver"
    assert os.environ["HOOKED_MODE"] == "of the worker"
    manifest = answer.observed[0].inputs
    assert first_changed(manifest, root=place.root, environment={"HOOKED_MODE": "of the driver"}) is None
    assert first_changed(manifest, root=place.root, environment={}) is not None


def test_what_the_task_sets_itself_is_no_input(place: Place) -> None:
    def set_and_read() -> str:
        os.environ["HOOKED_MODE"] = "mine"
        return os.environ["HOOKED_MODE"]

    assert place.inputs(set_and_read, HOOKED_MODE="fast") == []


def test_a_secret_is_noted_without_its_value(place: Place) -> None:
    observed = place.observed(lambda: os.environ["HOOKED_TOKEN"], HOOKED_TOKEN="hunter2")
    assert observed.inputs == (Observed(kind="variable", name="HOOKED_TOKEN"),)
    assert first_changed(observed.inputs, root="/", environment={"HOOKED_TOKEN": "rotated"}) is None


# --- Threads, forks, memos, items.


def _read_in_thread() -> None:
    thread = threading.Thread(target=lambda: open("d.csv").close())
    thread.start()
    thread.join()


def _read_in_pool() -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Path.read_text, [Path("d.csv"), Path("d.json")]))


def _read_in_child() -> None:
    child = os.fork()
    if not child:
        open("d.csv").close()
        os.listdir("data")
        os.environ.get("HOOKED_MODE")
        os._exit(0)
    os.waitpid(child, 0)


def _write_in_child() -> None:
    child = os.fork()
    if not child:
        Path("own.txt").write_text("x")
        os._exit(0)
    os.waitpid(child, 0)
    Path("own.txt").read_text()


def test_threads_of_the_task_count(place: Place) -> None:
    assert place.inputs(_read_in_thread) == CSV
    assert place.inputs(_read_in_pool) == [("file", "d.csv"), ("file", "d.json")]


def test_other_threads_of_the_drivers_process_do_not(place: Place) -> None:
    wanted, done = threading.Event(), threading.Event()

    def other() -> None:
        wanted.wait(30)
        open("d.json").close()
        done.set()

    thread = threading.Thread(target=other)
    thread.start()

    def task() -> None:
        wanted.set()
        assert done.wait(30)

    assert place.inputs(task) == []
    thread.join()


@pytest.mark.needs("cpu")
def test_forked_children_report(place: Place) -> None:
    expected = [("file", "d.csv"), ("listing", "data"), ("variable", "HOOKED_MODE")]
    assert place.inputs(_read_in_child, HOOKED_MODE="x") == expected
    assert place.observed(_write_in_child).inputs == ()
    assert place.inputs(lambda: None) == []


@functools.lru_cache
def _kept() -> str:
    return Path("d.csv").read_text()


@functools.lru_cache
def _kept_by_name(name: str) -> str:
    return Path(name).read_text()


_model: str | None = None


def _lazy() -> str:
    global _model  # noqa: PLW0603
    if _model is None:
        _model = Path("d.csv").read_text()
    return _model


_table: dict[str, str] = {}


def _filled(name: str) -> str:
    if name not in _table:
        _table[name] = _plain_read(name)
    return _table[name]


def _plain_read(name: str) -> str:
    return Path(name).read_text()


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    global _model  # noqa: PLW0603
    yield
    _kept.cache_clear()
    _kept_by_name.cache_clear()
    _table.clear()
    _model = None


def _uses_kept() -> str:
    return _kept()


def _uses_lazy() -> str:
    return _lazy()


@pytest.mark.parametrize(
    ("first", "then"),
    [(_kept, _uses_kept), (_lazy, _uses_lazy), (lambda: _filled("d.csv"), lambda: _filled("d.csv"))],
)
def test_what_a_function_keeps_is_an_input_of_those_that_reach_it(
    place: Place, first: Callable[[], str], then: Callable[[], str]
) -> None:
    assert place.inputs(first) == CSV
    assert place.inputs(then) == CSV  # it opened nothing
    assert place.inputs(lambda: 1) == []


def test_a_cache_that_gives_a_task_nothing_gives_it_no_input(place: Place) -> None:
    assert place.inputs(lambda: _kept_by_name("d.csv")) == CSV
    assert place.inputs(lambda: _kept_by_name("d.json")) == [("file", "d.json")]


def test_a_reader_that_keeps_nothing_is_charged_to_nobody_else(place: Place) -> None:
    assert place.inputs(lambda: _plain_read("d.csv")) == CSV
    assert place.inputs(lambda: _plain_read("d.json")) == [("file", "d.json")]


def test_what_is_kept_and_has_changed_makes_a_later_task_of_the_process_unsettled(place: Place) -> None:
    place.inputs(_kept)
    time.sleep(0.01)
    Path("d.csv").write_text("another\n")
    assert "d.csv changed" in place.observed(_uses_kept).unsettled


def test_a_module_that_reads_while_it_is_imported_is_charged(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("reads_on_import.py").write_text(
        "from pathlib import Path\nTEXT = Path('d.csv').read_text()\ndef text():\n    return TEXT\ndef other():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(place.root))

    def imports() -> str:
        import reads_on_import  # type: ignore[import-not-found]

        return str(reads_on_import.text())

    assert place.inputs(imports) == [*CSV, ("file", "reads_on_import.py")]
    module: ModuleType = importlib.import_module("reads_on_import")
    assert place.inputs(module.text) == CSV
    assert place.inputs(lambda: 1) == []


def _item(number: int) -> str:
    return Path(f"data/{'ab'[number]}.txt").read_text() if number < 2 else ""


def _keeping_item(number: int) -> str:
    return _kept() if number >= 1 else ""


def test_each_item_of_a_map_has_its_own(place: Place) -> None:
    answer = place.run_map(_item, [0, 0, 1, 2, 0])
    assert [(each.lo, each.hi, short(each)) for each in answer.observed] == [
        (0, 2, [("file", "data/a.txt")]),
        (2, 3, [("file", "data/b.txt")]),
        (4, 5, [("file", "data/a.txt")]),
    ]


def test_items_after_one_that_filled_a_cache_have_read_the_same(place: Place) -> None:
    answer = place.run_map(_keeping_item, [0, 1, 2, 3])
    assert [(each.lo, each.hi, short(each)) for each in answer.observed] == [(1, 4, CSV)]


def _fails_late(number: int) -> str:
    if number == 2:
        raise ValueError(number)
    return _item(number)


def test_a_failed_attempt_says_what_its_finished_items_read(place: Place) -> None:
    answer = place.run_map(_fails_late, [0, 1, 2, 0])
    assert isinstance(answer, AttemptFailed)
    assert [(each.lo, each.hi) for each in answer.observed] == [(0, 1), (1, 2)]


@pytest.mark.needs("cpu")
def test_more_than_a_thousand_files_are_one_tree_per_folder(place: Place) -> None:
    for number in range(1001):
        Path(f"data/{number}").write_text(str(number))

    def read_all() -> None:
        for number in range(1001):
            open(f"data/{number}").close()

    observed = place.observed(read_all)
    assert short(observed) == [("tree", "data")]
    assert first_changed(observed.inputs, root=place.root, environment={}) is None
    Path("data/500").write_text("x")
    assert first_changed(observed.inputs, root=place.root, environment={}) is not None


def test_a_manifest_holds_until_its_file_changes_and_again_when_it_is_put_back(place: Place) -> None:
    manifest = place.observed(lambda: open("d.csv").close()).inputs
    assert first_changed(manifest, root=place.root, environment={}) is None
    Path("d.csv").write_text("another")
    assert first_changed(manifest, root=place.root, environment={}) is not None
    Path("d.csv").write_text("a,b\n1,2\n")
    assert first_changed(manifest, root=place.root, environment={}) is None


def test_a_result_is_pickled_by_a_wrapped_reader_as_itself(place: Place) -> None:
    pl = pytest.importorskip("polars")
    assert pickle.loads(pickle.dumps(pl.read_csv)) is pl.read_csv


# --- Rules, as properties.

NAMES = st.sampled_from(["a", "data", ".hooke", "__pycache__", "x.csv", "site-packages", "tmp", ".env"])


@pytest.mark.needs("cpu")
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_a_path_below_the_project_counts_unless_a_part_of_it_never_does(parts: list[str]) -> None:
    rules = PathRules("/nowhere/project")
    never = {".hooke", "__pycache__", "site-packages"}
    assert rules.counts("/".join(["/nowhere/project", *parts])) == never.isdisjoint(parts)
    assert not rules.counts("/".join(["/nowhere/other", *parts]))


KINDS = st.sampled_from(["read", "truncate", "change", "list", "handed", "remove"])


@pytest.mark.needs("cpu")
@given(st.lists(st.tuples(KINDS, st.integers(0, 2), st.sampled_from(["x", "y"])), max_size=8))
def test_a_file_that_is_truncated_first_is_never_an_input(events: list[tuple[str, int, str]]) -> None:
    rules = PathRules("/nowhere/project")
    made = [ReadEvent(1, item, kind, f"/nowhere/project/{name}", (1, 1, 1, 1)) for kind, item, name in events]
    settled = settle([event for event in made if event.kind != "list"], rules)
    firsts: dict[str, str] = {}
    for event in made:
        if event.kind != "list":
            firsts.setdefault(event.name, event.kind)
    for path, kind in firsts.items():
        if kind == "truncate":
            assert ("file", path) not in settled.inputs


@pytest.mark.needs("cpu")
def test_a_folder_of_a_thousand_files_that_is_removed_afterwards_makes_the_result_unsettled(
    place: Place,
) -> None:
    for number in range(1001):
        Path(f"data/{number}").write_text(str(number))

    def read_and_remove() -> None:
        for number in range(1001):
            open(f"data/{number}").close()
        subprocess.run(["rm", "-r", "data"], check=True)

    assert "removed while the task ran" in place.observed(read_and_remove).unsettled
