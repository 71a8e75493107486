"""Causes that are planted in real workers, with sleeps and sockets, so that a busy machine changes no answer."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hooke.measuring.studies import measure
from hooke.planning.advice import advise, known_limit
from hooke.project.pipeline_file import load_entry

pytestmark = pytest.mark.heavy

PLANTS = """
    import fcntl
    import os
    import socket
    import time
    from pathlib import Path

    from hooke import pipeline, task

    DOOR = Path(__file__).parent / "door"


    @task(observe=False)
    def locked(x: int) -> int:
        with open(DOOR, "a") as door:
            fcntl.flock(door, fcntl.LOCK_EX)  # the lock
            time.sleep(0.05)
        return x


    @task(observe=False)
    def ask(x: int, port: int) -> int:
        with socket.create_connection(("127.0.0.1", port)) as server:
            server.sendall(b"x")
            server.recv(1)
        return x


    @task(observe=False)
    def skewed(x: int) -> int:
        time.sleep(1.0 if x == 5 else 0.05)
        return x


    @task(observe=False)
    def connects(x: int) -> int:
        used = Path(__file__).parent / f"used-{os.getpid()}"
        if not used.exists() or time.time() - used.stat().st_mtime > 0.3:
            time.sleep(1.0)
        time.sleep(0.05)
        used.touch()
        return x


    @task(observe=False)
    def nap(x: int) -> int:
        time.sleep(0.2)
        return x


    @pipeline
    def locking() -> list[int]:
        return locked.map(range(16))


    @pipeline
    def asking(port: int) -> list[int]:
        return ask.map(range(16), port=port)


    @pipeline
    def skewing() -> list[int]:
        return skewed.map(range(16))


    @pipeline
    def connecting() -> list[int]:
        return connects.map(range(24))


    @pipeline
    def napping(n: int = 5) -> list[int]:
        return nap.map(range(n))

"""


@contextmanager
def server(seconds: float, *, shared: bool) -> Iterator[int]:
    """Answers each request after so long, or, if it is shared, one after the other; its port."""
    one = threading.Lock()

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(1)
            if shared:
                with one:
                    time.sleep(seconds)
            else:
                time.sleep(seconds)
            connection.sendall(b"y")

    def accept(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, args=(listening,), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def study_of(workshop, name, task, **params):
    workshop.write(PLANTS)
    loaded = load_entry(f"{workshop.file}:{name}")[0]
    return measure(loaded, task=task, workers=[1, 4], repeats=2, progress="none", **params)


def test_a_lock_is_named_with_its_line_and_advice_does_not_contradict_it(workshop):
    study = study_of(workshop, "locking", "locked")
    line = 1 + next(
        number for number, text in enumerate(workshop.file.read_text().splitlines()) if "# the lock" in text
    )
    assert study.cause is not None
    assert study.cause.name == "lock"
    assert study.cause.sentence.startswith(f"waits for a lock in {workshop.file.name}:{line}: ")
    assert f"cause {study.cause.sentence}" in str(study)
    assert study.facts()["cause"] == study.cause.facts()
    # The same calls, in a run, wait; more of them would wait longer. In processes of their own no thread of other tests counts.
    workshop.run(name="locking", on="local", workers=2)
    (why, *_) = advise(workshop.project.runs, pipeline="locking")["locked"].why
    assert f"a study says for what: {study.cause.sentence}" in why
    assert "use more workers" not in why


def test_a_server_is_named_and_whether_more_clients_slow_it_down(workshop):
    with server(0.08, shared=False) as port:
        cause = study_of(workshop, "asking", "ask", port=port).cause
    assert cause is not None and cause.name == "network", cause
    assert "waits for a server (network) in " in cause.sentence
    with server(0.05, shared=True) as port:
        cause = study_of(workshop, "asking", "ask", port=port).cause
    assert cause is not None and cause.name == "shared server", cause


def test_too_few_and_skewed_items_are_named(workshop):
    cause = study_of(workshop, "napping", "nap").cause
    assert cause is not None and cause.name == "too few items", cause
    assert cause.sentence.startswith("too few items: 5 for 4 workers")
    cause = study_of(workshop, "skewing", "skewed").cause
    assert cause is not None and cause.name == "skewed items", cause


def test_workers_that_begin_slowly_are_named(workshop):
    cause = study_of(workshop, "connecting", "connects").cause
    assert cause is not None and cause.name == "start-up", cause


def test_where_nothing_is_wrong_there_is_no_cause(workshop):
    study = study_of(workshop, "napping", "nap", n=16)
    assert study.cause is None
    assert study.facts()["cause"] is None
    assert "\ncause" not in str(study)
    # What sleeps does not keep its worker busy, so more workers do help, and nothing says otherwise.
    assert known_limit(workshop.project.runs, "napping", "nap") == ""
    workshop.run(name="napping")
    assert "use more workers than cores" in advise(workshop.project.runs, pipeline="napping")["nap"].why[0]
