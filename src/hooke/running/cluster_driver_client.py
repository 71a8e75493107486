"""The driver of a run in a Kubernetes cluster, from outside: its job is made, followed, and ended.

The job has one pod, which runs `cluster_driver_process`. The project's files travel in a Secret that the job owns.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import re
import secrets
import tarfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import format_bytes
from hooke.images.contents import CODE as INSIDE
from hooke.images.contents import project_files
from hooke.journal.run_folders import RunElsewhere
from hooke.kubernetes.client import (
    ApiError,
    ApiForbidden,
    ApiUnreachable,
    Conflicting,
    Kubernetes,
    Manifest,
    NotThere,
    selector,
)
from hooke.kubernetes.driver_job import (
    CLAIM_FIX,
    DRIVER,
    PLACE_OPTIONS,
    DriverOptions,
    DriverPaths,
    driver_job,
    end_of_job,
)
from hooke.kubernetes.kubeconfig import find_access
from hooke.kubernetes.pods import RIGHTS_FIX, PodOptions, Trouble, pod_trouble, refusal_of
from hooke.kubernetes.watch import Watch
from hooke.project.backends import find_backend
from hooke.project.folder import Project
from hooke.project.settings import FILE
from hooke.running.cluster_driver_process import BEGUN, CODE, PROJECT, DriverOrder

__all__ = ["ClusterDrivers", "DriverJob", "pack_project"]

MOST_BYTES = 1_000_000
"""Of the archive: a Secret has 1 MiB at most."""
MOST_RAW = 100 * MOST_BYTES
"""Of one file, before it is compressed."""
NAMED = 3
"""Files that the error names."""
POLL_S = 0.3
PATIENCE_S: Mapping[str, float] = {"image": 20.0, "unschedulable": 120.0}
"""Kind of trouble -> how long to wait for it to pass before a driver is given up that has not begun. Nodes may be added."""
OTHERWISE_S = 5.0
GONE_S = 90.0
"""A driver that is asked to stop ends within its grace of 60 s."""
JOB, POD = "batch/v1/Job", "v1/Pod"


# -- the project's files ---------------------------------------------------------------------------


def pack_project(project: Project) -> bytes:
    """The archive of the project's files, as `hooke image` takes them: equal for equal files. Raises UsageError where it is too large.

    hooke.toml and the secret of the store come along, also where git ignores them.
    """
    root = project.root
    found = {each.path.removeprefix(f"{INSIDE}/"): each.file for each in project_files(root)}
    for name in (FILE, project.settings.store.secret_file):
        path = (root / name).resolve()
        if name and path.is_file() and path.is_relative_to(root.resolve()):
            found[path.relative_to(root.resolve()).as_posix()] = path
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as compressed:
        _write(compressed, found, out)
    content = out.getvalue()
    if len(content) > MOST_BYTES:
        raise _too_large(found)
    return content


def _write(compressed: gzip.GzipFile, found: Mapping[str, Path | None], out: io.BytesIO) -> None:
    with tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(found.items()):
            assert path is not None
            with path.open("rb") as file:
                entry = tarfile.TarInfo(name)
                facts = path.stat()
                if facts.st_size > MOST_RAW:  # to compress it takes long, and it would hardly fit
                    raise _too_large(found)
                entry.size, entry.mode = facts.st_size, 0o700 if facts.st_mode & 0o100 else 0o600
                archive.addfile(entry, file)
            if out.tell() > MOST_BYTES:
                raise _too_large(found)


def _too_large(found: Mapping[str, Path | None]) -> UsageError:
    sizes = sorted(((path.stat().st_size, name) for name, path in found.items() if path), reverse=True)
    largest = ", ".join(f"{name} ({format_bytes(size)})" for size, name in sizes[:NAMED])
    return UsageError(
        f"the project's files exceed {format_bytes(MOST_BYTES)} when compressed, the most that a Secret can hold",
        why=f"the largest: {largest}",
        fix="have git ignore what is data, and keep data where pods read it: a claim, or a URL",
    )


# -- jobs ------------------------------------------------------------------------------------------


class ClusterDrivers:
    """The drivers of a project at one place of the engine `kubernetes`."""

    def __init__(self, project: Project, place: str) -> None:
        """Raises UsageError where hooke.toml does not say enough, or there is no access to the cluster."""
        self._project = project
        self._place = place
        found = find_backend(place, workers=None, places=project.settings.places)
        if found.engine != "kubernetes":
            raise UsageError(f"{place} is not a place of the engine kubernetes any more", where=FILE)
        options = found.options or {}
        try:
            self._own = DriverOptions.parse(options)
        except UsageError as error:
            error.where = f"[places.{place}] in {project.root / FILE}"
            raise
        self._options = PodOptions.parse(options, more=PLACE_OPTIONS)
        self._client = Kubernetes(find_access(self._options.kubeconfig, context=self._options.context))
        self.namespace = self._options.namespace or self._client.access.namespace

    def job_of(self, run: str) -> DriverJob:
        """The job that drives a run, whether or not it is there."""
        plain = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")[:40].strip("-")
        name = f"hooke-{plain}-{hashlib.blake2b(run.encode(), digest_size=4).hexdigest()}"
        return DriverJob(client=self._client, namespace=self.namespace, name=name, own=self._own)

    def start(
        self, run: str, words: Sequence[str], again: Sequence[str], *, folder: str, record: RunElsewhere
    ) -> DriverJob:
        """Make the job that begins a run, or goes on with it. Raises UsageError where one is there already.

        `words` follow `hooke`, and `again` in a pod that finds the run begun.
        """
        job = self.job_of(run)
        order = DriverOrder(
            words=tuple(words),
            again=tuple(again),
            folder=folder,
            run=run,
            output=f"output-{secrets.token_hex(4)}.txt",
        )
        self._make(job, order)
        self._project.create()
        self._project.runs.note_elsewhere(
            run, msgspec.structs.replace(record, place=self._place, namespace=self.namespace, job=job.name)
        )
        return job

    def look(self, words: Sequence[str]) -> DriverJob:
        """Make a job that runs another command of Hooke on the runs in the cluster."""
        name = f"hooke-look-{secrets.token_hex(4)}"
        job = DriverJob(client=self._client, namespace=self.namespace, name=name, own=self._own)
        self._make(job, DriverOrder(words=tuple(words)))
        return job

    def _make(self, job: DriverJob, order: DriverOrder) -> None:
        content = pack_project(self._project)
        command = ["python", "-P", "-m", "hooke.running.cluster_driver_process"]
        command.append(msgspec.json.encode(order).decode())
        paths = DriverPaths(project=str(PROJECT), code=str(CODE))
        made = driver_job(job.name, command, paths, options=self._options, own=self._own, run=order.run)
        try:
            owner = self._client.create(made, namespace=self.namespace)["metadata"]["uid"]
            self._client.create(_secret(made, owner, content), namespace=self.namespace)
        except Conflicting:
            raise UsageError(
                f"run {order.run} has a driver in the cluster",
                where=f"job {job.name}, namespace {self.namespace}",
                next=f"hooke attach {order.run}",
            ) from None
        except BaseException as error:
            # Without an answer it may exist, too: a job whose Secret is not there would wait for ever.
            with contextlib.suppress(ApiError, ApiUnreachable):
                job.delete()
            if isinstance(error, ApiError):
                where = f"namespace {self.namespace}"
                fix = refusal_of(error).fix
                raise UsageError(
                    "the driver's job cannot be made", where=where, why=error.what, fix=fix
                ) from error
            raise


def _secret(job: Manifest, owner: str, content: bytes) -> Manifest:
    """The project's archive, which goes with its job."""
    name = job["metadata"]["name"]
    owned_by = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": job["metadata"]["labels"],
            "ownerReferences": [owned_by],
        },
        "data": {CODE.name: base64.b64encode(content).decode()},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverJob:
    """One job of a driver, by its name. Methods raise ApiError and ApiUnreachable."""

    client: Kubernetes
    namespace: str
    name: str
    own: DriverOptions

    def found(self) -> Manifest | None:
        """The job as it is now; None if it is not there."""
        found, _ = self.client.list(JOB, namespace=self.namespace, fields=f"metadata.name={self.name}")
        return found[0] if found else None

    def delete(self) -> None:
        """Delete it, and all that it owns."""
        with contextlib.suppress(NotThere):
            self.client.delete(JOB, self.name, namespace=self.namespace)

    def follow(self, show: Callable[[str], None], *, until_begun: bool = False) -> int | None:
        """Show each line of the driver once, through all its pods. Returns its exit code; None where the job was deleted.

        `until_begun`: returns None when the run has begun, and raises UsageError for what keeps it from that. Raises HookeError
        where the cluster makes no further pod.
        """
        following = _Following(self, show, until_begun)
        while True:
            with contextlib.suppress(ApiUnreachable, NotThere):
                if following.look():
                    return following.code
            time.sleep(POLL_S)

    def is_active(self) -> bool:
        """Whether it is there and has not ended."""
        job = self.found()
        return job is not None and end_of_job(job) is None

    def end(self) -> int | None:
        """Delete it, and wait until its driver has stopped. Returns the driver's exit code; None if it had no pod."""
        left = {pod["metadata"]["uid"] for pod in self.pods()}
        code = None
        if left:
            watch = Watch(self.client, POD, namespace=self.namespace, labels=self._labels)
            patience = threading.Timer(GONE_S, watch.stop)
            patience.start()
            try:
                for change in watch:
                    self.delete()
                    found = _exit_code(change.object)
                    code = code if found is None else found
                    if change.how == "deleted":
                        left.discard(change.object["metadata"]["uid"])
                    if not left:
                        break
            finally:
                patience.cancel()
                watch.stop()
        self.delete()
        if pods := self.pods():
            raise HookeError(
                f"the pod {pods[-1]['metadata']['name']} was asked to end, and is still there",
                where=f"namespace {self.namespace}",
                why="its node may be lost",
            )
        return code

    def replace(self) -> None:
        """Have one that has ended be gone, for another. Raises UsageError where it has not ended."""
        if self.is_active():
            raise UsageError("the run has a driver in the cluster", where=f"job {self.name}")
        self.end()
        while self.found() is not None:
            time.sleep(POLL_S)

    def pods(self) -> list[Manifest]:
        """Its pods, the newest last."""
        found, _ = self.client.list(POD, namespace=self.namespace, labels=self._labels)
        return sorted(found, key=lambda pod: datetime.fromisoformat(pod["metadata"]["creationTimestamp"]))

    @property
    def _labels(self) -> str:
        return selector({"batch.kubernetes.io/job-name": self.name})

    def trouble(self, job: Manifest, pod: Manifest | None) -> Trouble | None:
        """Why there is no driver: what keeps its pod from running, or the job from having one."""
        if pod is not None:
            found = pod_trouble(pod)
            if found is not None and "persistentvolumeclaim" in found.says:
                says = (
                    f"the claim {self.own.home!r} is not there or not bound: {found.says.partition(': ')[2]}"
                )
                return Trouble(kind="container", says=says, fix=f"correct `home`; {CLAIM_FIX}")
            return found
        fields = f"involvedObject.kind=Job,involvedObject.uid={job['metadata']['uid']}"
        events, _ = self.client.list("v1/Event", namespace=self.namespace, fields=fields)
        failed = [str(each.get("message", "")) for each in events if each.get("reason") == "FailedCreate"]
        if not failed:
            return None
        said = failed[-1].removeprefix("Error creating: ")
        if "serviceaccount" in said:
            return Trouble(
                kind="refused",
                says=f"the service account {self.own.account!r} is not there: {said}",
                fix=f"correct `account`, or {RIGHTS_FIX}",
            )
        return refusal_of(ApiForbidden(said))


class _Following:
    """What was shown of a driver, and what keeps it from its work."""

    def __init__(self, job: DriverJob, show: Callable[[str], None], until_begun: bool) -> None:  # noqa: FBT001 - of this module alone
        self.code: int | None = None
        self._job = job
        self._show = show
        self._until_begun = until_begun
        self._shown = 0
        """Lines: a pod begins with those of the pods before it."""
        self._read: set[str] = set()
        """Pods that were read to their end, by uid."""
        self._trouble: tuple[str, float] | None = None

    def look(self) -> bool:
        """Whether it is over."""
        job = self._job.found()
        if job is None:
            if self._until_begun:
                where = f"job {self._job.name}, namespace {self._job.namespace}"
                raise HookeError("the driver was deleted before its run began", where=where)
            return True
        pods = self._job.pods()
        pod = pods[-1] if pods else None
        if pod is not None and pod["metadata"]["uid"] not in self._read and _has_output(pod):
            if self._print(pod):
                return True
            if _exit_code(pod) is not None:  # it had ended before its log was read
                self._read.add(pod["metadata"]["uid"])
            return False
        self._check(job, pod)
        return self._ended(job, pods)

    def _print(self, pod: Manifest) -> bool:
        """Show its lines until its log ends; whether to end with that."""
        name, namespace = pod["metadata"]["name"], self._job.namespace
        try:
            lines = self._job.client.logs(name, namespace=namespace, container=DRIVER, follow=True)
        except ApiError as error:
            if error.code == 400 or error.code >= 500:  # its node does not answer
                return False
            raise
        count = 0
        with lines:
            for line in lines:
                text = line.decode("utf-8", "replace")
                if text == BEGUN:
                    if self._until_begun:
                        return True
                    continue
                count += 1
                if count > self._shown:
                    self._shown = count
                    self._show(text)
        return False

    def _check(self, job: Manifest, pod: Manifest | None) -> None:
        """Say what keeps a driver from running; raise where none ran, and it does not pass."""
        trouble = self._job.trouble(job, pod) if pod is None or _exit_code(pod) is None else None
        if trouble is None:
            self._trouble = None
            return
        now = time.monotonic()
        since = now if self._trouble is None else self._trouble[1]
        if not self._until_begun and (self._trouble is None or self._trouble[0] != trouble.says):
            self._show(f"waiting for the pod of job {self._job.name}: {trouble}")
        self._trouble = trouble.says, since
        if self._until_begun and now - since > (
            0 if trouble.final else PATIENCE_S.get(trouble.kind, OTHERWISE_S)
        ):
            raise UsageError(
                "the driver cannot start in the cluster",
                where=f"job {self._job.name}, namespace {self._job.namespace}",
                why=trouble.says,
                fix=trouble.fix,
            )

    def _ended(self, job: Manifest, pods: Sequence[Manifest]) -> bool:
        how = end_of_job(job)
        if how is None:
            return False
        codes = [code for pod in pods if (code := _exit_code(pod)) is not None]
        if how["type"] == "Complete" or (how.get("reason") == "PodFailurePolicy" and codes):
            self.code = codes[-1] if codes else 0
            return True
        trouble = pod_trouble(pods[-1]) if pods else None
        raise HookeError(
            f"the driver ended: {how.get('message', how.get('reason', ''))}",
            where=f"job {self._job.name}, namespace {self._job.namespace}",
            why=trouble.says if trouble is not None else "",
            fix=f"{trouble.fix}: driver_template has the pod's resources"
            if trouble is not None and trouble.kind == "memory"
            else "",
        )


def _state_of(pod: Manifest) -> Mapping[str, Any]:
    for each in pod.get("status", {}).get("containerStatuses", ()):
        if each["name"] == DRIVER:
            state: Mapping[str, Any] = each.get("state", {})
            return state
    return {}


def _has_output(pod: Manifest) -> bool:
    return "running" in _state_of(pod) or "terminated" in _state_of(pod)


def _exit_code(pod: Manifest) -> int | None:
    """Of a driver that has ended."""
    ended = _state_of(pod).get("terminated")
    return None if ended is None else int(ended.get("exitCode", 1))
