"""The pods of a run as machines: each is a Job of a Kubernetes cluster, kept by the controller of fleets with a ledger of its own.

A Job and not a bare pod, since the cluster removes a Job soon after its pod has ended, also when the driver is dead. Each pod has a
certificate of its own in a Secret that its Job owns, so it goes with it. A lease says that the driver lives; it owns the Jobs.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from hooke.base.clock import Clock
from hooke.base.errors import UsageError
from hooke.certificates.authority import Authority, new_key, pem_of
from hooke.certificates.key_files import CA, MACHINE
from hooke.engines.dask.worker_process import POD_ADDRESS
from hooke.journal.fleet_events import LaunchAnswered
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
from hooke.kubernetes.lease import LEASE, ClusterLease
from hooke.kubernetes.pods import (
    COMPONENT,
    DELETED,
    DRIVER_LABEL,
    RELEASE_GRACE_S,
    RIGHTS_FIX,
    RUN_LABEL,
    TOKEN_NOTE,
    WORKER,
    WORKER_LABELS,
    PodOptions,
    Trouble,
    is_preempted,
    label_of,
    log_of,
    merged,
    pod_trouble,
    preemptors_in,
    refusal_of,
    trim_pod,
    worker_pod,
)
from hooke.kubernetes.rights import RUN_RIGHTS, lacking_rights, lacking_text
from hooke.kubernetes.watch import Watch, passes
from hooke.machines.controller import Caps
from hooke.machines.keeper import FleetKeeper, Ledger, records_of
from hooke.machines.kubernetes_calls import reached, refused_call
from hooke.machines.provider import Machine, ProviderFacts

__all__ = ["PodJobs", "PodKeeper", "PodState"]

_log = logging.getLogger("hooke")

NUMBER_LABEL = "hooke.dev/number"
KEYS = "/run/hooke"
"""Where a pod finds its certificate."""
REMOVED_S = 20
"""How long the cluster keeps a Job whose pod has ended by itself: long enough to read its log."""
VALID_S = 365 * 86400.0
"""Of certificates: no run lasts as long. The authority's key is never written anywhere, and gone with the driver."""
LOOK_S = 1.0
LIST_AGAIN_S = 60.0
"""After this time all Jobs of the run are listed anew, whatever the watch of its pods has told."""
CHECK_S = 5.0
"""How often a server is asked for one Job, while the watch tells of all pods: whether it answers, and lets them be listed."""
ROLES_READ_S = 3.0
"""An API server that has just started denies everything until it has read all roles, so a right that is lacking is asked for twice."""
NAMED_S = 3.0
"""How long after a preemption an event may say by which pod."""
NO_POD_S = 1.0
"""A Job has its pod at once; where it has none after this time, its events say why."""
GONE_S = 10.0
"""How long the end of a run waits until its pods are gone and the ledger says so. They have 5 s, and most end within two."""
SILENT_END_S = 20.0
"""How long the end of a run waits for a server that answers nothing, over all its requests: pods end by themselves, too."""
MOST_EFFORT = 10
"""Between two questions to the events, or two lists of Jobs that wait for their pods, passes so many times the time that the first took."""
JOB, POD = "batch/v1/Job", "v1/Pod"
FACTS = ProviderFacts(name="kubernetes", visible_s=5.0, look_s=LOOK_S, sure=True, keeps_ended=True)
"""The list is read from the store of the cluster itself, and every pod is watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """What is known of one worker's pod."""

    number: int
    job: str
    token: str = ""
    """Of its launch."""
    pod: str = ""
    """Empty while there is none."""
    since: float = 0.0
    """When its Job was made (monotonic)."""
    runs_since: float | None = None
    started_at: float = 0.0
    """The same, seconds since the epoch; 0 before."""
    trouble: Trouble | None = None
    """What keeps it from its work, or has ended it."""
    drains: bool = False
    """Whether somebody ends it: it finishes what it does."""
    ended: bool = False
    """Whether it is gone, or its program has ended."""
    log: bytes = b""
    """What it had written when it ended by itself: in the news of its end alone."""

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return f"pod {self.pod}" if self.pod else f"the pod of job {self.job}"


# -- the provider ----------------------------------------------------------------------------------


class PodJobs:
    """The provider of one driver's pods, and of those that earlier drivers of its run left. Thread-safe.

    The engine says which workers have joined and what they do (`joined`, `idle`, `emptied`), and takes work from those that are `retiring`.
    """

    def __init__(
        self,
        client: Kubernetes,
        options: PodOptions,
        *,
        run: str,
        threads: int,
        authority: Authority,
        usd_per_hour: float = 0.0,
    ) -> None:
        self.facts = replace(FACTS, usd_per_hour=usd_per_hour)
        self.scheduler = ""
        """The address that workers join."""
        self._client = client
        self._options = options
        self._namespace = options.namespace or client.access.namespace
        self._threads = threads
        self._authority = authority
        self._driver = secrets.token_hex(4)
        self._run = label_of(run)
        about = {**WORKER_LABELS, RUN_LABEL: self._run, DRIVER_LABEL: self._driver}
        self._owner = owner_here(os.environ)
        name = f"hooke-{self._driver}"
        self.lease = ClusterLease(client, name, namespace=self._namespace, labels=about, owners=self._owner)
        self._labels_of_all = about
        self._lock = threading.Lock()
        self._states: dict[str, PodState] = {}
        """Name of the Job -> what is known of it."""
        self._retiring: set[int] = set()
        self._joined: set[int] = set()
        self._emptied: set[int] = set()
        self._idle_since: Mapping[int, float] = {}
        self._unsure: set[str] = set()
        """Jobs that may have been made only in part."""
        self._deleted: set[str] = set()
        self._surplus: set[int] = set()
        """Pods that were ended while they could have gone on."""
        self._logged: set[str] = set()
        self._jobs: set[str] = set()
        """Names of Jobs that were made or listed, and not deleted since."""
        self._unnamed: dict[str, tuple[float, Manifest]] = {}
        """UID of a pod that was preempted, and of which it is not told by which pod -> since when, and the pod."""
        self._preemptors: dict[str, str] = {}
        self._list_by = self._list_again = self._check_again = self._ask_again = 0.0
        self._news: SimpleQueue[PodState | Exception] = SimpleQueue()
        workers = selector({RUN_LABEL: self._run, COMPONENT: WORKER})  # its driver's Job has its label, too
        self._of_run = {"namespace": self._namespace, "labels": workers}
        self._watch = Watch(client, POD, **self._of_run, trim=trim_pod)
        self._follower = self.thread(self._follow, "hooke-pods")

    @property
    def namespace(self) -> str:
        """Where the pods are."""
        return self._namespace

    # -- as a provider -----------------------------------------------------------------------------

    def launch(self, token: str) -> str:
        """Make the Job of a worker that joins the scheduler. Where the cluster refuses, its state has ended and says why, too."""
        number = int(token.rpartition("-")[2])
        name = f"hooke-{self._driver}-{number}"
        state = PodState(number=number, job=name, token=token, since=time.monotonic())
        with self._lock:
            self._states[name] = state
            self._unsure.add(name)
        try:
            made = self._client.create(self.job(name, number, token), namespace=self._namespace)
            secret = self.secret(name, number, made["metadata"]["uid"])
            self._client.create(secret, namespace=self._namespace)
        except ApiUnreachable as error:  # what was made of it is found by the next list
            self._change(name, trouble=Trouble(kind="busy", says=f"{error.what}: {error.why}"))
            raise refused_call(error) from error
        except ApiError as error:
            self._change(name, trouble=refusal_of(error), ended=True)
            with reached():
                self._delete(JOB, name)
            raise refused_call(error) from error
        with self._lock:
            self._unsure.discard(name)
            self._jobs.add(name)
        return name

    def list(self) -> Sequence[Machine]:
        """All pods of the run. One that has ended is listed so until it is released; its log is read once."""
        with reached():
            now = time.monotonic()
            if self._has_to_list(now):
                found, _ = self._client.list(JOB, **self._of_run, trim=_trim_job)
                self._listed(found)
                self._list_by = now + LIST_AGAIN_S
                self._list_again = now + (1 + MOST_EFFORT) * (time.monotonic() - now)
                self._check_again = now + CHECK_S
            elif now >= self._check_again:
                self._client.check_listing(JOB, **self._of_run)
                self._check_again = now + CHECK_S
            self._read_logs()
        with self._lock:
            there = [
                each
                for each in self._states.values()
                if each.job in self._jobs or (each.pod and not each.ended)
            ]
            return [self._machine(each) for each in there]

    def _has_to_list(self, now: float) -> bool:
        """Whether Jobs may be there, or gone, of which the watch of the pods does not tell."""
        if now >= self._list_by or not self._watch.follows:
            return True
        waits_on = now >= self._list_again
        with self._lock:
            return any(
                not each.token or each.job in self._unsure or (waits_on and not each.pod)
                for each in self._states.values()
                if not each.ended
            )

    def _listed(self, found: Sequence[Manifest]) -> None:
        """All Jobs of the run, as they are now."""
        with self._lock:
            self._jobs = {each["metadata"]["name"] for each in found}
            for job in found:
                state = _state_of(job)
                known = self._states.setdefault(state.job, state)
                if not known.token:  # its pod was seen before it
                    self._states[state.job] = replace(known, token=state.token)
            for each in list(self._states.values()):
                if each.job not in self._jobs and not (each.pod or each.ended):  # not made, or deleted
                    self._states[each.job] = replace(each, ended=True)
                    self._logged.add(each.job)

    def retire(self, machine: str) -> None:
        """Have the engine give its worker nothing more."""
        with self._lock:
            if (state := self._states.get(machine)) is not None:
                self._retiring.add(state.number)

    def release(self, machine: str) -> None:
        """End a worker's pod, unless somebody else does and it finishes its work."""
        with self._lock:
            state = self._states.get(machine)
            if state is None or machine in self._deleted:
                return
            if not state.ended:
                self._surplus.add(state.number)
        with reached():
            self._delete(JOB, machine)
            if state.pod and not (state.drains or state.ended):
                self._delete(POD, state.pod, grace_s=RELEASE_GRACE_S)
        with self._lock:
            self._jobs.discard(machine)
            if state.pod or machine in self._unsure:
                self._deleted.add(machine)

    # -- for the engine ----------------------------------------------------------------------------

    @property
    def retiring(self) -> set[int]:
        """The numbers of workers that are to finish."""
        with self._lock:
            return set(self._retiring)

    def joined(self, number: int) -> None:
        """A worker has joined the scheduler."""
        with self._lock:
            self._joined.add(number)

    def idle(self, since: Mapping[int, float]) -> None:
        """The workers without work, and since when (monotonic)."""
        with self._lock:
            self._idle_since = since

    def emptied(self, numbers: Sequence[int]) -> None:
        """Workers that were to finish have done so, and hold nothing of others any more."""
        with self._lock:
            self._emptied.update(numbers)

    def is_wanted(self, number: int) -> bool:
        """Whether a worker is to go on, or would if it had not ended by itself or by somebody else."""
        with self._lock:
            state = self._states[self._name(number)]
            return number not in self._surplus and (number not in self._retiring or _is_taken(state))

    def state(self, number: int) -> PodState | None:
        """What is known of a worker's pod."""
        with self._lock:
            return self._states.get(self._name(number))

    def states(self) -> Sequence[PodState]:
        """All of this driver, in the order of their launches."""
        with self._lock:
            return [each for each in self._states.values() if self._is_mine(each.job)]

    def news(self) -> Sequence[PodState]:
        """The pods that changed since the last call. Raises what ended a thread, such as an ApiError of the watch."""
        found = []
        with contextlib.suppress(Empty):
            while True:
                each = self._news.get_nowait()
                if isinstance(each, Exception):
                    raise each
                found.append(each)
        return found

    def thread(self, work: Callable[[], None], name: str) -> threading.Thread:
        """One that does this work, guarded."""
        return threading.Thread(target=self.guarded, args=[work], name=name, daemon=True)

    def guarded(self, work: Callable[[], None]) -> None:
        """Do a thread's work. What ends it early, `news` raises: nobody would miss the thread, and the run would wait."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised in the driver's thread
            self._news.put(error)

    def start(self, earlier: Iterable[str]) -> None:
        """Say that this driver lives, and that the one of these `earlier` Jobs does not; follow the pods from now on.

        Raises UsageError where the account lacks a right: a pod that cannot be ended would stay. Raises HookeError where the cluster cannot be used.
        """
        self._check_rights()
        self.lease.hold()
        for lease in {each.rpartition("-")[0] for each in earlier}:
            self._delete(LEASE, lease)
        self._follower.start()

    def _check_rights(self) -> None:
        with contextlib.suppress(
            ApiForbidden
        ):  # accounts may not ask everywhere; there, each call says what it lacks
            lacking = lacking_rights(self._client, RUN_RIGHTS, namespace=self._namespace)
            if lacking:
                time.sleep(ROLES_READ_S)
                lacking = lacking_rights(self._client, lacking, namespace=self._namespace)
            if lacking:
                raise UsageError(lacking_text(lacking, namespace=self._namespace), fix=RIGHTS_FIX)

    def hurry(self) -> None:
        """The run ends: wait no longer for a server that does not answer."""
        self._client.limit_silence(SILENT_END_S)

    def close(self) -> ApiError | ApiUnreachable | None:
        """Follow the pods no longer, and give up the lease: the cluster removes with it what is left; idempotent.

        Returns why the lease may be left.
        """
        self._watch.stop()
        if self._follower.ident is not None:
            self._follower.join()
        kept = None
        try:
            self.lease.release()
        except (ApiError, ApiUnreachable) as error:  # `hooke fleet reap` finds it
            kept = error
        self._client.close()
        return kept

    # -- what is made ------------------------------------------------------------------------------

    def _labels(self, number: int) -> dict[str, str]:
        return {**self._labels_of_all, NUMBER_LABEL: str(number)}

    def job(self, name: str, number: int, token: str) -> Manifest:
        """The Job of a worker."""
        machine = f"{KEYS}/{MACHINE}"
        order = {
            "scheduler": self.scheduler,
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
            "metadata": {
                "name": name,
                "labels": self._labels(number),
                "annotations": {TOKEN_NOTE: token},
                "ownerReferences": self._owner or [self.lease.owner],
            },
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

    # -- inside ------------------------------------------------------------------------------------

    def _name(self, number: int) -> str:
        return f"hooke-{self._driver}-{number}"

    def _is_mine(self, job: str) -> bool:
        return job.startswith(f"hooke-{self._driver}-")

    def _machine(self, state: PodState) -> Machine:
        """As the controller sees it."""
        number, joined = state.number, state.number in self._joined
        why = state.trouble.says if state.trouble is not None else ""
        taken = _is_taken(state)
        phase = "ready" if joined else "starting"
        if number in self._retiring and (not joined or number in self._emptied):
            phase = "retired"
        if not self._is_mine(state.job) or state.job in self._unsure:
            phase, taken = "retired", True
            why = "its driver is gone" if state.job not in self._unsure else "it was made only in part"
        idle = self._idle_since.get(number)
        return Machine(
            id=state.job,
            token=state.token,
            phase="ended" if state.ended else phase,
            started_at=state.started_at or time.time(),  # it is not old before it runs
            idle_s=time.monotonic() - idle if idle is not None else None,
            why=why,
            taken=taken,
        )

    def _read_logs(self) -> None:
        """Of pods that have ended by themselves, before their Jobs are deleted."""
        with self._lock:
            ended = [each for each in self._states.values() if each.ended and each.job not in self._logged]
            self._logged.update(each.job for each in ended)
        for each in ended:
            if not self._is_mine(each.job):
                continue
            log = b""
            with contextlib.suppress(ApiUnreachable):  # its end is told also without it
                log = log_of(self._client, each.pod, namespace=self._namespace) if each.pod else b""
            self._tell(replace(each, log=log))

    # -- in threads of this object -----------------------------------------------------------------

    def _follow(self) -> None:
        for change in self._watch:
            self._changed(change.object, gone=change.how == "deleted")

    def _changed(self, pod: Manifest, *, gone: bool) -> None:
        job, number = _job_of(pod), int(pod["metadata"]["labels"][NUMBER_LABEL])
        status: Mapping[str, Any] = pod.get("status", {})
        with self._lock:
            before = self._states.get(job) or PodState(number=number, job=job)
            if before.ended:
                return
            runs = status.get("phase") == "Running"
            uid = pod["metadata"].get("uid", "")
            found = pod_trouble(pod, preemptor=self._preemptors.get(uid, ""))
            ended = gone or status.get("phase") in ("Failed", "Succeeded")
            is_unnamed = is_preempted(pod) and uid not in self._preemptors and not ended
            if is_unnamed:
                self._unnamed[uid] = self._unnamed.get(uid, (time.monotonic(),))[0], pod
            else:
                self._unnamed.pop(uid, None)
            if ended and found is None:
                found = DELETED
            after = replace(
                before,
                pod=pod["metadata"]["name"],
                runs_since=before.runs_since or (time.monotonic() if runs else None),
                started_at=before.started_at or (time.time() if runs else 0.0),
                trouble=found,
                drains=bool(pod["metadata"].get("deletionTimestamp")),
                ended=ended,
            )
            self._states[job] = after
            if gone:
                self._logged.add(job)
            # Of one that has ended by itself when its log is read.
            if after != before and (gone or not ended) and not is_unnamed:
                self._tell(after)

    def _change(self, job: str, **facts: Any) -> None:
        with self._lock:
            self._states[job] = after = replace(self._states[job], **facts)
            self._tell(after)

    def _tell(self, state: PodState) -> None:
        if self._is_mine(state.job):
            self._news.put(state)

    def name_preemptors(self) -> None:
        """Tell of pods that were preempted, with the pods that have their places, as events say a moment later."""
        with self._lock:
            waiting = dict(self._unnamed)
        if not waiting:
            return
        by: dict[str, str] = {}
        with contextlib.suppress(ApiError, ApiUnreachable):  # it is told also without a name
            by = preemptors_in(self._client, namespace=self._namespace)
        for uid, (since, pod) in waiting.items():
            if uid not in by and time.monotonic() - since < NAMED_S:
                continue
            job = _job_of(pod)
            with self._lock:
                self._preemptors[uid] = by.get(uid, "")
                if self._unnamed.pop(uid, None) is None or self._states[job].ended:
                    continue
                found = pod_trouble(pod, preemptor=self._preemptors[uid])
                self._states[job] = after = replace(self._states[job], trouble=found)
                self._tell(after)

    def ask_why(self) -> None:
        """Say why Jobs have no pods: a quota, or rules of the cluster, which only their events tell. Raises ApiError, ApiUnreachable."""
        now = time.monotonic()
        since = now - NO_POD_S
        late = [each for each in self.states() if not each.pod and not each.ended and each.since < since]
        if not late or now < self._ask_again:
            return
        self._ask_why(late)
        # The server reads all events of the namespace for it: with thousands of pods that takes seconds.
        self._ask_again = now + (1 + MOST_EFFORT) * (time.monotonic() - now)

    def _ask_why(self, late: Sequence[PodState]) -> None:
        """One list for all of them: each event in it is a pod that could not be made."""
        fields = "involvedObject.kind=Job,reason=FailedCreate"
        found, _ = self._client.list("v1/Event", namespace=self._namespace, fields=fields)
        newest = {each["involvedObject"]["name"]: each for each in found}
        for state in late:
            if (event := newest.get(state.job)) is None:
                continue
            trouble = refusal_of(ApiForbidden(_refusal(event)))
            with self._lock:
                before = self._states[state.job]
                if before.pod or before.ended or before.trouble == trouble:
                    continue
                self._states[state.job] = after = replace(before, trouble=trouble)
                self._tell(after)


def _trim_job(job: Manifest) -> Manifest:
    """Who a Job is, without what it is made of."""
    return {
        "metadata": {
            name: job["metadata"][name]
            for name in ("annotations", "labels", "name")
            if name in job["metadata"]
        }
    }


def _state_of(job: Manifest) -> PodState:
    """A Job that an earlier driver made, or this one without hearing of it."""
    about = job["metadata"]
    return PodState(
        number=int(about["labels"][NUMBER_LABEL]),
        job=about["name"],
        token=about.get("annotations", {}).get(TOKEN_NOTE, ""),
        since=time.monotonic(),
    )


def _job_of(pod: Manifest) -> str:
    labels = pod["metadata"]["labels"]
    return f"hooke-{labels[DRIVER_LABEL]}-{labels[NUMBER_LABEL]}"


def _is_taken(state: PodState) -> bool:
    return state.drains or (state.trouble is not None and state.trouble.kind == "disrupted")


# -- the keeper ------------------------------------------------------------------------------------


class PodKeeper:
    """Keeps a run at its wanted number of pods, in a thread: every launch and end is in the ledger before it is asked for."""

    def __init__(self, jobs: PodJobs, folder: Path, *, caps: Caps, clock: Clock) -> None:
        """`folder` gets the ledger, which goes on where the run is resumed. Raises JournalError."""
        self.jobs = jobs
        known = (each for each in records_of(folder) if isinstance(each, LaunchAnswered))
        self._earlier = [each.machine for each in known]
        self._ledger = Ledger.open(folder, clock=clock)
        self._keeper = FleetKeeper("run", jobs, self._ledger, caps=caps, clock=clock)
        self._wanted = 0
        self._ends = False
        self._refused: dict[str, float] = {}
        """Name of a call that is refused -> since when, on the monotonic clock."""
        self._woken = threading.Event()
        self._thread = jobs.thread(self._keep, "hooke-keeper")
        self._is_closed = False
        self._closed = threading.Event()
        self._renewer = jobs.thread(self._renew, "hooke-lease")

    @property
    def failures(self) -> int:
        """How many pods in a row ended by themselves soon after their start, or were refused."""
        return self._keeper.fleet.failures

    def start(self) -> None:
        """Follow the pods and keep their number. Raises HookeError."""
        self.jobs.start(self._earlier)
        self._renewer.start()
        self._thread.start()

    def want(self, pods: int) -> None:
        """Set the wanted number."""
        self._wanted = pods
        self._woken.set()

    def end(self) -> None:
        """End all pods; none is made any more."""
        self._ends = True
        self.jobs.hurry()
        self._woken.set()

    def close(self) -> None:
        """End all pods, and wait a few seconds until they are gone; idempotent. What may be left is logged as a warning."""
        if self._is_closed:
            return
        self._is_closed = True
        self.end()
        if self._thread.ident is not None:
            self._thread.join()
        self._closed.set()
        if self._renewer.ident is not None:
            self._renewer.join()
        left = len(self._keeper.fleet.members)
        if (why := self.jobs.close()) is not None:
            _log.warning("%s", _left_text(left, self.jobs, why))
        self._ledger.close()

    def _bear(self, call: Callable[[], None]) -> None:
        """A call without which pods work on, for as long as the server may be away, or has just started. Raises ApiError."""
        try:
            call()
        except ApiUnreachable:
            return
        except ApiError as error:
            since = self._refused.setdefault(call.__name__, time.monotonic())
            if not passes(error, since):
                raise
        else:
            self._refused.pop(call.__name__, None)

    def _keep(self) -> None:
        while not self._ends:
            self._woken.clear()
            if self._wanted != self._keeper.fleet.wanted:
                self._keeper.want(self._wanted, "the run")
            pause = self._keeper.turn()
            self.jobs.name_preemptors()
            self._bear(self.jobs.ask_why)
            self._woken.wait(max(pause, 0.02))
        self._keeper.down("the end of the run")
        until = time.monotonic() + GONE_S
        pause = self._keeper.turn()
        while self._keeper.fleet.members and time.monotonic() < until:
            time.sleep(max(min(pause, 0.3), 0.02))
            pause = self._keeper.turn()

    def _renew(self) -> None:
        """In a thread of its own: to start thousands of pods, or to wait for a server, may take longer than the lease lasts."""
        while not self._closed.wait(LOOK_S):
            self._bear(self.jobs.lease.renew)


def _left_text(pods: int, jobs: PodJobs, why: ApiError | ApiUnreachable) -> str:
    """What the end of a run could not remove."""
    said = f"{why.what}: {why.why}" if why.why else why.what
    these = f"{pods} {'pod' if pods == 1 else 'pods'} and " if pods else ""
    return (
        f"{these}the lease {jobs.lease.name} may be left in the namespace {jobs.namespace}: {said}. "
        "Pods that work end by themselves within a minute; `hooke fleet reap NAME` removes the rest, NAME being the place"
    )


def _refusal(event: Manifest) -> str:
    """What an event says that no pod could be made for. Each try has a pod of another name, which is left out."""
    said = str(event.get("message", "")).removeprefix("Error creating: ")
    return re.sub(r'^pods "[^"]*" is ', "a pod is ", said)
