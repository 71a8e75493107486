"""Lambda Cloud for tests: an account behind its documented API, with faults, and a server whose instances are real processes.

    with LambdaServer(folder) as cloud:
        ...  # [fleets.NAME] provider = "lambda", endpoint = cloud.endpoint; LAMBDA_API_KEY=cloud.key
        assert not cloud.account.billing()

`LambdaAccount` is in any time, also a virtual one. `LambdaServer` answers by HTTP on the loopback; an instance is a process that runs its
user data. `python -m hooke.testing.lambda_cloud FOLDER` serves until it is ended, and prints the address.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, Self

import psutil

from hooke.base.clock import Clock, SystemClock
from hooke.processes.start import with_parent

__all__ = [
    "NO_LAMBDA_FAULTS",
    "LambdaAccount",
    "LambdaFaults",
    "LambdaInstance",
    "LambdaServer",
    "LostAnswer",
    "draw_lambda_faults",
    "main",
]

KEY = "secret_test_0123456789abcdef"
REGIONS = ("us-east-1", "us-west-1", "europe-central-1")
CENTS = {"cpu_4x_general": 20, "gpu_1x_a10": 129, "gpu_8x_h100_sxm5": 3192}
LISTED_S = 30.0
"""How long an instance that is terminated is still listed. The documentation does not say."""
EARLY_S = 0.05
"""A request may come so much too early: a real clock is read twice."""
_INSTANCE = re.compile(r"/instances/(?P<id>\w+)")


class LostAnswer(ConnectionError):
    """The connection was lost before the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LambdaFaults:
    """Fault rates: each is a probability between 0 and 1."""

    lost: float = 0.0
    """Of a request: to have no answer; half of them were done."""
    busy: float = 0.0
    """Of a request: to be refused with 429, half of them with Retry-After."""
    broken: float = 0.0
    """Of a request: to be answered with 500 or 502; half of them were done."""
    shortage: float = 0.0
    """Of an hour's tenth: that a region has no capacity. A launch may find it gone although it was listed."""
    quota: float = 0.0
    """Of a launch: to be over the quota."""
    invalid_key: float = 0.0
    """Of a request: that the key is refused."""
    doubled: float = 0.0
    """Of a launch: to start two instances and to name one."""
    late: float = 0.0
    """Of an instance: to be listed only after up to `visible_s`."""
    slow: float = 0.0
    """Of an instance: to boot for up to 15 minutes."""
    sick: float = 0.0
    """Of an instance: to be unhealthy for a while, or for good."""
    preempted: float = 0.0
    """Of an instance: to be preempted. It is billed until it is terminated: the documentation does not say so, but it is the worse case."""
    crashes: float = 0.0
    """Of a controller: to be killed between two of its steps."""


NO_LAMBDA_FAULTS = LambdaFaults()


def draw_lambda_faults(random: Random) -> LambdaFaults:
    """Random faults at random rates; one history in ten has none."""
    if random.random() < 0.1:
        return NO_LAMBDA_FAULTS

    def some(most: float) -> float:
        return random.choice((0.0, most / 4, most))

    return LambdaFaults(
        lost=some(0.3),
        busy=some(0.4),
        broken=some(0.3),
        shortage=some(0.6),
        quota=some(0.2),
        invalid_key=some(0.05),
        doubled=some(0.2),
        late=some(0.5),
        slow=some(0.4),
        sick=some(0.3),
        preempted=some(0.3),
        crashes=some(0.8),
    )


@dataclass(slots=True, kw_only=True)
class LambdaInstance:
    """The true state of an instance. Times are seconds since the epoch."""

    id: str
    wanted: Mapping[str, Any]
    """The body of its launch."""
    began_at: float
    visible_at: float
    active_at: float
    double: bool = False
    """Whether it is an unrequested second instance of one launch."""
    sick: tuple[float, float] = (math.inf, math.inf)
    preempted_at: float = math.inf
    off: bool = False
    """Whether it has powered itself off. It is unhealthy then, and billed."""
    terminated_at: float = math.inf
    """When it is not billed any more."""
    terminating_at: float = math.inf

    @property
    def token(self) -> str:
        """The launch's token, as in its tags."""
        return next((tag["value"] for tag in self.wanted.get("tags", ()) if tag["key"] == "hooke-token"), "")

    def billed(self, now: float) -> bool:
        """Whether it costs money."""
        return now < self.terminated_at

    def status(self, now: float) -> str:
        """The status as the API has it."""
        if now >= self.terminating_at:
            return "terminated" if now >= self.terminated_at else "terminating"
        if now >= self.preempted_at:
            return "preempted"
        if now < self.active_at:
            return "booting"
        return "unhealthy" if self.off or self.sick[0] <= now < self.sick[1] else "active"


@dataclass(slots=True, kw_only=True)
class LambdaAccount:
    """One account: `answer` takes a request and gives what the API answers. `instances` is the truth, for checks."""

    clock: Clock = field(default_factory=SystemClock)
    seed: int = 0
    faults: LambdaFaults = NO_LAMBDA_FAULTS
    key: str = KEY
    request_s: float = 1.0
    launch_s: float = 10.0
    """A request that comes sooner after the last one gets 429."""
    visible_s: float = 100.0
    boot_s: tuple[float, float] = (60.0, 300.0)
    terminating_s: float = 4.0
    """From the request until it is not billed any more."""
    cents: dict[str, int] = field(default_factory=lambda: dict(CENTS))
    full: set[str] = field(default_factory=set)
    """Regions without capacity, beside those of chance."""
    instances: dict[str, LambdaInstance] = field(default_factory=dict)
    launches: list[str] = field(default_factory=list)
    """The token of each launch that was done."""
    refused: dict[str, int] = field(default_factory=dict)
    """How often each fault occurred."""
    begun: Callable[[LambdaInstance], None] = lambda _: None
    """Called for each new instance."""
    ended: Callable[[LambdaInstance], None] = lambda _: None
    """Called when one is preempted or terminated by a call of `terminate` or `preempt`."""
    _calls: int = 0
    _last: dict[str, float] = field(default_factory=dict)

    # -- for checks --------------------------------------------------------------------------------

    def billing(self) -> list[LambdaInstance]:
        """The instances that cost money now."""
        now = self.clock.now()
        return [each for each in self.instances.values() if each.billed(now)]

    def billed_usd(self) -> float:
        """What all instances have cost so far, by the second."""
        now = self.clock.now()
        return sum(
            self.cents[each.wanted["instance_type_name"]]
            / 100
            * (min(now, each.terminated_at) - each.began_at)
            / 3600
            for each in self.instances.values()
        )

    def heal(self) -> None:
        """Stop all faults from now on; past ones stay."""
        self.faults = NO_LAMBDA_FAULTS
        now = self.clock.now()
        for each in self.instances.values():
            each.preempted_at = each.preempted_at if each.preempted_at <= now else math.inf
            each.sick = each.sick if each.sick[0] <= now else (math.inf, math.inf)

    def preempt(self, instance: str) -> None:
        """Take an instance away now."""
        found = self.instances[instance]
        found.preempted_at = min(found.preempted_at, self.clock.now())
        self.ended(found)

    # -- requests ----------------------------------------------------------------------------------

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Answer a request: status, headers, body. Raises LostAnswer where the connection is lost."""
        self._calls += 1
        chance = Random(f"{self.seed}/call {self._calls}")
        refusal = self._refusal(path, headers, chance)
        if refusal is not None:
            return refusal
        fault = next((name for name in ("lost", "broken") if self._occurs(name, chance)), "")
        if fault and chance.random() < 0.5:
            return self._faulty(fault, chance)
        made = self._done(method, path, json.loads(body) if body else {}, chance)
        return self._faulty(fault, chance) if fault else made

    def _refusal(
        self, path: str, headers: Mapping[str, str], chance: Random
    ) -> tuple[int, dict[str, str], bytes] | None:
        """The answer to a request that is refused before anything is done."""
        now = self.clock.now()
        given = {name.lower(): value for name, value in headers.items()}
        if given.get("authorization") != f"Bearer {self.key}" or self._occurs("invalid_key", chance):
            return _error(403, "global/invalid-api-key", "API key was invalid, expired, or deleted.")
        launch = path.endswith("/launch")
        paces = {"": self.request_s} | ({"launch": self.launch_s} if launch else {})
        early = any(now - self._last.get(pace, -math.inf) < every - EARLY_S for pace, every in paces.items())
        if early:
            self.refused["early"] = self.refused.get("early", 0) + 1
        if early or self._occurs("busy", chance):
            status, more, text = _error(429, "global/too-many-requests", "Too many requests")
            return status, more | ({"Retry-After": "3"} if chance.random() < 0.5 else {}), text
        self._last |= dict.fromkeys(paces, now)
        return None

    def _faulty(self, fault: str, chance: Random) -> tuple[int, dict[str, str], bytes]:
        if fault == "lost":
            raise LostAnswer("the connection was reset")
        if chance.random() < 0.5:
            return 502, {}, b"<html>Bad Gateway</html>"
        return _error(500, "global/internal-error", "An unexpected error occurred.")

    def _occurs(self, fault: str, chance: Random) -> bool:
        occurs = chance.random() < getattr(self.faults, fault)
        if occurs:
            self.refused[fault] = self.refused.get(fault, 0) + 1
        return occurs

    def _done(
        self, method: str, path: str, body: Mapping[str, Any], chance: Random
    ) -> tuple[int, dict[str, str], bytes]:
        one = _INSTANCE.fullmatch(path)
        match method, path:
            case "GET", "/instance-types":
                return _ok({name: self._offer(name) for name in self.cents})
            case "GET", "/instances":
                now = self.clock.now()
                return _ok([_shown(each, now) for each in self.instances.values() if _listed(each, now)])
            case "POST", "/instance-operations/launch":
                return self._launch(body, chance)
            case "POST", "/instance-operations/terminate":
                return self._terminate(body)
            case "GET", _ if one is not None and one["id"] in self.instances:
                return _ok(_shown(self.instances[one["id"]], self.clock.now()))
            case _:
                return _error(404, "global/object-does-not-exist", "Specified object does not exist.")

    def _offer(self, name: str) -> dict[str, Any]:
        about = {"name": name, "description": name, "price_cents_per_hour": self.cents[name]}
        specs = {"vcpus": 4, "memory_gib": 16, "storage_gib": 100, "gpus": 0}
        places = [{"name": each, "description": each} for each in REGIONS if self._has_room(each)]
        return {
            "instance_type": about | {"gpu_description": "", "specs": specs},
            "regions_with_capacity_available": places,
        }

    def _has_room(self, region: str) -> bool:
        tenth = int(self.clock.now() // 360)
        short = Random(f"{self.seed}/room {region} {tenth}").random() < self.faults.shortage
        return region not in self.full and not short

    def _launch(self, body: Mapping[str, Any], chance: Random) -> tuple[int, dict[str, str], bytes]:
        if fault := _launch_fault(body, self.cents):
            return _error(400, "global/invalid-parameters", fault)
        taken = chance.random() < self.faults.shortage / 4  # since it was listed
        if taken or not self._has_room(body["region_name"]):
            self.refused["shortage"] = self.refused.get("shortage", 0) + 1
            return _error(
                400,
                "instance-operations/launch/insufficient-capacity",
                "Not enough capacity to fulfill launch request.",
            )
        if self._occurs("quota", chance):
            return _error(400, "global/quota-exceeded", "Quota exceeded.")
        first = self._begin(body, chance)
        if self._occurs("doubled", chance):
            self._begin(body, chance, double=True)
        self.launches.append(first.token)
        return _ok({"instance_ids": [first.id]})

    def _begin(self, body: Mapping[str, Any], chance: Random, *, double: bool = False) -> LambdaInstance:
        now = self.clock.now()
        late = self._occurs("late", chance)
        boot_s = chance.uniform(*self.boot_s)
        boot_s *= chance.uniform(2.0, 3.0) if self._occurs("slow", chance) else 1.0
        made = LambdaInstance(
            id=f"{Random(f'{self.seed}/id {len(self.instances)}').getrandbits(128):032x}",
            wanted=dict(body),
            began_at=now,
            visible_at=now + (chance.uniform(0.0, self.visible_s) if late else 0.0),
            active_at=now + boot_s,
            double=double,
        )
        then = now + chance.expovariate(1 / 300.0)
        if self._occurs("sick", chance):
            made.sick = (then, then + chance.choice((20.0, 90.0, math.inf)))
        if self._occurs("preempted", chance):
            made.preempted_at = then
        self.instances[made.id] = made
        self.begun(made)
        return made

    def _terminate(self, body: Mapping[str, Any]) -> tuple[int, dict[str, str], bytes]:
        now = self.clock.now()
        ids = body.get("instance_ids") or []
        found = [self.instances[each] for each in ids if each in self.instances]
        if len(found) != len(ids) or not found:
            return _error(404, "global/object-does-not-exist", "Specified instance does not exist.")
        for each in found:
            if math.isinf(each.terminating_at):
                each.terminating_at, each.terminated_at = now, now + self.terminating_s
                self.ended(each)
        return _ok({"terminated_instances": [_shown(each, now) for each in found]})


def _launch_fault(body: Mapping[str, Any], cents: Mapping[str, int]) -> str:
    """What is wrong with a launch; empty where nothing is. Pure."""
    name, tags = body.get("name", ""), body.get("tags", [])
    data = body.get("user_data", "")
    checks = {
        "instance_type_name is not valid": body.get("instance_type_name") in cents,
        "region_name is not valid": body.get("region_name") in REGIONS,
        "exactly one SSH key is required": len(body.get("ssh_key_names", ())) == 1,
        "name is too long": len(name) <= 64,
        "tags are not valid": all(set(each) == {"key", "value"} for each in tags),
        "user_data is too long": len(data.encode()) <= 1_000_000,
    }
    return next((fault for fault, good in checks.items() if not good), "")


def _listed(instance: LambdaInstance, now: float) -> bool:
    return instance.visible_at <= now < instance.terminated_at + LISTED_S


def _shown(instance: LambdaInstance, now: float) -> dict[str, Any]:
    wanted = instance.wanted
    return {
        "id": instance.id,
        "name": wanted.get("name"),
        "ip": "127.0.0.1",
        "private_ip": "127.0.0.1",
        "status": instance.status(now),
        "region": {"name": wanted["region_name"], "description": wanted["region_name"]},
        "instance_type": {"name": wanted["instance_type_name"]},
        "ssh_key_names": wanted["ssh_key_names"],
        "file_system_names": [],
        "tags": wanted.get("tags", []),
        "hostname": wanted.get("hostname", ""),
    }


def _ok(data: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps({"data": data}).encode()


def _error(status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    error = {"code": code, "message": message, "suggestion": ""}
    return status, {"Content-Type": "application/json"}, json.dumps({"error": error}).encode()


# -- real processes --------------------------------------------------------------------------------

_SHUTDOWN = """#!/bin/sh
exec {python} -m hooke.testing.lambda_cloud --off {endpoint} {id}
"""
_OFF = re.compile(r"/test/off/(?P<id>\w+)")


class LambdaServer:
    """Serves an account on the loopback. An instance runs its user data as a process in a folder of its own, and ends with this process.

    Where this user may make one, it has a PID namespace of its own. Its `shutdown` and `poweroff` power off that instance only. Instances
    share the loopback and the files of this machine. `watch(what, path)` is called with `arrived`, `done` and `answered` for each request.
    """

    def __init__(
        self,
        folder: Path,
        *,
        account: LambdaAccount | None = None,
        watch: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self.account = account or LambdaAccount(
            request_s=0.0, launch_s=0.0, boot_s=(0.0, 0.1), terminating_s=0.2
        )
        self.account.begun, self.account.ended = self._begun, self._ended
        self.key = self.account.key
        self.folder = folder.resolve()
        self._watch = watch
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._timers: dict[str, threading.Timer] = {}
        self._spawner = ThreadPoolExecutor(1)
        self._boots: list[Future[None]] = []
        self._lock_of_account = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and all instances. Raises OSError where one could not be started."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            for timer in self._timers.values():
                timer.cancel()
        self._spawner.shutdown()
        for instance in list(self._processes):
            self._cut_power(instance)
        for boot in self._boots:
            boot.result()

    def log(self, instance: str) -> str:
        """What the instance's user data wrote."""
        file = self.folder / instance / "log"
        return file.read_text("utf-8", "replace") if file.is_file() else ""

    def runs(self, instance: str) -> bool:
        """Whether a process of the instance's user data lives."""
        process = self._processes.get(instance)
        return process is not None and process.poll() is None

    def _begun(self, instance: LambdaInstance) -> None:
        # The spawner's thread lives as long as the server; what a timer's thread starts would end with it.
        boot_s = instance.active_at - instance.began_at
        timer = threading.Timer(
            boot_s, lambda: self._boots.append(self._spawner.submit(self._boot, instance))
        )
        timer.daemon = True
        self._timers[instance.id] = timer
        timer.start()

    def _boot(self, instance: LambdaInstance) -> None:
        home = self.folder / instance.id
        tools = home / "bin"
        tools.mkdir(parents=True)
        shut = _SHUTDOWN.format(python=shlex.quote(sys.executable), endpoint=self.endpoint, id=instance.id)
        for name in ("shutdown", "poweroff"):
            (tools / name).write_text(shut)
            (tools / name).chmod(0o755)
        script = home / "user_data"
        script.write_text(instance.wanted.get("user_data", ""))
        script.chmod(0o700)
        paths = (str(tools), str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin")
        environment = {"PATH": ":".join(paths), "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}
        with self._lock, (home / "log").open("wb") as log:
            if instance.status(self.account.clock.now()) in {"terminating", "terminated", "preempted"}:
                return
            self._processes[instance.id] = subprocess.Popen(
                [*with_parent(), *_isolation(), "/bin/sh", str(script)],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _ended(self, instance: LambdaInstance) -> None:
        self._timers[instance.id].cancel()
        self._cut_power(instance.id)

    def _cut_power(self, instance: str) -> None:
        with self._lock:
            process = self._processes.get(instance)
            if process is not None:
                _kill(process)

    def power_off(self, instance: str) -> None:
        """The instance powers itself off; it is unhealthy then, and billed until it is terminated."""
        self.account.instances[instance].off = True
        self._cut_power(instance)

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Any:
        off = _OFF.fullmatch(path)
        if off is not None and off["id"] in self.account.instances:
            threading.Thread(target=self.power_off, args=(off["id"],), daemon=True).start()
            return _ok({})
        self._watch("arrived", path)
        with self._lock_of_account:
            made = self.account.answer(method, path, headers, body)
        self._watch("done", path)
        return made

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            def do_GET(self) -> None:
                """Answer it."""
                length = int(self.headers.get("Content-Length", 0))
                try:
                    status, headers, text = server._answer(
                        self.command, self.path, dict(self.headers), self.rfile.read(length)
                    )
                except LostAnswer:
                    self.close_connection = True
                    return
                with contextlib.suppress(ConnectionError):  # the client has been killed
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)
                server._watch("answered", self.path)

            do_POST = do_GET  # noqa: N815 - its name in the standard library

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

        return Handler


@cache
def _isolation() -> list[str]:
    """The prefix that gives a command a PID namespace, with which all its processes end; empty where this user may not make one."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    prefix = [unshare, "--pid", "--fork", "--mount-proc", "--kill-child"]
    probe = subprocess.run([*prefix, "/bin/true"], capture_output=True, check=False)
    return prefix if probe.returncode == 0 else []


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End all processes of an instance at once, as when its power is cut."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def main(arguments: list[str]) -> None:
    """Serve in the folder until SIGTERM; or, with `--off ENDPOINT ID`, power off an instance."""
    if arguments[0] == "--off":
        _, endpoint, instance = arguments
        connection = http.client.HTTPConnection(endpoint.partition("://")[2], timeout=10.0)
        connection.request("POST", f"/test/off/{instance}")
        connection.getresponse().read()
        time.sleep(60.0)  # it is killed meanwhile
        return
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    with LambdaServer(Path(arguments[0])) as server:
        sys.stdout.write(f"{server.endpoint}\n")
        sys.stdout.flush()
        stopped.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
