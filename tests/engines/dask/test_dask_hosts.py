"""Dask on hosts that share nothing but TCP: mutual TLS between them, an S3 store, the project's code on the driver's alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections import Counter

import pytest
from tests.certificates.machines import certified
from tests.engines.dask.dask_lab import KEYS, Lab, lab
from tests.engines.local.faults import wait_until
from tests.support.hosts import Host

from hooke.base.errors import HookeError
from hooke.certificates.authority import Authority
from hooke.journal.events import AttemptFinished, AttemptStarted
from hooke.journal.reader import read

pytestmark = [
    pytest.mark.needs("hosts"),
    pytest.mark.timeout(600),
]

QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def test_code_travels_results_are_stored_and_logs_come_back() -> None:
    with lab() as here:
        result = json.loads(here.hooke("run", "job.py", "--on", "lab", "--json"))
        assert result["status"] == "finished"
        runs = here.driver.project / ".hooke" / "runs"
        (run,) = [path for path in runs.iterdir() if path.name.startswith("squares")]
        printed = "".join(path.read_text() for path in (run / "logs").glob("*.log"))
        assert len(set(re.findall(r"squaring \d+", printed))) == 12
        logged = here.hooke("runs", "--json")
        assert "squares" in logged
        # An edit travels, too: nothing of the first code is left in a worker.
        library = here.driver.project / "project_library" / "numbers.py"
        library.write_text("def squared(x):\n    return x * 100\n", "utf-8")
        assert "6600" in here.hooke("run", "job.py", "--on", "lab", "--json")
        for host in here.workers.values():
            assert not [path for path in host.project.rglob("project_library")]
        a_gang_of_a_rank_on_each_host_meets(here)


GANG = """
    import os, socket
    from hooke import pipeline, task

    @task(gang=2, results="all")
    def meet(value):
        print("I am rank", os.environ["RANK"])
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if os.environ["RANK"] == "0":
            with socket.create_server(place) as server, server.accept()[0] as other:
                value += int.from_bytes(other.recv(8))
        else:
            while True:
                try:
                    with socket.create_connection(place) as first:
                        first.sendall((value + 1).to_bytes(8))
                    break
                except ConnectionRefusedError:
                    pass
        return value, place[0], os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]

    @pipeline
    def met():
        return meet(10)
"""


def a_gang_of_a_rank_on_each_host_meets(here: Lab) -> None:
    (here.driver.project / "gang.py").write_text(textwrap.dedent(GANG), "utf-8")
    ranks = json.loads(here.hooke("run", "gang.py", "--on", "lab", "--json"))["result"]
    address = ranks[0][1]
    assert address in [host.address for host in here.workers.values()]
    assert ranks == [[21, address, "0", "1"], [10, address, "0", "1"]]
    logs = (here.driver.project / ".hooke" / "runs").glob("met*/logs/dask-*.log")
    assert sorted(path.read_text("utf-8") for path in logs) == ["I am rank 0\n", "I am rank 1\n"]


FILES = """
    import os, time
    from pathlib import Path
    from hooke import File, pipeline, task

    @task
    def make(rows):
        Path("tables").mkdir(exist_ok=True)
        Path("tables/one.csv").write_text("row\\n" * rows)
        absolute = Path.cwd() / "two.csv"
        absolute.write_text("row\\n" * rows)
        return {"file": File("tables/one.csv"), "path": absolute}

    @task
    def count(number, made):
        time.sleep(0.2)
        lines = [len(Path(made[name]).read_text().splitlines()) for name in ("file", "path")]
        return lines, os.uname().nodename

    @task
    def collect(counts, made):
        return sorted({tuple(lines) for lines, _ in counts}), sorted({host for _, host in counts})

    @pipeline
    def files(rows: int = 5):
        made = make(rows)
        return collect([count(number, made) for number in range(8)], made), made["path"]
"""


def test_files_go_from_host_to_host() -> None:
    with lab() as here:
        (here.driver.project / "files.py").write_text(textwrap.dedent(FILES), "utf-8")
        (counted, hosts), path = json.loads(here.hooke("run", "files.py", "--on", "lab", "--json"))["result"]
        assert counted == [[5, 5]] and len(hosts) == 2
        assert str(here.driver.project / "two.csv").endswith(path), "below the driver's own project"
        assert (here.driver.project / "two.csv").read_text("utf-8") == "row\n" * 5


PRICES = """
    from pathlib import Path
    from hooke import pipeline, task
    from project_library.rates import rate

    @task
    def total(path):
        return sum(map(float, Path(path).read_text().split()))

    @task
    def converted(value):
        return rate() * value

    @task
    def gathered(*values):
        return list(values)

    @pipeline
    def prices(folder: str = "/srv"):
        each = converted.map(total.map([f"{folder}/a.txt", f"{folder}/b.txt"]))
        return gathered(converted(total(f"{folder}/prices.txt")), each)
"""

RATES = """
    from functools import cache
    from pathlib import Path

    @cache
    def rate():
        return float(Path(__file__).with_name("rate.txt").read_text())
"""


def test_files_that_only_the_workers_have_are_looked_at_there() -> None:
    def put(host: Host, **texts: str) -> None:
        for name, text in texts.items():
            host.path(f"/srv/{name}.txt").write_text(text, "utf-8")

    with lab(workers=("one",)) as here:
        project, host = here.driver.project, here.workers["one"]
        (project / "prices.py").write_text(textwrap.dedent(PRICES), "utf-8")
        (project / "project_library" / "rates.py").write_text(textwrap.dedent(RATES), "utf-8")
        travels = project / "project_library" / "rate.txt"
        travels.write_text("2", "utf-8")
        for each in (host, here.driver):  # all else that a host may write to never counts
            each.run(["mount", "-t", "tmpfs", "none", "/srv"])
        put(host, prices="1 2", a="3", b="4")

        def run(answer: list[object]) -> Counter[str]:
            """The tasks that ran, by item."""
            result = json.loads(here.hooke("run", "prices.py", "--on", "lab", "--json"))
            assert result["result"] == answer
            return Counter({each["task"]: each["done"] for each in result["tasks"] if each["done"]})

        assert run([6.0, [6.0, 8.0]]) == {"total": 3, "converted": 3, "gathered": 1}
        put(here.driver, prices="7", a="3", b="4")
        assert run([6.0, [6.0, 8.0]]) == {}, "what the driver has under these names is of no account"
        put(host, prices="5", b="9")
        assert run([10.0, [6.0, 18.0]]) == {"total": 2, "converted": 2, "gathered": 1}
        why = here.hooke("cache", "why")
        assert "/srv/prices.txt changed on the workers' hosts (read, not declared)" in why
        put(host, prices="1 2", b="4")
        assert run([6.0, [6.0, 8.0]]) == {}, "the first results count again"
        travels.write_text("3", "utf-8")
        assert run([9.0, [9.0, 12.0]]) == {"converted": 3, "gathered": 1}
        why = here.hooke("cache", "why")
        assert "project_library/rate.txt changed (read, not declared)" in why
        host.path("/srv/a.txt").unlink()
        with pytest.raises(HookeError, match="No such file or directory: '/srv/a.txt'"):
            here.hooke("run", "prices.py", "--on", "lab")


def test_a_host_is_lost_and_the_answer_is_right() -> None:
    with lab() as here:
        running = here.driver.popen(
            [sys.executable, "-m", "hooke", "run", "job.py", "--on", "lab", "--json", "--hold", "0.5", "--n", "16"],
            env=here.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        logs = here.driver.project / ".hooke" / "runs"
        wait_until(
            lambda: len(list(logs.glob("*/logs/dask-two-*.log"))) >= 1, "work on the other", within_s=90
        )
        here.workers["two"].kill()
        printed, complained = running.communicate(timeout=200)
        assert running.returncode == 0, complained
        assert str(sum(x * x for x in range(16))) in printed


def test_who_has_no_key_of_the_authority_is_turned_away() -> None:
    with lab() as here:
        wait_until(lambda: here.hooke("run", "job.py", "--on", "lab"), "the lab to work")
        shutil.rmtree(here.driver.project / ".hooke" / "fleets")
        another = Authority.make("lab", now=time.time(), valid_s=3600.0)
        certified(another, here.driver.project / ".hooke", "driver")
        with pytest.raises(HookeError, match="no Dask scheduler answers at tls://") as refused:
            here.hooke("run", "job.py", "--on", "lab", "--n", "3")
        assert "Traceback" not in str(refused.value)


def test_a_machine_joins_by_a_token_and_a_job_outlives_its_certificate() -> None:
    fleet = [sys.executable, "-m", "hooke", "fleet"]
    with lab(workers=()) as here:
        at, env = f"{here.head.address}:8788", here.environment
        token = here.head.run([*fleet, "token", "lab", "--certificate", "15s"], env=env)
        here.head.popen([*fleet, "admit", "lab", "--listen", at, "--for", "5m"], env=env, **QUIET)
        new = here.lan.start("three")
        (new.project / "token").write_text(token, "ascii")
        join = [*fleet, "join", at, "--token-file", "token"]
        wait_until(lambda: not new.popen(join, env=env, **QUIET).wait(), "the authority to let it in")
        worker = [sys.executable, "-m", "dask", *here.worker(new, "three")]
        new.popen([*fleet, "exec", "lab", "--", *worker], env=env, **QUIET)
        result = here.hooke("run", "job.py", "--on", "lab", "--json", "--hold", "1.5", timeout_s=200.0)
        assert json.loads(result)["result"] == [506, ["three"]]
        listening = {line.split()[3].rpartition(":")[0] for line in new.run(["ss", "-ltnH"]).splitlines()}
        assert listening == {new.address, "127.0.0.1"}  # the first over TLS, Dask's pages on the second
        certificates = list((here.head.project / ".hooke/fleets/lab/keys/members").glob("three-*"))
        assert len(certificates) >= 2
        assert "is gone" not in here.hooke("show")
        with pytest.raises(HookeError, match="already used by three at"):
            new.run(join, env=env)
        # A worker that another authority has certified is none.
        stranger = here.lan.start("stranger")
        another = Authority.make("lab", now=time.time(), valid_s=3600.0)
        certified(another, stranger.project / ".hooke", "stranger")
        refused = [sys.executable, "-m", "dask", *here.worker(stranger, "stranger"), *KEYS, "--no-nanny"]
        with pytest.raises(HookeError, match="Timed out starting worker"):
            stranger.run([*refused, "--death-timeout", "3"], env=env)


def test_a_store_that_workers_do_not_reach_is_refused_with_the_mend() -> None:
    with lab(workers=()) as here:
        settings = here.driver.project / "hooke.toml"
        settings.write_text(
            "[places.lab]" + settings.read_text("utf-8").partition("[places.lab]")[2], "utf-8"
        )
        # The first worker joins when the driver waits for one; the next driver finds it there.
        running = here.driver.popen(
            [sys.executable, "-m", "hooke", "run", "job.py", "--on", "lab"],
            env=here.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: list(here.driver.project.glob(".hooke/runs/squares*/driver.journal")), "a driver")
        here.join("one")
        _, complained = running.communicate(timeout=200)
        assert running.returncode == 2, complained
        refused = r"(?s)cannot use this run's store.*s3://"
        assert re.search(refused, complained), complained
        with pytest.raises(HookeError, match=refused):
            here.hooke("run", "job.py", "--on", "lab")


STORM = """
    from hooke import pipeline, task

    @task(retries=3)
    def square(x):
        import time
        print("squaring", x, flush=True)
        time.sleep(1.0)
        return x * x

    @task
    def collect(values):
        return sum(values)

    @pipeline
    def squares(n: int = 240):
        return collect(square.map(range(n)))
"""


def test_one_host_is_killed_one_cut_off_for_30_s_one_frozen_and_two_join() -> None:
    with lab() as here:
        for name in ("three", "four"):
            here.join(name)
        (here.driver.project / "job.py").write_text(textwrap.dedent(STORM), "utf-8")
        running = here.driver.popen(
            [sys.executable, "-m", "hooke", "run", "job.py", "--on", "lab", "--json"],
            env=here.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        runs = here.driver.project / ".hooke" / "runs"

        def squared(name: str) -> int:
            logs = runs.glob(f"*/logs/dask-{name}-*.log")
            return sum(path.read_text("utf-8").count("squaring") for path in logs)

        wait_until(lambda: all(squared(name) >= 2 for name in here.workers), "all to work", within_s=120)
        here.workers["one"].kill()
        here.workers["two"].cut()
        cut_at = time.monotonic()
        here.workers["three"].freeze()
        for name in ("five", "six"):
            here.join(name)
        time.sleep(max(0.0, cut_at + 30 - time.monotonic()))
        here.workers["two"].heal()
        before = squared("two")
        printed, complained = running.communicate(timeout=240)
        assert running.returncode == 0, complained
        assert json.loads(printed)["result"] == sum(x * x for x in range(240))
        assert squared("five") > 0
        assert squared("six") > 0
        assert squared("two") > before, "it came back"

        (run,) = runs.glob("squares*")
        events = [event for segment in read(run) for event in segment.events]
        done = Counter(
            e.lo for e in events if isinstance(e, AttemptFinished) and e.hi == e.lo + 1 and not e.node
        )
        assert set(done) == set(range(240))
        assert max(done.values()) == 1, "recorded once, however often it ran"
        finished = {e.lo: e.at for e in events if isinstance(e, AttemptFinished) and not e.node}
        begun_again = [
            e
            for e in events
            if isinstance(e, AttemptStarted) and not e.node and e.at > finished[e.lo] and e.twin_of is None
        ]
        assert begun_again == [], "what was durably finished does not run again"
        story = here.hooke("show")
        # A lost host sends no end of its connections: TCP notices, or the silence, whichever is first.
        assert re.search(
            r"worker dask-one-\w{4}-1 is gone: the Dask worker \S+ (is gone|says nothing for 30 s)", story
        )
        assert re.search(
            r"worker dask-three-\w{4}-1 is gone: the Dask worker \S+ says nothing for 30 s", story
        )
