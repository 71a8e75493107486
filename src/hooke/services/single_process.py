"""A service that one process serves without a supervisor: a note of it in the service's folder, and what can be known of it from outside."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import write_atomic, writing
from hooke.processes.start import anonymous_bytes, lives
from hooke.services.service_runs import ServiceRun
from hooke.serving.auth import read_token
from hooke.serving.bind_config import Exposure
from hooke.serving.metrics import quantile_s
from hooke.serving.replica import METRICS

__all__ = ["AloneRecord", "alone_facts", "alone_in", "noted"]

ASK_S = 5.0


class AloneRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A process that serves by itself; `created` tells it from a later one of the same number."""

    pid: int
    created: float
    started_at: float
    """Seconds since the epoch."""
    target: str
    run: str
    url: str
    host: str
    port: int
    token_file: str = ""
    """Empty where no token is asked for."""
    cert: str = ""
    """Of TLS; empty where there is none."""


@contextlib.contextmanager
def noted(
    run: ServiceRun,
    exposure: Exposure,
    *,
    service: str,
    port: int,
    target: str,
    token_file: Path | None,
) -> Iterator[None]:
    """While this process serves, let `hooke serve status` find it. Raises HookeError where the folder cannot be made."""
    path = run.project.data / "services" / service / f"alone-{os.getpid()}.json"
    with writing("the service's folder", path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = AloneRecord(
        pid=os.getpid(),
        created=psutil.Process().create_time(),
        started_at=time.time(),
        target=target,
        run=run.id,
        url=exposure.url(port),
        host=exposure.host,
        port=port,
        token_file=str(token_file.resolve()) if token_file is not None else "",
        cert=str(exposure.tls.cert.resolve()) if exposure.tls is not None else "",
    )
    with contextlib.suppress(OSError):  # a full disk keeps nobody from serving; it is not listed then
        write_atomic(path, msgspec.json.encode(record))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def alone_in(folder: Path) -> list[AloneRecord]:
    """Of a service's folder those that live; what cannot be read is skipped, as nobody can be found by it."""
    found: list[AloneRecord] = []
    for path in sorted(folder.glob("alone-*.json")):
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            record = msgspec.json.decode(path.read_bytes(), type=AloneRecord)
            if lives(record.pid, record.created):
                found.append(record)
    return found


def alone_facts(service: str, record: AloneRecord) -> dict[str, Any]:
    """For `hooke serve status --json`: what the system and its metrics tell. None is what is not known, and `unknown` says why."""
    facts: dict[str, Any] = {
        "service": service,
        "supervised": False,
        "state": None,
        "url": record.url,
        "run": record.run,
        "target": record.target,
        "pid": record.pid,
        "age_s": max(0.0, time.time() - record.started_at),
        "memory_bytes": anonymous_bytes(record.pid),
        "in_flight": None,
        "answered": None,
        "rate": None,
        "p99_s": None,
        "unknown": "",
    }
    try:
        facts |= _counted(_asked(record), facts["age_s"])
    except (OSError, HookeError, http.client.HTTPException, ModuleNotFoundError) as error:
        what = error.what if isinstance(error, HookeError) else str(error)
        facts["unknown"] = f"it does not tell what it counted: {what or type(error).__name__}"
    return facts


def _asked(record: AloneRecord) -> str:
    """Its metrics. The token goes to no other process: this one had the port when it was seen to live."""
    name = "127.0.0.1" if record.host == "localhost" else record.host
    address = ipaddress.ip_address(name)
    reached = ("::1" if address.version == 6 else "127.0.0.1") if address.is_unspecified else name
    host = record.url.partition("://")[2]
    headers = {"host": host}
    if record.token_file:
        headers["authorization"] = f"Bearer {read_token(Path(record.token_file))}"
    if not lives(record.pid, record.created):
        raise UsageError("it has ended")
    connection = (
        http.client.HTTPSConnection(reached, record.port, timeout=ASK_S, context=_pinned(record.cert))
        if record.cert
        else http.client.HTTPConnection(reached, record.port, timeout=ASK_S)
    )
    with contextlib.closing(connection):
        connection.request("GET", METRICS, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    if answer.status != 200:
        raise UsageError(f"GET {METRICS} is answered with {answer.status}")
    return text


def _pinned(cert: str) -> ssl.SSLContext:
    """Trusts this certificate and no other, by whatever name."""
    context = ssl.create_default_context(cafile=cert)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _counted(text: str, age_s: float) -> dict[str, Any]:
    from prometheus_client.parser import text_string_to_metric_families

    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    own = [one for one in samples if one.labels.get("route", "/-/")[:3] not in ("", "/-/")]
    answered = sum(int(one.value) for one in own if one.name == "hooke_requests_total")
    until: dict[str, float] = {}
    for one in own:
        if one.name == "hooke_request_duration_seconds_bucket":
            until[one.labels["le"]] = until.get(one.labels["le"], 0.0) + one.value
    counts = sorted((float(bound), count) for bound, count in until.items())
    buckets = [
        int(count - before)
        for (_, count), before in zip(counts, [0.0, *(count for _, count in counts)], strict=False)
    ]
    by_name = {one.name: one.value for one in samples if not one.labels}
    return {
        "state": "serving" if by_name.get("hooke_ready") else "not ready",
        # Without the one that asks this.
        "in_flight": max(0, int(by_name.get("hooke_requests_in_flight", 1.0)) - 1),
        "answered": answered,
        "rate": answered / age_s if age_s else None,
        "p99_s": quantile_s(buckets, 0.99),
    }
