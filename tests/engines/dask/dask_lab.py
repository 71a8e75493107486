"""A scheduler, workers, an S3 store and a driver, each on a host of its own: mutual TLS, and nothing shared but TCP."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.certificates.machines import certified
from tests.support.hosts import Host, Hosts

from hooke.certificates.authority import Authority
from hooke.testing.s3_server import S3Server

__all__ = ["AGAIN", "KEYS", "Lab", "lab"]

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

FOLDER = ".hooke/fleets/lab/keys"

TOML = """
[store]
url = "{url}"
secret_file = "store.secret"

[places.lab]
engine = "dask"
address = "{address}"
fleet = "lab"
"""


AGAIN = ["sh", "-c", 'while true; do "$@"; sleep 1; done', "sh"]
"""Before a command: as an init system keeps it."""

KEYS = ["--tls-ca-file", f"{FOLDER}/ca.pem", "--tls-cert", f"{FOLDER}/machine.pem"]


@dataclass
class Lab:
    """A scheduler, workers, a store and a driver, each on a host of its own."""

    lan: Hosts
    head: Host
    authority: Authority
    driver: Host
    address: str
    environment: dict[str, str]
    workers: dict[str, Host] = field(default_factory=dict)

    def join(self, name: str) -> Host:
        """A worker on a host of its own, which is started again when it ends, as an init system does it."""
        host = self.lan.start(name)
        keys = keyed(self.authority, host, name)
        dask(
            host,
            *self.worker(host, name),
            "--no-dashboard",
            *keys,
            environment=self.environment,
            before=AGAIN,
        )
        self.workers[name] = host
        return host

    def worker(self, host: Host, name: str) -> list[str]:
        """What Dask is told of one."""
        return ["worker", self.address, "--host", host.address, "--nthreads", "1", "--name", name]

    def hooke(self, *words: str, timeout_s: float = 120.0) -> str:
        return self.driver.run(
            [sys.executable, "-m", "hooke", *words], env=self.environment, timeout_s=timeout_s
        )


def keyed(authority: Authority, host: Host, name: str, *, own: bool = False) -> list[str]:
    """Files for one that takes part, on its host; the options that name them there."""
    certified(authority, host.project / ".hooke", name, own=own)
    return KEYS


def dask(
    host: Host, *words: str, environment: dict[str, str], before: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    return host.popen(
        [*before, sys.executable, "-m", "dask", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def lab(workers: Sequence[str] = ("one", "two")) -> Iterator[Lab]:
    with Hosts(disk_bytes=256 << 20) as lan:
        head, store_host, driver = (lan.start(name) for name in ("head", "store", "driver"))
        with S3Server(on=store_host) as s3:
            environment = {**s3.environment, "HOOKE_SINKS": "none", "HOOKE_PROGRESS": "none"}
            authority = Authority.make("lab", now=time.time(), valid_s=3600.0)
            address = f"tls://{head.address}:8786"
            dask(
                head, "scheduler", "--protocol", "tls", "--host", head.address, "--port", "8786", "--no-dashboard",
                *keyed(authority, head, "head", own=True), environment=environment,
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
            here = Lab(
                lan=lan,
                head=head,
                authority=authority,
                driver=driver,
                address=address,
                environment=environment,
            )
            for name in workers:
                here.join(name)
            yield here
