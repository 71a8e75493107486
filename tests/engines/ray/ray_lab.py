"""A Ray of several nodes, an S3 store and a driver, each on a host of its own: TLS and a token between them, and nothing shared but TCP."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import secrets
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.engines.local.faults import wait_until
from tests.support.hosts import Host, Hosts

from hooke.engines.ray.head import answer_for_agent
from hooke.processes.start import python_module
from hooke.testing.s3_server import S3Server

__all__ = ["RayLab", "ray_lab"]

PORT = 6379
OUT = "/tmp/ray.out"

MOST = 12
"""Addresses that the certificate is for."""

TOML = """
[store]
url = "{url}"
secret_file = "store.secret"

[places.lab]
engine = "ray"
address = "{address}"
"""

AGAIN = ("sh", "-c", 'while true; do "$@"; sleep 1; done', "sh")
"""Before a command: as an init system keeps it."""


DRAIN = """
import sys, time, ray
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

address, host = sys.argv[1:]
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
(node,) = [each["NodeID"] for each in ray.nodes() if each["Alive"] and each["NodeManagerAddress"] == host]
until_ms = int(time.time() + 600) * 1000
reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
accepted, why_not = ray._raylet.GcsClient(address=address).drain_node(node, reason, "as a test", until_ms)
assert accepted, why_not
"""


@dataclass
class RayLab:
    """A head, nodes, a store and a driver, which is a node without CPUs."""

    lan: Hosts
    keys: dict[str, bytes]
    head: Host
    driver: Host
    environment: dict[str, str]
    nodes: dict[str, Host] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{self.head.address}:{PORT}"

    def join(self, name: str) -> Host:
        """A node of one CPU on a host of its own, which is started again when it ends."""
        host = self.lan.start(name)
        self.nodes[name] = host
        self.ray(host, cpus=1)
        return host

    def ray(self, host: Host, *, cpus: int) -> None:
        """Ray's processes of one node."""
        for name, data in self.keys.items():
            host.path(f"/tmp/{name}").write_bytes(data)
            host.path(f"/tmp/{name}").chmod(0o600)
        where = ("--head", f"--port={PORT}") if host is self.head else (f"--address={self.address}",)
        options = {
            "node-ip-address": host.address,
            "num-cpus": cpus,
            "object-store-memory": 80 << 20,
            "dashboard-agent-grpc-port": 20001,
            "runtime-env-agent-port": 20002,
            "dashboard-agent-listen-port": 20003,
            "metrics-export-port": 20004,
        }
        if host is self.head:
            options |= {"temp-dir": "/tmp/ray", "include-dashboard": "false"}
        words = [*where, *(f"--{key}={value}" for key, value in options.items())]
        start = python_module("ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *words)
        with host.path(OUT).open("wb") as said:
            host.popen(
                [*AGAIN, *start],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, host: Host) -> None:
        """Until Ray is there. One after another: each takes a cpu for seconds, and gives up where it gets none."""
        said = host.path(OUT)

        def started() -> bool:
            answer_for_agent(host.path("/tmp/ray"))
            return "Ray runtime started" in said.read_text("utf-8")

        try:
            wait_until(started, host.name, within_s=240)
        except AssertionError:
            pytest.fail(f"no Ray on {host.name}: {said.read_text('utf-8')[-2000:]}")

    @contextlib.contextmanager
    def cut_for(self, seconds: float, host: Host) -> Iterator[None]:
        """Cut a host off while this is entered, but at least for so long."""
        host.cut()
        until = time.monotonic() + seconds
        yield
        time.sleep(max(0.0, until - time.monotonic()))
        host.heal()

    def drain(self, host: Host) -> str:
        """Have Ray end its node, as an autoscaler does it."""
        return self.driver.run(
            [sys.executable, "-c", DRAIN, self.address, host.address], env=self.environment
        )

    def hooke(self, *words: str, timeout_s: float = 120.0) -> str:
        return self.driver.run(
            [sys.executable, "-m", "hooke", *words], env=self.environment, timeout_s=timeout_s
        )


@contextlib.contextmanager
def ray_lab(job: str, *nodes: str) -> Iterator[RayLab]:
    """With these nodes; `job` is what `job.py` holds on the driver's host."""
    with Hosts(disk_bytes=256 << 20) as lan:
        head, store_host, driver = (lan.start(name) for name in ("head", "store", "driver"))
        with S3Server(on=store_host) as s3:
            here = RayLab(
                lan=lan,
                keys=_keys(),
                head=head,
                driver=driver,
                environment={
                    **s3.environment,
                    "HOOKE_SINKS": "none",
                    "HOOKE_PROGRESS": "none",
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN_PATH": "/tmp/token",
                    "RAY_USE_TLS": "1",
                    "RAY_TLS_SERVER_CERT": "/tmp/node.pem",
                    "RAY_TLS_SERVER_KEY": "/tmp/node.key",
                    "RAY_TLS_CA_CERT": "/tmp/node.pem",
                    "RAY_raylet_start_wait_time_s": "120",  # else a machine with much to do starts them again and again
                    "RAY_enable_worker_prestart": "0",
                    "RAY_prestart_worker_first_driver": "0",
                },
            )
            here.ray(head, cpus=0)
            here.wait_for(head)
            here.ray(driver, cpus=0)
            here.wait_for(driver)
            project = driver.project
            (project / "hooke.toml").write_text(TOML.format(url=s3.url, address=here.address), "utf-8")
            (project / "store.secret").write_text("0" * 64, "utf-8")
            (project / "store.secret").chmod(0o600)
            (project / "project_library").mkdir()
            (project / "project_library" / "__init__.py").write_text("", "utf-8")
            code = "def squared(x):\n    return x * x\n"
            (project / "project_library" / "numbers.py").write_text(code, "utf-8")
            (project / "job.py").write_text(textwrap.dedent(job), "utf-8")
            for name in nodes:
                here.wait_for(here.join(name))
            yield here


def _keys() -> dict[str, bytes]:
    """A token, and one certificate for all of them, which is its own authority. Ray looks whether the address is in it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    addresses = ["127.0.0.1", *(f"10.77.0.{number + 1}" for number in range(MOST))]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=10))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return {
        "token": secrets.token_hex(32).encode(),
        "node.pem": certificate.public_bytes(pem),
        "node.key": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    }
