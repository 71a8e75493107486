"""The generator's process against real servers: what users would have waited, what failed, and what was its own fault."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import msgspec
import numpy as np
import pytest
from tests.loadtest.servers import Known, serving

from hooke.loadtest.generator_protocol import Fate, Goal
from hooke.loadtest.load_test import Generator, outcomes_of
from hooke.loadtest.rate_search import summary_of
from hooke.loadtest.target import Target, constant, poisson, request_bytes

pytestmark = pytest.mark.needs("processes")


def goal(port, **more):
    here = Target(host="127.0.0.1", port=port, path="", tls=False)
    return Goal(host="127.0.0.1", port=port, requests=(request_bytes(here, "/predict", b"{}"),), **more)


def measured(port, due, timeout_s=5.0, during=None, **more):
    with Generator(goal(port, **more)) as generator:
        if during is not None:
            during(generator)
        report = generator.run(due, timeout_s=timeout_s)
    return outcomes_of(due, report), report


def test_the_time_that_a_server_takes_is_what_is_measured():
    with serving(Known(latency_s=0.05)) as port:
        outcomes, report = measured(port, constant(100, 1.0))
    assert outcomes.answered.all()
    assert outcomes.latency.min() >= 0.05
    assert np.median(outcomes.latency) < 0.25
    assert report.opened == report.most and 5 <= report.most <= 60


def test_a_stall_is_seen_by_all_who_came_during_it():
    """Who waits for an answer before he asks again meets a stall once; here one comes each 2 ms, and all of these wait."""
    known = Known()
    known.stall_at = 200
    with serving(known) as port:
        outcomes, _ = measured(port, constant(500, 1.0))
    summary = summary_of(outcomes, seconds=1.0, cpu=0.0, slo=None)
    assert outcomes.answered.all()
    # 100 of 500 came while it stalled, evenly: a tenth of all waited for half of it or longer.
    assert np.quantile(outcomes.latency, 0.99) > 0.15
    assert (outcomes.latency > 0.1).sum() >= 45
    assert summary.at(99.9).value >= 0.19


def test_statuses_and_closed_connections_are_told_apart():
    fates = {1: (429, True), 2: (200, False), 3: (0, False), 4: (500, True)}
    known = Known(answer=lambda count: fates.get(count, (200, True)))
    with serving(known) as port:
        outcomes, report = measured(port, constant(20, 0.5))
    assert outcomes.status.tolist() == [429, 200, Fate.LOST, 500, *[200] * 6]
    assert report.said == {429: '{"detail": "so it is"}', 500: '{"detail": "so it is"}'}
    assert report.opened >= 3 and known.count == 10


def test_answers_that_are_not_those_of_their_requests_are_told_apart():
    right, wrong = b'{"detail": "so it is"}', b'{"detail": "so it is not"}'
    with serving(Known(answer=lambda count: (429 if count == 3 else 200, True))) as port:
        here = goal(port)
        both = msgspec.structs.replace(
            here, requests=here.requests * 2, answers=((wrong, right), (wrong,)), connections=1
        )
        with Generator(both) as generator:
            report = generator.run(constant(20, 0.3), timeout_s=5.0)
    assert outcomes_of(constant(20, 0.3), report).status.tolist() == [
        200,
        Fate.WRONG,
        429,
        *[Fate.WRONG, 200, Fate.WRONG],
    ]
    assert report.said == {Fate.WRONG: right.decode(), 429: right.decode()}


def test_what_takes_too_long_is_given_up_and_the_rest_goes_on():
    known = Known(latency_s=30)
    with serving(known) as port:
        outcomes, _ = measured(port, constant(50, 0.4), timeout_s=0.3)
    assert set(outcomes.status.tolist()) == {Fate.TIMED_OUT}
    assert (outcomes.latency >= 0.3).all()


def test_no_more_connections_than_allowed_and_who_waits_is_counted():
    with serving(Known(latency_s=0.1)) as port:
        outcomes, report = measured(port, constant(100, 0.5), connections=2)
    assert outcomes.answered.all()
    assert report.most == 2 and report.waited >= 40
    # Two at a time, a tenth of a second each: the last of 50 is answered after 2.5 s, and that is what he waited.
    assert outcomes.latency[-1] > 1.5


def test_connections_of_the_level_before_count_in_the_next():
    with serving(Known(latency_s=0.1)) as port, Generator(goal(port, connections=2)) as generator:
        reports = [generator.run(constant(100, 0.5), timeout_s=5.0) for _ in range(2)]
    assert [(report.most, report.opened) for report in reports] == [(2, 2), (2, 0)]
    assert reports[1].waited >= 40


def test_nobody_listens():
    with serving(Known()) as port:
        pass
    outcomes, report = measured(port, poisson(50, 0.2))
    assert set(outcomes.status.tolist()) == {Fate.REFUSED}
    assert "refused" in report.said[Fate.REFUSED]


def test_a_generator_that_was_held_up_says_so():
    """It is stopped for a while by a signal, as a busy machine would: its requests are late, and the server is not."""

    def held_up(generator):
        def hold():
            deadline = time.monotonic() + 20
            while known.count < 20 and time.monotonic() < deadline:
                time.sleep(0.005)
            os.kill(generator.pid, signal.SIGSTOP)
            time.sleep(0.3)
            os.kill(generator.pid, signal.SIGCONT)

        threading.Thread(target=hold).start()

    known = Known()
    with serving(known) as port:
        outcomes, _ = measured(port, constant(100, 1.5), during=held_up)
    summary = summary_of(outcomes, seconds=1.5, cpu=0.1, slo=None)
    assert outcomes.answered.all()
    assert outcomes.lag.max() > 0.2
    assert "late" in summary.limited


def test_a_level_that_is_stopped_gives_what_there_was():
    known = Known()
    with serving(known) as port, Generator(goal(port)) as generator:

        def interrupt():
            deadline = time.monotonic() + 20
            while known.count < 50 and time.monotonic() < deadline:
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        due = constant(200, 30.0)
        report = generator.run(due, timeout_s=5)
        outcomes = outcomes_of(due, report)
        assert report.stopped
        assert outcomes.answered.sum() >= 49
        assert len(outcomes.sent()) < 3000
        # The process is there for another level.
        again = constant(100, 0.1)
        assert outcomes_of(again, generator.run(again, timeout_s=5)).answered.all()


def test_it_ends_when_its_parent_has_gone():
    with serving(Known()) as port:
        with Generator(goal(port)) as generator:
            generator.run(constant(100, 0.05), timeout_s=5)
            pid = generator.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_server_that_speaks_no_http_is_a_lost_connection():
    known = Known(answer=lambda count: (200, True))
    known.serve = _babble
    with serving(known) as port:
        outcomes, _ = measured(port, constant(50, 0.1))
    assert set(outcomes.status.tolist()) == {Fate.LOST}


async def _babble(reader, writer):
    writer.write(b"\x00\xff not HTTP\r\n\r\n")
    writer.close()


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(240)
def test_sigterm_ends_a_bench_as_ctrl_c_does(tmp_path):
    """Its generator printed a traceback, and nothing was shown of what had been measured."""
    (tmp_path / "quick.py").write_text(
        "from hooke import service\n\n@service\nclass Quick:\n    def predict(self, x: float) -> float:\n        return x\n"
    )
    bench = subprocess.Popen(
        [sys.executable, "-m", "hooke", "bench", "quick.py", "--rate", "50,60", "--for", "3s"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    first = bench.stderr.readline()  # of the first level
    bench.send_signal(signal.SIGTERM)
    said, rest = bench.communicate(timeout=60)
    assert bench.returncode == 130, first + rest
    assert "Traceback" not in first + rest
    assert re.search(r"\b50\b", said), said
