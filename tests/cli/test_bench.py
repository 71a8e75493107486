"""`hooke bench` as a process: services of files and at addresses, what it finds, what it refuses, how it ends."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import psutil
import pytest
from tests.loadtest.servers import Known, serving
from tests.serving.certificates import make_certificate

pytestmark = pytest.mark.needs("processes")

SERVICE = """
import time
from hooke import service

@service(max_batch=8, slo="p99 < 2s", timeout="5s")
class Twice:
    def setup(self, factor: int = 2):
        if not factor:
            raise ValueError("no weights")
        self.factor = factor

    def predict(self, rows: list[int]) -> list[int]:
        time.sleep(0.002)
        return [row * self.factor for row in rows]
"""
FREE = """
from hooke import service

@service(slo="p99 < 2s")
class Free:
    def predict(self, rows):
        return rows

@service(slo="p99 < 2s")
class Picky:
    def predict(self, rows: list[list[float]]) -> float:
        if len(rows[0]) != 9:
            raise ValueError("X has 4 features, but 9 are expected")
        return 0.0

@service(protocol="openai")
class Words:
    def encode(self, prompt):
        return [1]

    def decode(self, tokens):
        return ""

    def step(self, pieces):
        return None
"""
DATA = '{"rows": [1, 2]}'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "twice.py").write_text(SERVICE)
    (tmp_path / "free.py").write_text(FREE)
    (tmp_path / "rows.jsonl").write_text('{"rows": [1]}\n{"rows": [1, 2, 3]}\n')
    return tmp_path


def bench(folder, *words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "hooke", "bench", *words],
        cwd=folder, capture_output=True, text=True, timeout=100, env=os.environ | environment, check=False,
    )  # fmt: skip


@contextlib.contextmanager
def served(folder, *words):
    """The URL of what `hooke serve` serves, ended afterwards."""
    command = [sys.executable, "-m", "hooke", "serve", *words, "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if " answers: POST /" in line:
                break
        yield re.search(r"https?://[\d.:]+", "".join(said))[0]
    finally:
        process.terminate()
        process.communicate(timeout=180)


@pytest.mark.long
def test_a_service_of_a_file_is_started_measured_counted_and_ended(folder):
    done = bench(
        folder, "twice.py", "--data", "@rows.jsonl", "--rate", "40,80", "--for", "1s", "--with", "factor=3",
        "--arrivals", "constant", "--report", "page.html", "--json",
    )  # fmt: skip
    facts = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [level["asked"] for level in facts["levels"]] == [40, 80]
    assert [level["requests"] for level in facts["levels"]] == [40, 80]
    assert facts["slo"] == {"percent": 99, "limit_s": 2}
    page = (folder / "page.html").read_text()
    assert "Twice/predict under load" in page and page.count("<circle") == 4 and "<script" not in page
    handled = facts["handled"]
    assert handled["consistent"] and handled["requests"] == handled["client"] == 10 + 48 + 96
    assert handled["rows"] == handled["requests"] * 2, "one row and three in turn"
    for level in facts["levels"]:
        assert 1 <= level["server"]["mean_batch"] <= 8
        assert level["verdict"] in ("held", "unclear")
        assert level["server"]["cpu_us_per_answer"] > 0 and level["server"]["rss_bytes"] > 1 << 20
        assert level["latency_s"]["p50"]["value"] >= 0.002
        assert level["hdr_us"].startswith("HISTFAAAA")
    assert not [
        process for process in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(process.info["cmdline"] or [])
    ]  # fmt: skip


@pytest.mark.long
def test_bodies_are_made_where_none_are_given_for_a_file_and_for_a_url(folder):
    """By the annotations of the one, and by the OpenAPI document of the other: the same ones for the same seed."""
    done = bench(folder, "twice.py", "--rate", "40", "--for", "1s", "--seed", "5", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert facts["sent"]["bodies"] > 100 and facts["sent"]["made_from"] == "the annotations of Twice.predict"
    assert facts["handled"]["consistent"] and facts["levels"][0]["answered"] == facts["levels"][0]["requests"]
    assert any(note.startswith('sent: {"rows":[') for note in facts["notes"])

    with served(folder, "twice.py", "--no-auth") as url:
        asked = bench(folder, f"{url}/predict", "--rate", "40", "--for", "300ms", "--seed", "5", "--json")
        strange = bench(folder, f"{url}/predcit", "--rate", "40")
    assert json.loads(asked.stdout)["sent"]["example"] == facts["sent"]["example"], asked.stderr
    assert strange.returncode == 2 and "--path /predict" in strange.stderr


@pytest.mark.long
@pytest.mark.parametrize(("status", "said"), [(404, "answers 404"), (401, "token"), (302, "answers 302")])
def test_an_address_that_does_not_say_what_it_takes(folder, status, said):
    with serving(Known(answer=lambda count: (status, True))) as port:
        done = bench(folder, f"127.0.0.1:{port}", "--rate", "1000")
    assert done.returncode == 2 and said in done.stderr and "--data" in done.stderr


@pytest.mark.long
def test_the_search_ends_at_a_rate_that_holds_where_answers_are_refused_above(folder):
    """A server that answers a hundred a second and refuses the rest at once, by a bucket of tokens."""
    import time

    held = [20.0, time.monotonic()]

    def bucket(_count):
        now = time.monotonic()
        held[0], held[1] = min(20.0, held[0] + 100 * (now - held[1])), now
        if held[0] < 1:
            return 429, True
        held[0] -= 1
        return 200, True

    known = Known(answer=bucket)
    with serving(known) as port:
        done = bench(
            folder,
            f"127.0.0.1:{port}",
            "--data",
            DATA,
            "--slo",
            "p90 < 2s",
            "--for",
            "2s",
            "--arrivals",
            "constant",
            "--json",
        )
    facts = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert 20 < facts["safe"]["rate"] < (facts["safe"]["breaks_at"] or 999)
    broken = [level for level in facts["levels"] if level["verdict"] == "broken"]
    assert broken and not any(level["failed"] for level in facts["levels"])
    # A tenth may be refused at a rate that holds; which rate that is depends also on how late this machine sends.
    refused = {
        level["asked"]: level["refused"].get("429", 0) / level["requests"] for level in facts["levels"]
    }
    assert refused[facts["safe"]["rate"]] <= 0.1
    assert all(refused[level["asked"]] > 0.1 for level in broken)


@pytest.mark.long
def test_safe_rates_of_several_replicas_are_a_study(folder):
    done = bench(
        folder, "twice.py", "--data", DATA, "--rate", "200", "--for", "1s", "--slo", "p90 < 3s", "--replicas", "1,2", "--json"
    )  # fmt: skip
    facts = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [result["replicas"] for result in facts["results"]] == [1, 2]
    assert all(
        result["handled"]["consistent"] and result["safe"]["rate"] == 200 for result in facts["results"]
    )

    def hooke(*words):
        command = [sys.executable, "-m", "hooke", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)

    shown = hooke("show", facts["study"])
    assert shown.returncode == 0 and "predict of Twice" in shown.stdout and "COST" not in shown.stdout
    curve = hooke("curve", facts["study"])
    assert curve.returncode == 1 and "measure at N = 4" in curve.stderr, "two N are no law"
    assert facts["study"] in hooke("runs").stdout


THREADS = """
import os

from hooke import service

@service(max_batch=8, slo="p90 < 3s", timeout="5s")
class Threads:
    def predict(self, rows: list[int]) -> list[str]:
        return [os.environ["OMP_NUM_THREADS"] + os.environ["POLARS_MAX_THREADS"] for _ in rows]
"""


@pytest.mark.long
def test_threads_of_a_replica_are_varied_kept_and_planned_with(folder):
    (folder / "threads.py").write_text(THREADS)
    done = bench(folder, "threads.py", "--rate", "100", "--for", "1s", "--threads", "1,2", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [(result["replicas"], result["threads"]) for result in facts["results"]] == [(None, 1), (None, 2)]

    def hooke(*words):
        command = [sys.executable, "-m", "hooke", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)

    shown = hooke("show", facts["study"])
    assert "safe rates by N threads" in shown.stdout, shown.stderr
    curve = hooke("curve", facts["study"])
    assert curve.returncode == 1 and "measure at N = 4" in curve.stderr, "two N are no law"
    planned = hooke("plan", "service", "threads.py", "--rate", "90", "--replicas", "1", "--json")
    told = json.loads(planned.stdout)
    assert planned.returncode == 0, planned.stderr
    assert told["recommended"] == "this machine, 1 replica of 1 thread"
    assert [offer["requests_per_s"]["interval"][0] for offer in told["offers"][:2]] == [100, 100]
    assert "hooke serve threads.py:Threads --threads 1" in planned.stderr
    more = hooke("plan", "service", "threads.py", "--rate", "500")
    assert (
        more.returncode == 1
        and "no configuration reliably sustains 500/s" in more.stdout
        and "next: hooke bench" in more.stderr
    )


def test_a_replica_has_the_threads_that_are_asked_for(folder):
    (folder / "threads.py").write_text(THREADS)
    with served(folder, "threads.py", "--no-auth", "--threads", "3") as url:
        asked = urllib.request.Request(
            f"{url}/predict", b'{"rows": [1]}', {"content-type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert json.load(answer) == ["33"]


def test_a_promise_that_a_lone_request_breaks_is_never_met(folder):
    with serving(Known(latency_s=0.05)) as port:
        done = bench(folder, f"127.0.0.1:{port}", "--data", DATA, "--slo", "p99 < 20ms")
    assert done.returncode == 1
    assert "p99 < 20.0 ms is never met: a single request takes" in done.stdout


@pytest.mark.long
def test_ctrl_c_prints_what_was_measured_and_leaves_nothing(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "hooke", "bench", "twice.py", "--data", DATA, "--rate", "20,20", "--for", "30s", "--json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        own = psutil.Process(process.pid)
        below = []
        while len(below) < 2 and process.poll() is None:
            below = own.children(recursive=True)
        seen = 0
        while seen < 3 and process.poll() is None:
            seen = sum(len(one.net_connections()) > 1 for one in below) + seen
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=180)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    facts = json.loads(out)
    assert facts["stopped"] and len(facts["levels"]) <= 1
    assert facts["handled"]["consistent"]
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.long
def test_a_test_that_is_killed_leaves_no_service_behind(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "hooke", "bench", "twice.py", "--data", DATA, "--rate", "20", "--for", "60s"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        own = psutil.Process(process.pid)
        below = []
        while len(below) < 2 and process.poll() is None:
            below = own.children(recursive=True)
    finally:
        process.kill()
        process.wait()
    assert len(below) == 2, "the service and the generator"
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive


@pytest.mark.long
def test_https_with_a_certificate_of_ones_own(folder):
    cert, key = make_certificate(folder)
    with serving(Known(), tls=(cert, key)) as port:
        words = ["--data", DATA, "--rate", "50", "--for", "300ms", "--json"]
        done = bench(folder, f"https://localhost:{port}", *words, "--ca", str(cert))
        assert json.loads(done.stdout)["levels"][0]["answered"] > 0, done.stderr
        strange = bench(folder, f"https://localhost:{port}", *words)
        assert strange.returncode == 2 and "CERTIFICATE_VERIFY_FAILED" in strange.stderr
        plain = bench(folder, f"http://localhost:{port}", *words)
        assert plain.returncode == 1 and "without an answer" in plain.stderr


@pytest.mark.long
def test_the_token_goes_with_each_request(folder):
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text("a" * 20)
    known = Known()
    with serving(known) as port:
        for words, environment in [(["--token-file", "token"], {}), ([], {"HOOKE_TOKEN": "a" * 20})]:
            known.heads.clear()
            done = bench(
                folder,
                f"127.0.0.1:{port}",
                "--data",
                DATA,
                "--rate",
                "20",
                "--for",
                "200ms",
                *words,
                **environment,
            )
            assert done.returncode in (0, 1), done.stderr
            assert known.heads and all(b"authorization: Bearer aaaa" in head for head in known.heads)


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["http://example.org/predict", "--data", DATA, "--rate", "1"],
            r"not this machine.*\n.*\n.*--allow example.org",
        ),
        (["127.0.0.1:1", "--data", DATA, "--rate", "1"], "nothing answers at 127.0.0.1:1"),
        (["127.0.0.1:1", "--rate", "1"], "nothing answers at 127.0.0.1:1"),
        (
            ["free.py:Free"],
            r"no request body for Free/predict can be generated: rows is not specified enough(.|\n)*\{\"rows\": \.\.\.\}",
        ),
        (
            ["free.py:Picky", "--rate", "1"],
            r"answers 500(.|\n)*the request was \{\"rows\":.*made from(.|\n)*--data",
        ),
        (["free.py:Words", "--rate", "1"], r"Words is a language model(.|\n)*--lengths azure-conversation"),
        (["127.0.0.1:1", "--data", DATA], "no rate to search for"),
        (["127.0.0.1:1", "--data", "{rows}", "--rate", "1"], "--data is not valid JSON"),
        (["127.0.0.1:1", "--data", "@none.json", "--rate", "1"], "--data @none.json: No such file"),
        (["127.0.0.1:1", "--data", DATA, "--rate", "fast"], "--rate fast is not a rate"),
        (
            ["127.0.0.1:1", "--data", DATA, "--rate", "1", "--arrivals", "poison"],
            "neither a known name nor a file",
        ),
        (["127.0.0.1:1", "--data", DATA, "--slo", "p99 50ms"], "is not a valid promise"),
        (
            ["127.0.0.1:1", "--data", DATA, "--rate", "1", "--with", "a=1"],
            "--with, --replicas and --threads are for the service of a file",
        ),
        (["127.0.0.1:1", "--data", DATA, "--rate", "1", "--threads", "2"], "are for the service of a file"),
        (["twice.py", "--rate", "1", "--threads", "0"], "--threads '0' is not a list of whole numbers"),
        (
            ["127.0.0.1:1", "--data", DATA, "--rate", "1", "--report", "no/page.html"],
            "its folder does not exist",
        ),
        (["twic.py", "--data", DATA], "twic.py"),
        (["twice", "--data", DATA], "did you mean twice.py?"),
        (["twice.py:Thrice", "--data", DATA], "Thrice"),
        (
            ["twice.py", "--data", DATA, "--with", "factor=0", "--rate", "1"],
            r"did not start(.|\n)*no weights",
        ),
        (["twice.py", "--data", '{"row": [1]}', "--rate", "1"], r"answers 422(.|\n)*row"),
        (["twice.py", "--data", DATA, "--path", "/predcit", "--rate", "1"], r"answers 404(.|\n)*predict"),
    ],
)
def test_what_is_wrong_is_said_with_its_mend(folder, words, said):
    done = bench(folder, *words)
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert "bug in Hooke" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(("status", "said"), [(401, "--token-file"), (503, "503"), (500, "500")])
def test_a_first_answer_that_is_wrong_ends_it(folder, status, said):
    known = Known(answer=lambda count: (status, True))
    with serving(known) as port:
        done = bench(folder, f"127.0.0.1:{port}", "--data", DATA, "--rate", "1000")
    assert done.returncode in (1, 2) and said in done.stderr and "so it is" in done.stderr
    assert known.count == 10, "no load is put on what does not answer"
