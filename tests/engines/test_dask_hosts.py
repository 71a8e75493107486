"""Dask on hosts that share nothing but TCP: mutual TLS between them, an S3 store, the project's code on the driver's alone."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.engines.faults import wait_until

from hooke.base.errors import HookeError
from hooke.engines.certificates import Authority
from hooke.testing.hosts import Host, Hosts, why_not
from hooke.testing.s3_server import S3Server

REASON = why_not()
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(REASON), reason=REASON),
]

JOB = """
    from hooke import log_metric, pipeline, task
    from project_library.numbers import squared

    @task(retries=2)
    def square(x, hold):
        import os, time
        print("squaring", x)
        log_metric("x", x)
        time.sleep(hold)
        return squared(x), os.uname().nodename

    @task
    def collect(pairs):
        return sum(value for value, _ in pairs), sorted({host for _, host in pairs})

    @pipeline
    def squares(n: int = 12, hold: float = 0.1):
        return collect([square(x, hold) for x in range(n)])
"""

TOML = """
[store]
url = "{url}"
secret_file = "store.secret"

[places.lab]
engine = "dask"
address = "{address}"
tls_ca = "keys/ca.pem"
tls_cert = "keys/driver.pem"
tls_key = "keys/driver.key"
"""


@dataclass
class Lab:
    """A scheduler, workers, a store and a driver, each on a host of its own."""

    driver: Host
    workers: dict[str, Host]
    address: str
    environment: dict[str, str]

    def hooke(self, *words: str, timeout_s: float = 120.0) -> str:
        return self.driver.run(
            [sys.executable, "-m", "hooke", *words], env=self.environment, timeout_s=timeout_s
        )


def keyed(authority: Authority, host: Host, name: str) -> list[str]:
    """Files for one that takes part, on its host; the options that name them there."""
    files = authority.issue(name, host.project / "keys")
    return [
        "--tls-ca-file",
        f"keys/{files.ca.name}",
        "--tls-cert",
        f"keys/{files.cert.name}",
        "--tls-key",
        f"keys/{files.key.name}",
    ]


def dask(host: Host, *words: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return host.popen(
        [sys.executable, "-m", "dask", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Hosts(disk_bytes=256 << 20) as lan:
        head, store_host, driver = (lan.start(name) for name in ("head", "store", "driver"))
        workers = {name: lan.start(name) for name in ("one", "two")}
        with S3Server(on=store_host) as s3:
            environment = {**s3.environment, "HOOKE_SINKS": "none", "HOOKE_PROGRESS": "none"}
            authority = Authority("lab")
            address = f"tls://{head.address}:8786"
            dask(
                head, "scheduler", "--protocol", "tls", "--host", head.address, "--port", "8786", "--no-dashboard",
                *keyed(authority, head, "head"), environment=environment,
            )  # fmt: skip
            for name, host in workers.items():
                dask(
                    host, "worker", address, "--host", host.address, "--nthreads", "1", "--name", name,
                    "--no-dashboard", *keyed(authority, host, name), environment=environment,
                )  # fmt: skip
            keyed(authority, driver, "driver")
            project = driver.project
            (project / "hooke.toml").write_text(TOML.format(url=s3.url, address=address), "utf-8")
            (project / "store.secret").write_text("0" * 64, "utf-8")
            (project / "store.secret").chmod(0o600)
            (project / "job.py").write_text(textwrap.dedent(JOB), "utf-8")
            (project / "project_library").mkdir()
            (project / "project_library" / "__init__.py").write_text("", "utf-8")
            (project / "project_library" / "numbers.py").write_text(
                "def squared(x):\n    return x * x\n", "utf-8"
            )
            yield Lab(driver=driver, workers=workers, address=address, environment=environment)


def test_code_travels_results_are_stored_and_logs_come_back(tmp_path: Path) -> None:
    with lab(tmp_path) as here:
        result = json.loads(here.hooke("run", "job.py", "--on", "lab", "--json"))
        assert result["status"] == "finished"
        runs = here.driver.project / ".hooke" / "runs"
        (run,) = [path for path in runs.iterdir() if path.name.startswith("squares")]
        printed = "".join(path.read_text() for path in (run / "logs").glob("*.log"))
        assert printed.count("squaring") == 12
        logged = here.hooke("runs", "--json")
        assert "squares" in logged
        # An edit travels, too: nothing of the first code is left in a worker.
        library = here.driver.project / "project_library" / "numbers.py"
        library.write_text("def squared(x):\n    return x * 100\n", "utf-8")
        assert "6600" in here.hooke("run", "job.py", "--on", "lab", "--json")
        for host in here.workers.values():
            assert not [path for path in host.project.rglob("project_library")]


def test_a_host_is_lost_and_the_answer_is_right(tmp_path: Path) -> None:
    with lab(tmp_path) as here:
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


def test_who_has_no_key_of_the_authority_is_turned_away(tmp_path: Path) -> None:
    with lab(tmp_path) as here:
        wait_until(lambda: here.hooke("run", "job.py", "--on", "lab"), "the lab to work")
        shutil.rmtree(here.driver.project / "keys")
        Authority("another").issue("driver", here.driver.project / "keys")
        with pytest.raises(HookeError, match="no Dask scheduler answers at tls://") as refused:
            here.hooke("run", "job.py", "--on", "lab", "--n", "3")
        assert "Traceback" not in str(refused.value)


def test_a_store_that_workers_do_not_reach_is_refused_with_the_mend(tmp_path: Path) -> None:
    with lab(tmp_path) as here:
        settings = here.driver.project / "hooke.toml"
        settings.write_text(
            "[places.lab]" + settings.read_text("utf-8").partition("[places.lab]")[2], "utf-8"
        )
        with pytest.raises(HookeError, match=r"(?s)does not reach this run's store.*s3://"):
            here.hooke("run", "job.py", "--on", "lab")
