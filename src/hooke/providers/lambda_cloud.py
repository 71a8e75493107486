"""Instances of Lambda Cloud as a fleet's machines, by its public API.

The API has no key by which a repeated launch is recognized, so a launch is requested once, whatever comes of it. Each instance has the
fleet's id and the launch's token in its tags and in its name: an instance whose launch got no answer is found by them in the next list.
An instance has no pause. Terminating it ends its work, so `retire` and `release` are the same here.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import math
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import msgspec

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.base.units import parse_seconds
from hooke.machines.provider import (
    Impossible,
    Machine,
    NoCapacity,
    NotAllowed,
    OverQuota,
    ProviderError,
    ProviderFacts,
    RateLimited,
    Unreachable,
)

__all__ = ["InstanceOffer", "LambdaApi", "LambdaCloud", "LambdaOptions", "Send", "over_https"]

ENDPOINT = "https://cloud.lambda.ai/api/v1"
ANSWER_S = 30.0
TURN_S = 3.0
TRIES = 4
"""Of a request that was refused because of the rate."""
BACKOFF_S = 10.0
"""Where such an answer has no Retry-After; doubled for each further one."""
MOST_BACKOFF_S = 60.0
MOST_NAME = 64
"""Characters of an instance's name."""
MOST_USER_DATA = 1_000_000
"""Bytes."""

FLEET_TAG, TOKEN_TAG, STARTED_TAG = "hooke-fleet", "hooke-token", "hooke-started"

_ERRORS: dict[str, type[ProviderError]] = {
    "global/invalid-api-key": NotAllowed,
    "global/account-inactive": NotAllowed,
    "global/quota-exceeded": OverQuota,
    "global/internal-error": Unreachable,
    "instance-operations/launch/insufficient-capacity": NoCapacity,
}

Answered: TypeAlias = tuple[int, Mapping[str, str], bytes]
"""Status, headers with names in small letters, body."""

Send: TypeAlias = Callable[[str, str, Mapping[str, str], bytes], Answered]
"""`send(method, path, headers, body)`. Raises OSError or HTTPException where there is no answer."""


class LambdaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `[fleets.NAME]` with `provider = "lambda"`."""

    instance: str
    """The instance type: `gpu_1x_a10`."""
    ssh_key: str
    """The name of an SSH key of the account. The API launches nothing without one."""
    regions: tuple[str, ...] = ()
    """Where instances may be, the preferred region first. Empty means anywhere."""
    image_family: str = ""
    """Empty means Lambda's own default."""
    key_file: str = ""
    """A file with the API key that only its owner can read."""
    key_env: str = "LAMBDA_API_KEY"
    """The environment variable with the API key, where there is no `key_file`."""
    owner: str = ""
    """Tells this project's machines from those of other projects of the account. Empty means the host name."""
    endpoint: str = ENDPOINT
    request_every: str = "1s"
    launch_every: str = "12s"
    """Lambda documents no limits; clients report about one request a second, and one launch in 10 s."""
    list_every: str = "6s"
    listed_within: str = "2m"
    """A new instance is listed by then; Lambda documents no time. Until then a launch without an answer counts against the caps."""

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> LambdaOptions:
        """Options as in hooke.toml. Raises UsageError."""
        try:
            made = msgspec.convert(dict(options), cls)
        except msgspec.ValidationError as error:
            raise UsageError(
                f"the options of the provider 'lambda' are not valid: {error}",
                fix=f"its options: {', '.join(cls.__struct_fields__)}",
            ) from error
        for name in ("request_every", "launch_every", "list_every", "listed_within"):
            made.seconds(name)
        _check_endpoint(made.endpoint)
        return made

    @property
    def turn_s(self) -> float:
        """The longest from a launch's record in the ledger until its request: one that waits longer is given up, since its machine might be listed too late."""
        return 2 * self.seconds("launch_every") + TURN_S

    def seconds(self, name: str) -> float:
        """One of the intervals. Raises UsageError."""
        return parse_seconds(getattr(self, name), name=name)


class InstanceOffer(msgspec.Struct, frozen=True, kw_only=True):
    """An instance type as the API lists it now."""

    name: str
    usd_per_hour: float
    regions: tuple[str, ...]
    """Regions that have capacity."""
    gpu: str = ""


# -- the API ---------------------------------------------------------------------------------------


class LambdaApi:
    """Calls the API, one request at a time and no faster than its limits. Thread-safe.

    A request that is refused because of the rate is repeated, as nothing was done; no other one is. All methods raise a branch of
    ProviderError. No error, log or `repr` has the key.
    """

    def __init__(
        self,
        key: str,
        send: Send,
        *,
        request_s: float = 1.0,
        launch_s: float = 12.0,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`request_s` is the time between two requests, `launch_s` the one between two launches."""
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        self._send = send
        self.clock = clock or SystemClock()
        self._sleep = sleep
        self._every = {"": request_s, "launch": launch_s}
        self._next = dict.fromkeys(self._every, -math.inf)
        self._lock = threading.Lock()

    def offers(self) -> list[InstanceOffer]:
        """All instance types, with their prices and where there is capacity for them."""
        found = self._call("GET", "/instance-types")
        try:
            return [
                InstanceOffer(
                    name=name,
                    usd_per_hour=each["instance_type"]["price_cents_per_hour"] / 100,
                    regions=tuple(at["name"] for at in each["regions_with_capacity_available"]),
                    gpu=each["instance_type"].get("gpu_description", ""),
                )
                for name, each in found.items()
            ]
        except (AttributeError, KeyError, TypeError) as error:
            raise _unreadable("/instance-types") from error

    def launch(self, wanted: Mapping[str, Any], *, before: float = math.inf) -> list[str]:
        """Request one instance, once, and not later than `before` on the monotonic clock; returns the ids of what was started."""
        found = self._call("POST", "/instance-operations/launch", wanted, pace="launch", before=before)
        ids = found.get("instance_ids") if isinstance(found, dict) else None
        if not isinstance(ids, list) or not ids:
            raise _unreadable("/instance-operations/launch")
        return [str(each) for each in ids]

    def instances(self) -> list[dict[str, Any]]:
        """All instances of the account."""
        found = self._call("GET", "/instances")
        if not isinstance(found, list) or not all(isinstance(each, dict) and "id" in each for each in found):
            raise _unreadable("/instances")
        return found

    def terminate(self, instance: str) -> None:
        """End an instance; one that does not exist any more is accepted."""
        try:
            self._call("POST", "/instance-operations/terminate", {"instance_ids": [instance]})
        except _NoSuchObject:
            return

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        pace: str = "",
        before: float = math.inf,
    ) -> Any:
        with self._lock:
            for number in range(TRIES):
                self._wait_turn(pace)
                if self.clock.monotonic() > before:
                    raise RateLimited("a launch was not requested: its turn came too late")
                try:
                    status, headers, answer = self._sent(method, path, body)
                finally:  # from the answer on: on the way there a request may overtake the time since the one before
                    now = self.clock.monotonic()
                    self._next |= {each: now + self._every[each] for each in ("", pace)}
                if status != 429:
                    return _data(path, status, answer)
                self._next[""] = self.clock.monotonic() + _backoff_s(headers, number)
        raise RateLimited(
            "Lambda Cloud refuses requests, because there were too many",
            why=f"{TRIES} times in a row, with growing pauses",
            fix="if other programs use the same account, set request_every and launch_every to longer times",
        )

    def _sent(self, method: str, path: str, body: Mapping[str, Any] | None) -> Answered:
        text = b"" if body is None else json.dumps(body).encode()
        headers = self._headers | ({"Content-Type": "application/json"} if text else {})
        try:
            return self._send(method, path, headers, text)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"Lambda Cloud did not answer {method} {path}", why=str(error) or type(error).__name__
            ) from error

    def _wait_turn(self, pace: str) -> None:
        due = max(self._next[""], self._next[pace])
        if (wait := due - self.clock.monotonic()) > 0:
            self._sleep(wait)


class _NoSuchObject(Impossible):
    """The API has no such object."""


def _backoff_s(headers: Mapping[str, str], number: int) -> float:
    """As long as the answer says, within limits; else longer each time. Pure."""
    told = headers.get("retry-after", "")
    wished = float(told) if told.isdecimal() else BACKOFF_S * 2**number
    return min(wished, MOST_BACKOFF_S)


def _data(path: str, status: int, answer: bytes) -> Any:
    """What the answer has. Raises the branch of ProviderError that its error belongs to. Pure."""
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if 200 <= status < 300:
        if not isinstance(found, dict) or "data" not in found:
            raise _unreadable(path)
        return found["data"]
    error = found.get("error") if isinstance(found, dict) else None
    error = error if isinstance(error, dict) else {}
    code, message = str(error.get("code", "")), str(error.get("message", ""))
    kind = _ERRORS.get(code) or _kind_of(status, code)
    fix = str(error.get("suggestion") or "")
    if kind is NotAllowed:
        fix = fix or "check the API key: key_file or key_env of the fleet"
    raise kind(f"Lambda Cloud refused {path}: {message or f'status {status}'}", why=code, fix=fix)


def _kind_of(status: int, code: str) -> type[ProviderError]:
    if status in {401, 403}:
        return NotAllowed
    if status == 404 or code == "global/object-does-not-exist":
        return _NoSuchObject
    return Impossible if 400 <= status < 500 else Unreachable


def _unreadable(path: str) -> Unreachable:
    return Unreachable(
        f"Lambda Cloud's answer to {path} cannot be read", why="it is not as its API documents"
    )


def over_https(endpoint: str) -> Send:
    """Sends to the API at a URL, in a connection for each request; redirects are not followed."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""

    def send(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answered:
        connection = (
            http.client.HTTPSConnection(
                host, parts.port, timeout=ANSWER_S, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=ANSWER_S)
        )
        try:
            connection.request(method, parts.path.rstrip("/") + path, body or None, dict(headers))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    return send


def _check_endpoint(endpoint: str) -> None:
    """Raises UsageError for an address to which the key would go in clear text."""
    parts = urlsplit(endpoint)
    if parts.hostname and (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))
    ):
        return
    raise UsageError(
        f"endpoint = {endpoint!r} would get the API key in clear text, or is no address",
        fix=f"write endpoint = {ENDPOINT!r}, or leave it out",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_key(options: LambdaOptions, environment: Mapping[str, str]) -> str:
    """The API key. Raises UsageError where there is none, or others can read its file; the message never has it."""
    if options.key_file:
        file = Path(options.key_file).expanduser()
        try:
            mode = file.stat().st_mode
            key = file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the API key cannot be read from {file}", why=type(error).__name__) from error
        if stat.S_IMODE(mode) & 0o077:
            raise UsageError(f"others can read the API key in {file}", fix=f"chmod 600 {file}")
        where = str(file)
    else:
        key, where = (
            environment.get(options.key_env, "").strip(),
            f"the environment variable {options.key_env}",
        )
    if not key or not key.isascii() or not key.isprintable():
        raise UsageError(
            f"{where} has no API key of Lambda Cloud",
            fix='write it to a file that only you can read, and set key_file = "~/.lambda-key"; or set key_env = "NAME"',
        )
    return key


# -- the provider ----------------------------------------------------------------------------------

_PHASES = {
    "booting": "starting",
    "active": "ready",
    "unhealthy": "ready",
    # What Lambda ends is ended by a request of ours too, and counts until it is not billed any more.
    "preempted": "retired",
    "terminating": "retired",
    "terminated": "ended",
}
_WHY = {
    "unhealthy": "Lambda Cloud says that the instance is unhealthy",
    "preempted": "Lambda Cloud has preempted it",
    "terminating": "it is being terminated",
    "terminated": "it was terminated",
}


class LambdaCloud:
    """Rents one instance for each machine. What it runs is `user_data(token)`, text for cloud-init."""

    def __init__(
        self,
        tag: str,
        *,
        user_data: Callable[[str], str],
        logs: Path,  # noqa: ARG002 - an instance's output is on the instance
        usd_per_hour: float = 0.0,
        api: LambdaApi | None = None,
        **options: Any,
    ) -> None:
        """`options` are those of `LambdaOptions`. `api` replaces the one that they describe, with its key, its limits and its clock.

        Raises UsageError where they are not valid, there is no price or no key.
        """
        if usd_per_hour <= 0:
            raise UsageError(
                "the price of an instance is not known, so nothing could keep its limits",
                fix='write price = "lambda:INSTANCE_TYPE" (hooke prices ls lambda), or usd_per_hour',
            )
        self._options = given = LambdaOptions.parse(options)
        self.facts = ProviderFacts(
            name="lambda",
            usd_per_hour=usd_per_hour,
            visible_s=given.seconds("listed_within") + given.turn_s,
            look_s=given.seconds("list_every"),
            launch_s=given.seconds("launch_every"),
        )
        self._user_data = user_data
        owner = given.owner or socket.gethostname()
        self._fleet = hashlib.blake2b(f"{owner}\n{tag}".encode(), digest_size=8).hexdigest()
        self._api = api or LambdaApi(
            _read_key(given, os.environ),
            over_https(given.endpoint),
            request_s=given.seconds("request_every"),
            launch_s=self.facts.launch_s,
        )

    def launch(self, token: str) -> str:
        """Look for capacity, and request one instance where there is some. See Provider.

        Raises Impossible where the type does not exist, or costs more now than the fleet was told.
        """
        begun = self._api.clock.monotonic()
        try:
            region = self._region()
        except Unreachable as error:  # nothing was requested yet
            raise ProviderError(error.what, why=error.why, fix=error.fix) from error
        data = self._user_data(token)
        if len(data.encode()) > MOST_USER_DATA:
            raise Impossible(f"the user data is longer than {MOST_USER_DATA:,} bytes", fix="shorten `setup`")
        wanted: dict[str, Any] = {
            "region_name": region,
            "instance_type_name": self._options.instance,
            "ssh_key_names": [self._options.ssh_key],
            "name": self._name(token),
            "tags": [
                {"key": FLEET_TAG, "value": self._fleet},
                {"key": TOKEN_TAG, "value": token},
                {"key": STARTED_TAG, "value": f"{self._api.clock.now():.3f}"},
            ],
            "user_data": data,
        }
        if self._options.image_family:
            wanted["image"] = {"family": self._options.image_family}
        return self._api.launch(wanted, before=begun + self._options.turn_s)[0]

    def list(self) -> Sequence[Machine]:
        """The fleet's instances, by their tags or their names."""
        return [machine for each in self._api.instances() if (machine := self._machine(each)) is not None]

    def retire(self, machine: str) -> None:
        """Terminate it: an instance cannot be told to finish its work."""
        self._api.terminate(machine)

    def release(self, machine: str) -> None:
        """Terminate it."""
        self._api.terminate(machine)

    def offer(self) -> InstanceOffer:
        """The fleet's instance type as it is offered now. Raises Impossible where it does not exist or costs more than the fleet was told."""
        name = self._options.instance
        offers = {each.name: each for each in self._api.offers()}
        offer = offers.get(name)
        if offer is None:
            raise Impossible(
                f"Lambda Cloud has no instance type {name!r}",
                fix=f"{did_you_mean(name, offers)}valid types: {', '.join(sorted(offers))}",
            )
        if offer.usd_per_hour > self.facts.usd_per_hour * (1 + 1e-9):
            raise Impossible(
                f"{name} costs ${offer.usd_per_hour:.2f}/h now, more than the ${self.facts.usd_per_hour:.2f}/h of the fleet's price",
                fix=f"write usd_per_hour = {offer.usd_per_hour:.2f} instead of price, or update the price list: hooke prices update FILE",
            )
        return offer

    def _region(self) -> str:
        """A region with capacity. Raises NoCapacity."""
        offer = self.offer()
        allowed = self._options.regions or offer.regions
        found = next((region for region in allowed if region in offer.regions), None)
        if found is None:
            where = f" in {', '.join(allowed)}" if self._options.regions else ""
            elsewhere = (
                f"there is in {', '.join(offer.regions)}" if offer.regions else "nor is there anywhere"
            )
            raise NoCapacity(f"Lambda Cloud has no {offer.name}{where} now", why=elsewhere)
        return found

    def _name(self, token: str) -> str:
        """The fleet's id and the token; of a token that is too long the end, which has its time and number."""
        prefix = self._prefix
        return prefix + token[-(MOST_NAME - len(prefix)) :]

    @property
    def _prefix(self) -> str:
        return f"hooke-{self._fleet}-"

    def _machine(self, instance: Mapping[str, Any]) -> Machine | None:
        """One of the fleet as a machine; None for another one."""
        tags = {each.get("key"): each.get("value", "") for each in instance.get("tags") or ()}
        name = instance.get("name") or ""
        if tags.get(FLEET_TAG) != self._fleet and not name.startswith(self._prefix):
            return None
        status = instance.get("status", "")
        started = tags.get(STARTED_TAG, "")
        return Machine(
            id=instance["id"],
            token=tags.get(TOKEN_TAG) or name.removeprefix(self._prefix),
            phase=_PHASES.get(status, "starting"),
            started_at=float(started) if started.replace(".", "", 1).isdecimal() else 0.0,
            healthy=status != "unhealthy",
            why=_WHY.get(status, ""),
            taken=status in {"preempted", "terminating", "terminated"},
        )
