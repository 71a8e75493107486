"""The programs of `deaths.py`: for each death a task, for each system the few lines that a user would write to call it.

A program is two files in an empty folder: `work.py` with the task `clean(day)`, and `main.py`. The task itself writes down
when it begins and ends, so that silent reruns are counted without asking the system.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DAY", "DEATHS", "LOG_LINE", "SYSTEMS", "Death", "write_program"]

DAY = "2013-06-30"
"""The argument of the task that dies."""

LOG_LINE = "read 42 rows"
"""What each task prints before it dies."""

SYSTEMS = ("hooke", "pool", "loky", "dask", "ray")
ITEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """One way to die."""

    title: str
    body: str
    """What the task does after it has said that it began."""
    facts: str
    """What could be named of it, in the letters of the page's legend."""
    note: str = ""
    limit_s: float = 40.0
    """When the program is ended from outside, from its call of the task."""
    days: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    """System -> what its decorator, cluster or wait is told beforehand."""


DEATHS = {
    "exception": Death(title="An exception, three calls deep", body="return parse(day)", facts="FAWLN"),
    "sigkill": Death(
        title="SIGKILL, as the kernel sends it when memory runs out",
        body="os.kill(os.getpid(), signal.SIGKILL)",
        facts="FAWSLN",
    ),
    "segfault": Death(title="A segfault", body="ctypes.string_at(0)", facts="FAWSLN"),
    "exit": Death(title="`os._exit(7)`", body="os._exit(7)", facts="FAWSLN"),
    "memory": Death(
        title="More memory than declared",
        body="""
        held = []
        while len(held) < 1000:
            held.append(bytearray(b"x" * (1 << 20)))
            time.sleep(0.001)
        return len(held)
        """,
        facts="FAWMLN",
        note="The task allocates 1000 MiB, one at a time. It declares 400 MiB: `hooke.task(memory=)`, `ray.remote(memory=)`, "
        "`LocalCluster(memory_limit=)`. ProcessPoolExecutor and loky have no such limit. Hooke would double the limit up to "
        "the machine's memory, so its driver is configured to see 700 MiB.",
        options={"hooke": 'memory="400MiB"', "dask": 'memory_limit="400MiB"', "ray": "memory=400 << 20"},
    ),
    "timeout": Death(
        title="A task of 12 s with a limit of 2 s",
        body="time.sleep(12)",
        facts="FAWLN",
        note="Hooke uses `hooke.task(timeout=2)`. The alternatives limit the wait for a result, not the task.",
        options=dict.fromkeys(SYSTEMS, "timeout=2"),
    ),
    "unpicklable": Death(title="A function that holds a lock", body="with lock: return day", facts="FN"),
    "missing": Death(
        title="A module that exists on the driver but not on its workers",
        body="return day",
        facts="FAWN",
        note="The workers start, and the driver imports the task's module. Then the module's file is deleted.",
    ),
    "sigstop": Death(
        title="SIGSTOP, never continued",
        body="os.kill(os.getpid(), signal.SIGSTOP)",
        facts="FAWSLN",
        note="The benchmark kills the program after 15 s.",
        limit_s=15.0,
    ),
    "poison": Death(
        title=f"A map of {ITEMS} items, one of which kills its worker",
        body=f'if day == "{DAY}": os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(0.2)\nreturn day',
        facts="FAWSLN",
        days=ITEMS,
    ),
    "driver": Death(
        title="`kill -9` of the driver",
        body="time.sleep(60)",
        facts="",
        note="The driver is killed while two tasks run. 5 s later, its surviving processes are counted.",
        days=2,
    ),
}

_TASK = """
import ctypes, os, signal, threading, time
@IMPORT@

def note(file, text):
    with open(@FOLDER@ + "/" + file, "a") as out:
        out.write(text + "\\n")

def parse(day):
    return number({"day": day, "rows": []})

def number(table):
    return int(table["rows"][0])

@DECORATOR@
def clean(day: str) -> object:
    note("began", f"{day} {os.getpid()} {time.time()}")
    print("@LOG@", flush=True)
    result = body(day)
    note("ended", day)
    return result

def body(day):
    @BODY@
"""
_HOLDING = """
import threading
@IMPORT@

def make(lock):
    @DECORATOR@
    def clean(day: str) -> object:
        with lock:
            return day
    return clean

clean = make(threading.Lock())
"""

_MAIN = """
import os, shutil, sys, time
sys.path.insert(1, @FOLDER@ + "/elsewhere")

def said(*error):
    with open("said", "w") as out:
        out.write(str(time.time()))
    sys.__excepthook__(*error)

sys.excepthook = said

if __name__ == "__main__":
    days = @DAYS@
    @START@
    from work import clean as task
    @LOSE@
    with open("called", "w") as out:
        out.write(f"{time.time()} {os.fstat(1).st_size}")
    @CALL@
    print("result:", str(result)[:60])
"""

_STARTS = {
    "hooke": "from hooke import pipeline, run\n@MACHINE@",
    "pool": "from concurrent.futures import ProcessPoolExecutor\npool = ProcessPoolExecutor(2)\nlist(pool.map(abs, range(9)))",
    "loky": "from loky import get_reusable_executor\npool = get_reusable_executor(2)\nlist(pool.map(abs, range(9)))",
    "dask": "from distributed import Client, LocalCluster\npool = Client(LocalCluster(n_workers=2, threads_per_worker=1, "
    'host="127.0.0.1", dashboard_address=None, @LIMIT@))\npool.gather(pool.map(abs, range(9)))',
    "ray": 'import ray\nray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", '
    "object_store_memory=100_000_000, _temp_dir=@FOLDER@)\nray.get([ray.remote(lambda n: n).remote(n) for n in range(9)])",
}
_ONE = {
    "hooke": '@pipeline\ndef job():\n    return task(days[0])\nresult = run(job, on="local:2").result()',
    "ray": "result = ray.get(task.remote(days[0]), @WAIT@)",
}
_MANY = {
    "hooke": '@pipeline\ndef job():\n    return task.map(days)\nresult = run(job, on="local:2").result()',
    "dask": "result = pool.gather(pool.map(task, days))",
    "ray": "result = ray.get([task.remote(day) for day in days])",
}
_SMALL_MACHINE = "import psutil, types\npsutil.virtual_memory = lambda: types.SimpleNamespace(available=(700 << 20) * 10 // 9, total=1 << 30)"


def write_program(name: str, system: str, folder: str) -> dict[str, str]:
    """File name -> text of the program in which `system` meets the death called `name`, to be run in `folder`."""
    death = DEATHS[name]
    option = death.options.get(system, "")
    values = {
        "@FOLDER@": repr(folder),
        "@LOG@": LOG_LINE,
        "@IMPORT@": {"hooke": "import hooke", "ray": "import ray"}.get(system, ""),
        "@DECORATOR@": _decorator(system, "" if system == "ray" and name == "timeout" else option),
        "@BODY@": textwrap.dedent(death.body).strip(),
        "@DAYS@": repr(_days(death.days)),
        "@START@": _STARTS[system],
        "@MACHINE@": _SMALL_MACHINE if name == "memory" else "",
        "@LIMIT@": option if name == "memory" else "",
        "@LOSE@": f"shutil.rmtree({folder + '/elsewhere'!r})" if name == "missing" else "",
        "@CALL@": _call(system, many=death.days > 1),
        "@WAIT@": option if name == "timeout" else "",
    }
    task = _filled(_HOLDING if name == "unpicklable" else _TASK, values)
    place = "elsewhere/work.py" if name == "missing" else "work.py"
    return {place: task, "main.py": _filled(_MAIN, values)}


def _decorator(system: str, option: str) -> str:
    called = {"hooke": "@hooke.task", "ray": "@ray.remote"}.get(system, "")
    return f"{called}({option})" if called and option else called


def _call(system: str, *, many: bool) -> str:
    if many:
        return _MANY.get(system, "result = list(pool.map(task, days))")
    return _ONE.get(system, "result = pool.submit(task, days[0]).result(@WAIT@)")


def _days(many: int) -> list[str]:
    """The day that dies among days that do not."""
    others = [f"2013-07-{day:02}" for day in range(1, many)]
    return [*others[: many // 2], DAY, *others[many // 2 :]]


def _filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with each @NAME@ replaced, those in replacements too; one that is a whole line keeps that line's indent."""
    for _ in range(2):
        text = "\n".join(_line(line, values) for line in text.splitlines())
    return text + "\n"


def _line(line: str, values: Mapping[str, str]) -> str:
    alone = line.strip()
    if alone in values:
        return textwrap.indent(values[alone], line.partition("@")[0])
    for name, value in values.items():
        line = line.replace(name, value)
    return line
