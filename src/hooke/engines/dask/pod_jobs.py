"""Jobs of a Kubernetes cluster, each of one pod that works for a run, and what becomes of the pods.

A Job and not a bare pod, since the cluster removes a Job soon after its pod has ended, also when the driver is dead. Each pod has a
certificate of its own in a Secret that its Job owns, so it goes with it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from hooke.base.errors import HookeError
from hooke.certificates.authority import Authority, new_key, pem_of
from hooke.certificates.key_files import CA, MACHINE
from hooke.engines.dask.worker_process import POD_ADDRESS
from hooke.kubernetes.client import (
    ApiError,
    ApiForbidden,
    ApiUnreachable,
    Kubernetes,
    Manifest,
    NotThere,
    selector,
)
from hooke.kubernetes.driver_job import owner_here
from hooke.kubernetes.pods import (
    RELEASE_GRACE_S,
    WORKER,
    WORKER_LABELS,
    PodOptions,
    Trouble,
    log_of,
    merged,
    pod_trouble,
    refusal_of,
    worker_pod,
)
from hooke.kubernetes.watch import Watch

__all__ = ["PodJobs", "PodState"]

RUN_LABEL, DRIVER_LABEL, NUMBER_LABEL = "hooke.dev/run", "hooke.dev/driver", "hooke.dev/number"
KEYS = "/run/hooke"
"""Where a pod finds its certificate."""
REMOVED_S = 20
"""How long the cluster keeps a Job whose pod has ended by itself: long enough to read its log."""
VALID_S = 365 * 86400.0
"""Of certificates: no run lasts as long. The authority's key is never written anywhere, and gone with the driver."""
LOOK_S = 1.0
NO_POD_S = 1.0
"""A Job has its pod at once; where it has none after this time, its events say why."""
JOB = "batch/v1/Job"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """What is known of one worker's pod."""

    number: int
    job: str
    pod: str = ""
    """Empty while there is none."""
    since: float = 0.0
    """When its Job was made (monotonic)."""
    runs_since: float | None = None
    trouble: Trouble | None = None
    """What keeps it from its work, or has ended it."""
    drains: bool = False
    """Whether somebody ends it: it finishes what it does."""
    ended: bool = False
    """Whether it is gone, or its program has ended."""

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return f"pod {self.pod}" if self.pod else f"the pod of job {self.job}"


class PodJobs:
    """Makes and ends the pods of one driver. Thread-safe."""

    def __init__(
        self, client: Kubernetes, options: PodOptions, *, run: str, threads: int, authority: Authority
    ) -> None:
        self._client = client
        self._options = options
        self._namespace = options.namespace or client.access.namespace
        self._threads = threads
        self._authority = authority
        self._driver = secrets.token_hex(4)
        self._owner = owner_here(os.environ)
        self._run = _label_of(run)
        self._ended: set[int] = set()
        self._lock = threading.Lock()
        self._states: dict[int, PodState] = {}
        self._news: SimpleQueue[PodState | HookeError] = SimpleQueue()
        self._closed = threading.Event()
        self._watch = Watch(
            client, "v1/Pod", namespace=self._namespace, labels=selector({DRIVER_LABEL: self._driver})
        )
        self._threads_of_mine = [
            threading.Thread(target=self._guarded, args=[each], name="hooke-pods", daemon=True)
            for each in (self._follow, self._look)
        ]

    @property
    def namespace(self) -> str:
        """Where the pods are."""
        return self._namespace

    def start(self) -> None:
        """Remove what an earlier driver of this run left, and follow the pods from now on. Raises HookeError."""
        found, _ = self._client.list(JOB, namespace=self._namespace, labels=selector({RUN_LABEL: self._run}))
        for each in found:
            self._delete(JOB, each["metadata"]["name"])
        for thread in self._threads_of_mine:
            thread.start()

    def launch(self, number: int, scheduler: str) -> None:
        """Make the Job of a worker that joins this scheduler. Where the cluster refuses, its state has ended and says why."""
        name = f"hooke-{self._driver}-{number}"
        state = PodState(number=number, job=name, since=time.monotonic())
        with self._lock:
            self._states[number] = state
        try:
            made = self._client.create(self.job(name, number, scheduler), namespace=self._namespace)
            secret = self.secret(name, number, made["metadata"]["uid"])
            self._client.create(secret, namespace=self._namespace)
        except (ApiError, ApiUnreachable) as error:
            trouble = (
                refusal_of(error)
                if isinstance(error, ApiError)
                else Trouble(kind="busy", says=f"{error.what}: {error.why}")
            )
            self.end(number)
            self._put(replace(state, trouble=trouble, ended=True))

    def end(self, number: int) -> None:
        """End a worker's pod, unless somebody else does and it finishes its work."""
        with self._lock:
            state = self._states.get(number)
            if state is None or number in self._ended:
                return
            self._ended.add(number)
        try:
            self._delete(JOB, state.job)
            if state.pod and not (state.drains or state.ended):
                self._delete("v1/Pod", state.pod, grace_s=RELEASE_GRACE_S)
        except ApiError as error:
            self._news.put(error)
        except ApiUnreachable:
            return  # its scheduler ends the worker, and the cluster removes a Job whose pod has ended

    def state(self, number: int) -> PodState | None:
        """What is known of a worker's pod."""
        with self._lock:
            return self._states.get(number)

    def states(self) -> list[PodState]:
        """All that were made, in that order."""
        with self._lock:
            return list(self._states.values())

    def log(self, state: PodState) -> bytes:
        """What a pod has written until now."""
        with contextlib.suppress(ApiUnreachable):
            return log_of(self._client, state.pod, namespace=self._namespace) if state.pod else b""
        return b""

    def news(self) -> list[PodState]:
        """The pods that changed since the last call. Raises HookeError where they cannot be followed any more."""
        found: list[PodState] = []
        with contextlib.suppress(Empty):
            while True:
                each = self._news.get_nowait()
                if isinstance(each, HookeError):
                    raise each
                found.append(each)
        return found

    def close(self) -> None:
        """End all that are left, and follow them no longer; idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._watch.stop()
        for state in self.states():
            self.end(state.number)
        for thread in self._threads_of_mine:
            if thread.ident is not None:
                thread.join()
        self._client.close()

    # -- what is made ------------------------------------------------------------------------------

    def _labels(self, number: int) -> dict[str, str]:
        return {
            **WORKER_LABELS,
            RUN_LABEL: self._run,
            DRIVER_LABEL: self._driver,
            NUMBER_LABEL: str(number),
        }

    def job(self, name: str, number: int, scheduler: str) -> Manifest:
        """The Job of a worker."""
        machine = f"{KEYS}/{MACHINE}"
        order = {
            "scheduler": scheduler,
            "name": number,
            "threads": self._threads,
            "memory": self._options.memory,
            "keys": {"tls_ca_file": f"{KEYS}/{CA}"}
            | {f"tls_{role}_{what}": machine for role in ("client", "worker") for what in ("cert", "key")},
        }
        command = ["python", "-P", "-m", "hooke.engines.dask.worker_process", json.dumps(order)]
        address = {"fieldRef": {"fieldPath": "status.podIP"}}
        own = {
            "metadata": {"labels": self._labels(number)},
            "spec": {
                "containers": [
                    {
                        "name": WORKER,
                        "env": [{"name": POD_ADDRESS, "valueFrom": address}],
                        "volumeMounts": [{"name": "hooke-keys", "mountPath": KEYS, "readOnly": True}],
                    }
                ],
                "volumes": [{"name": "hooke-keys", "secret": {"secretName": name, "defaultMode": 0o444}}],
            },
        }
        pod = merged(worker_pod(command, self._options), own)
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": self._labels(number), "ownerReferences": self._owner},
            "spec": {
                "backoffLimit": 0,
                "ttlSecondsAfterFinished": REMOVED_S,
                "template": {"metadata": pod["metadata"], "spec": pod["spec"]},
            },
        }

    def secret(self, name: str, number: int, owner: str) -> Manifest:
        """The certificate of a worker, for the Job with this uid."""
        key = new_key()
        certificate = self._authority.certify(
            f"worker-{number}", key.public_key(), now=time.time(), valid_s=VALID_S
        )
        files = {CA: self._authority.pem, MACHINE: certificate + pem_of(key)}
        owned_by = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": self._labels(number), "ownerReferences": [owned_by]},
            "data": {file: base64.b64encode(content).decode() for file, content in files.items()},
        }

    def _delete(self, kind: str, name: str, *, grace_s: float | None = None) -> None:
        with contextlib.suppress(NotThere):
            self._client.delete(kind, name, namespace=self._namespace, grace_s=grace_s)

    # -- in threads of this object -----------------------------------------------------------------

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except HookeError as error:
            self._news.put(error)

    def _follow(self) -> None:
        for change in self._watch:
            self._changed(change.object, gone=change.how == "deleted")

    def _changed(self, pod: Manifest, *, gone: bool) -> None:
        number = int(pod["metadata"]["labels"][NUMBER_LABEL])
        status: Mapping[str, Any] = pod.get("status", {})
        with self._lock:
            before = self._states.get(number)
            if before is None or before.ended:
                return
            runs = status.get("phase") == "Running"
            found = pod_trouble(pod)
            ended = gone or status.get("phase") in ("Failed", "Succeeded")
            if ended and found is None:
                found = Trouble(kind="disrupted", says="it was deleted", fix="its work goes elsewhere")
            after = replace(
                before,
                pod=pod["metadata"]["name"],
                runs_since=before.runs_since or (time.monotonic() if runs else None),
                trouble=found,
                drains=bool(pod["metadata"].get("deletionTimestamp")),
                ended=ended,
            )
        if after != before:
            self._put(after)

    def _put(self, state: PodState) -> None:
        with self._lock:
            self._states[state.number] = state
        self._news.put(state)

    def _look(self) -> None:
        """Say why a Job has no pod: a quota, or rules of the cluster, which only its events tell."""
        while not self._closed.wait(LOOK_S):
            late = time.monotonic() - NO_POD_S
            for state in self.states():
                if not state.pod and not state.ended and state.since < late:
                    with contextlib.suppress(ApiUnreachable):
                        self._ask_why(state)

    def _ask_why(self, state: PodState) -> None:
        fields = f"involvedObject.kind=Job,involvedObject.name={state.job}"
        found, _ = self._client.list("v1/Event", namespace=self._namespace, fields=fields)
        for said in _refusals(found):
            trouble = refusal_of(ApiForbidden(said))
            with self._lock:
                before = self._states[state.number]
                if before.pod or before.ended or before.trouble == trouble:
                    return
            self._put(replace(before, trouble=trouble))


def _label_of(run: str) -> str:
    """A run's id, or a digest where Kubernetes does not allow it as a label's value."""
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", run):
        return run
    return hashlib.blake2b(run.encode(), digest_size=16).hexdigest()


def _refusals(events: list[Manifest]) -> Iterator[str]:
    """What the newest event says that no pod could be made for. Each try has a pod of another name, which is left out."""
    failed = [each for each in events if each.get("reason") == "FailedCreate"]
    for each in failed[-1:]:
        said = str(each.get("message", "")).removeprefix("Error creating: ")
        yield re.sub(r'^pods "[^"]*" is ', "a pod is ", said)
