"""Rented fleets: what a machine runs first (its user data), what this machine runs for them, and how they are kept until they end.

A rented machine joins with a single-use token, and its certificate is short-lived. This is the switch against forgotten machines: when
nobody here renews certificates, the command of the machine is ended before its certificate expires, and the machine powers itself off.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from hooke.base.clock import Clock
from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import format_seconds
from hooke.base.units import parse_seconds
from hooke.certificates.key_files import Address
from hooke.fleets import membership
from hooke.journal.fleet_events import LedgerRecord
from hooke.machines.keeper import FleetKeeper, cost_usd
from hooke.processes.start import with_parent
from hooke.project.folder import Project

__all__ = [
    "INTERRUPTED",
    "FleetEnd",
    "FleetHead",
    "RentBudget",
    "RentOptions",
    "keep_rented",
    "machine_script",
    "user_data_of",
]

JOIN_OPEN_S = 3600.0
"""How long a machine's token can be used: an instance boots for up to 15 minutes, and `setup` installs what it needs."""
JOIN_TRIES, JOIN_PAUSE_S = 20, 15
"""Of a machine, where this one does not answer."""
READY_S = 60.0
"""For the scheduler and the admission on this machine to listen."""
END_USD_S = 120.0
"""The end of a fleet costs at most so much of its time: it begins before the budget is spent."""
ANSWER_S = 60.0
END_S = 10.0
LOOK_S = 0.5
INTERRUPTED = 130
"""The exit code of a command that was stopped, as of one that Ctrl-C has ended."""


class RentOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a rented fleet in hooke.toml, beside those of its provider."""

    join: str
    """`HOST:PORT` of this machine, where rented machines get their certificates."""
    scheduler: str = ""
    """`tls://HOST:PORT` of Dask's scheduler, which `hooke fleet up` runs here. Empty means port 8786 of the host in `join`."""
    listen: str = ""
    """The address of this machine where both listen, at the ports in `join` and `scheduler`, where these lead to a router that hands
    connections on. Empty means their own hosts."""
    command: tuple[str, ...] = ()
    """What a machine runs with its certificate. Empty means `dask worker SCHEDULER`."""
    setup: tuple[str, ...] = ()
    """Shell lines that a machine runs first, as root: they install Python and Hooke."""
    certificate: str = "1h"
    """How long a machine's certificate is valid, and so the longest that a machine works after nobody renews it."""
    idle: str = "15m"
    """`hooke fleet up` ends all machines after this time without work."""

    @classmethod
    def split(cls, options: Mapping[str, Any]) -> tuple[RentOptions, dict[str, Any]]:
        """These options, and the others. Raises UsageError."""
        mine = {name: each for name, each in options.items() if name in cls.__struct_fields__}
        try:
            made = msgspec.convert(mine, cls)
        except msgspec.ValidationError as error:
            raise UsageError(
                f"a rented fleet lacks a setting, or one is not valid: {error}",
                fix='join = "HOST:8788", an address of this machine that the rented ones can reach',
            ) from error
        host = Address.parse(made.join).host
        made = msgspec.structs.replace(made, scheduler=made.scheduler or f"tls://{host}:8786")
        if made.listen:
            made = msgspec.structs.replace(made, listen=_listened(made.listen))
        for name in ("certificate", "idle"):
            if parse_seconds(getattr(made, name), name=name) < 1:
                raise UsageError(f"{name} = {getattr(made, name)!r} is too short", fix=f'{name} = "1h"')
        if urlsplit(made.scheduler).scheme != "tls" or not urlsplit(made.scheduler).port:
            raise UsageError(
                f"scheduler = {made.scheduler!r} is not valid", fix='scheduler = "tls://HOST:8786"'
            )
        return made, {name: each for name, each in options.items() if name not in mine}

    def here(self, address: Address) -> Address:
        """Where this machine listens for those who connect to `address`."""
        return Address.parse(f"{self.listen}:{address.port}") if self.listen else address

    def reached(self, address: Address) -> Address:
        """How a process of this machine connects to what others reach at `address`."""
        found = self.here(address)
        return Address(_LOOPBACK.get(found.host, found.host), found.port)

    @property
    def scheduler_address(self) -> Address:
        """`scheduler` without its scheme."""
        at = urlsplit(self.scheduler)
        return Address(str(at.hostname), at.port or 0)

    @property
    def words(self) -> tuple[str, ...]:
        """The command of a machine."""
        return self.command or ("dask", "worker", self.scheduler)


def _listened(host: str) -> str:
    """`listen` as it stands before a port. Raises UsageError."""
    bare = host.removeprefix("[").removesuffix("]")
    found = f"[{bare}]" if bare.count(":") > 1 else host
    try:
        Address.parse(f"{found}:0")
    except UsageError as error:
        raise UsageError(
            f"listen = {host!r} is not valid",
            fix='write an address of this machine without a port: listen = "10.0.0.5", or "0.0.0.0" or "::" for all of them',
        ) from error
    return found


_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a user's `listen`, and what reaches it from here


# -- what a machine runs first ---------------------------------------------------------------------


def user_data_of(project: Project, fleet: str, options: RentOptions) -> Callable[[str], str]:
    """Makes the user data of a launch, with a token to join with. Raises UsageError where this machine has no authority of the fleet."""

    def made(launch: str) -> str:
        token = membership.make_token(
            project, fleet, open_s=JOIN_OPEN_S, valid_s=parse_seconds(options.certificate)
        )
        return machine_script(fleet, launch, token.text, options)

    return made


def machine_script(fleet: str, launch: str, token: str, options: RentOptions) -> str:
    """A shell script for cloud-init: join, work, and power off whatever happens. It has no key of the provider. Pure."""
    machine = launch[-30:].lstrip("-")
    setup = "".join(f"{line} || exit 1\n" for line in options.setup)
    return f"""#!/bin/sh
# A machine of Hooke's fleet {fleet}, launch {launch}. It powers itself off when its work or its certificate ends.
umask 077
trap 'shutdown -h now || poweroff' EXIT
cd "$(mktemp -d)" && touch hooke.toml || exit 1
(sleep {int(JOIN_OPEN_S)}; [ -e joined ] || shutdown -h now || poweroff) &
{setup}cat > token <<'END'
{token}
END
tries=0
until hooke fleet join {shlex.quote(options.join)} --token-file token --as {machine}; do
    tries=$((tries + 1))
    [ $tries -lt {JOIN_TRIES} ] || exit 1
    sleep {JOIN_PAUSE_S}
done
rm token
touch joined
HOOKE_MACHINE={shlex.quote(launch)} hooke fleet exec {fleet} -- {shlex.join(options.words)}
"""


# -- what this machine runs for them ---------------------------------------------------------------


_HEAD_NAMES = {"admit": "the admission of machines", "scheduler": "Dask's scheduler"}


class FleetHead:
    """Admits machines and runs Dask's scheduler, as two processes that end with this one. Their output is in `logs`."""

    def __init__(self, project: Project, fleet: str, options: RentOptions, *, logs: Path) -> None:
        """Makes the fleet's authority where there is none. Raises UsageError, MissingExtra, HookeError."""
        if not membership.keys_of(project, fleet).folder.is_dir():
            membership.make_authority(project, fleet, valid_s=parse_seconds("365d"))
        membership.admission_of(project, fleet)
        self._options = options
        self._logs = logs
        join, at = options.here(Address.parse(options.join)), options.here(options.scheduler_address)
        here = [sys.executable, "-m", "hooke", "fleet"]
        root = ["--project", str(project.root)]
        dask = [sys.executable, "-m", "dask", "scheduler", "--host", at.host, "--port", str(at.port)]
        dask += ["--dashboard-address", "127.0.0.1:0"]
        self._commands = {
            "admit": [*here, "admit", fleet, "--listen", str(join), "--for", "3650d", *root],
            "scheduler": [*here, "exec", fleet, *root, "--", *dask],
        }
        keys = membership.keys_of(project, fleet)
        self._keys = str(keys.ca), str(keys.machine), str(keys.machine)
        self._client: Any = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        for name, command in self._commands.items():
            with (self._logs / f"{name}.log").open("wb") as log:
                self._processes[name] = subprocess.Popen(
                    [*with_parent(), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for this process, which then ends the machines first
                )
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End both."""
        if self._client is not None:
            self._client.close(timeout=END_S)
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ended(self) -> str:
        """Which of them has ended; empty while both live."""
        return next((name for name, process in self._processes.items() if process.poll() is not None), "")

    def log(self, name: str) -> str:
        """The last lines of one's output."""
        lines = (self._logs / f"{name}.log").read_text("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-5:])

    def idle_s(self) -> float:
        """How long the scheduler has had no task, as seen by these calls. Raises OSError where it does not answer."""
        since: float | None = self._client.sync(self._client.scheduler.check_idle)
        return max(time.time() - since, 0.0) if since is not None else 0.0

    def check_by_tasks(self, machines: int, *, patience_s: float, turn: Callable[[], object]) -> int:
        """Wait until so many workers have joined, and run a task on each; returns their number. `turn` is called meanwhile.

        Raises HookeError where they have not come after `patience_s`, or a task has no answer.
        """
        from hooke.engines.dask.clusters import connect, workers_of

        self._client = connect(f"tls://{self._options.reached(self._options.scheduler_address)}", self._keys)
        deadline = time.monotonic() + patience_s
        while len(found := workers_of(self._client)) < machines:
            if time.monotonic() > deadline:
                raise HookeError(
                    f"after {format_seconds(patience_s)} {len(found)} of {machines} machines have joined",
                    why="their setup has not ended, or they cannot reach this machine",
                    fix=f"look at /var/log/cloud-init-output.log on one of them (ssh), and check that {self._options.join} and "
                    f"{self._options.scheduler} can be reached from there",
                )
            turn()
            time.sleep(LOOK_S)
        answers = [self._client.submit(math.sqrt, 4.0, workers=[each], pure=False) for each in found]
        for address, answer in zip(found, answers, strict=True):
            try:
                answer.result(timeout=ANSWER_S)
            except TimeoutError as error:
                raise HookeError(
                    f"the machine at {address} has not run a first task within {ANSWER_S:g} s"
                ) from error
        return len(found)

    def _await_ready(self) -> None:
        both = Address.parse(self._options.join), self._options.scheduler_address
        waiting = [*map(self._options.reached, both)]
        deadline = time.monotonic() + READY_S
        while waiting:
            if (name := self.ended()) or time.monotonic() > deadline:
                name = name or ("scheduler" if len(waiting) == 1 else "admit")
                raise HookeError(
                    f"{_HEAD_NAMES[name]} does not listen at {waiting[0]} on this machine",
                    why=self.log(name),
                    fix="check join and scheduler of the fleet: both are addresses of this machine with free ports; "
                    "where they are those of a router that leads here, listen is this machine's own address",
                )
            with (
                contextlib.suppress(OSError),
                socket.create_connection((waiting[0].host, waiting[0].port), 1.0),
            ):
                waiting.pop(0)
                continue
            time.sleep(0.1)


# -- until they end --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEnd:
    """Why the machines of a rented fleet are ended, and the exit code of the command that rented them."""

    why: str
    code: int = 0


class RentBudget:
    """What the machines of a fleet cost from now on, by its ledger, against what they may cost."""

    def __init__(
        self, usd: float, *, price: float, records: Callable[[], Sequence[LedgerRecord]], clock: Clock
    ) -> None:
        """`price` is that of one machine in US dollars an hour."""
        self.usd = usd
        self._price = price
        self._records = records
        self._clock = clock
        self._began = clock.now()

    def spent(self) -> float:
        """US dollars until now."""
        return cost_usd(self._records(), [(self._began, self._clock.now())])

    def spent_text(self, machines: int) -> str:
        """Says that the budget is spent, or would be before so many machines have ended; empty where it is not."""
        if math.isinf(self.usd):
            return ""
        spent = self.spent()
        if spent + machines * self._price * END_USD_S / 3600 < self.usd:
            return ""
        return f"${spent:.4g} of the budget of ${self.usd:.4g} are spent, and the machines must end before the rest is"

    def check(self, machines: int) -> None:
        """Raises HookeError where it is spent."""
        if text := self.spent_text(machines):
            raise HookeError(text, fix="rent fewer machines, or raise --budget")


def keep_rented(
    keeper: FleetKeeper,
    head: FleetHead,
    budget: RentBudget,
    *,
    idle_s: float,
    stopped: Callable[[], str],
    command: Sequence[str] = (),
) -> FleetEnd:
    """Keep the fleet until the command ends, the budget is nearly spent, or `stopped` says why; without a command until there was no work for `idle_s`."""
    process = subprocess.Popen([*with_parent(), *command]) if command else None
    try:
        while True:
            pause = keeper.turn()
            if process is not None and (code := process.poll()) is not None:
                code = code if code >= 0 else 128 - code
                return FleetEnd(why=f"the command has ended with exit code {code}", code=code)
            if text := budget.spent_text(len(keeper.fleet.members)):
                return FleetEnd(why=text, code=1)
            if name := head.ended():
                return FleetEnd(why=f"{_HEAD_NAMES[name]} has ended: {head.log(name)}", code=1)
            if process is None and (idle := head.idle_s()) >= idle_s:
                return FleetEnd(why=f"there was no work for {format_seconds(idle)}")
            if why := stopped():
                return FleetEnd(why=why, code=INTERRUPTED)
            time.sleep(min(max(pause, 0.02), LOOK_S))
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            process.wait()
