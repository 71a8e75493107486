"""Who takes part in a fleet of the project: its authority, tokens, and this machine's keys."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import TYPE_CHECKING

from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.certificates.admission import Address
from hooke.certificates.keys import CA_KEY, CertificateFacts, Keys
from hooke.certificates.tokens import Token
from hooke.processes.with_parent import with_parent
from hooke.project.folder import Project

if TYPE_CHECKING:
    from hooke.certificates.admission import Admission
    from hooke.certificates.admission_server import Told

__all__ = [
    "admission_of",
    "completed",
    "dask_environment",
    "join_fleet",
    "keep",
    "keys_of",
    "let_in",
    "machine_name",
    "make_authority",
    "make_token",
    "renew_keys",
    "renewed",
]


def keys_of(project: Project, fleet: str) -> Keys:
    """Those of this machine, whether or not there are any. Raises UsageError for what is no name of a fleet."""
    return Keys.of(project.data, fleet)


def machine_name() -> str:
    """This machine's, made of its host name as names of machines are."""
    words = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().partition(".")[0].lower())
    return words.strip("-")[:40].strip("-") or "machine"


def make_authority(project: Project, fleet: str, *, valid_s: float) -> Keys:
    """Make a fleet's authority, and this machine's certificate, which lasts as long. Raises UsageError where there are keys, MissingExtra, HookeError."""
    with _cryptography():
        from hooke.certificates.authority import Authority, new_key, pem_of
    now, key, machine = time.time(), new_key(), machine_name()
    authority = Authority.make(fleet, now=now, valid_s=valid_s)
    certificate = authority.certify(machine, key.public_key(), now=now, valid_s=valid_s)
    project.create()
    keys = keys_of(project, fleet)
    keys.create(
        ca=authority.pem,
        machine=certificate + pem_of(key),
        facts=CertificateFacts(fleet=fleet, machine=machine, until=authority.until, valid_s=valid_s),
        more={CA_KEY: authority.key_pem},
    )
    return keys


def admission_of(project: Project, fleet: str) -> Admission:
    """Who lets machines in. Raises UsageError where this machine does not have the authority's key, MissingExtra."""
    with _cryptography():
        from hooke.certificates.admission import Admission
        from hooke.certificates.authority import Authority
    keys = keys_of(project, fleet)
    facts = keys.good(time.time())
    if facts.at:
        raise UsageError(
            f"the authority of the fleet {fleet} is on another machine",
            where=str(keys.folder),
            fix=f"do it there: this machine joined by {facts.at}",
        )
    return Admission(Authority.read(fleet, keys.folder), keys.folder)


def make_token(project: Project, fleet: str, *, open_s: float, valid_s: float) -> Token:
    """A token that lets one machine in. Raises as `admission_of`."""
    admission = admission_of(project, fleet)
    pin = admission.authority.fingerprint
    return admission.tokens.make(fleet, pin, now=time.time(), open_s=open_s, valid_s=valid_s)


def let_in(project: Project, fleet: str, address: Address, *, for_s: float | None, tell: Told) -> int:
    """Let machines in at an address, for so long or while there is an open token; how many came. Raises as `admission_of`, and as `admit`."""
    admission = admission_of(project, fleet)
    from hooke.certificates.admission_server import admit, listen

    now = time.time()
    if for_s is None and not admission.tokens.open(now):
        raise UsageError(
            f"there is no open token of the fleet {fleet}, so nobody could join",
            fix=f"hooke fleet token {fleet}; or stay without one, to renew certificates: --for 8h",
        )
    listener = listen(address)
    tell(f"machines may join the fleet {fleet} at {Address(address.host, listener.getsockname()[1])}")
    return admit(admission, listener, until=None if for_s is None else now + for_s, tell=tell)


def join_fleet(project: Project, address: Address, token: Token, *, machine: str) -> CertificateFacts:
    """Have this machine certified. Raises UsageError where it is refused, MissingExtra, HookeError where nobody answers."""
    with _cryptography():
        from hooke.certificates.joining import join
    project.create()
    return join(address, token, keys_of(project, token.fleet), machine=machine)


def renew_keys(keys: Keys) -> CertificateFacts:
    """Another certificate for one that is good. Raises UsageError where it is refused, MissingExtra, HookeError where nobody answers."""
    with _cryptography():
        from hooke.certificates.joining import renew
    facts = keys.good(time.time())
    if not facts.at:
        raise UsageError(
            f"this machine has the authority of the fleet {facts.fleet}: its certificate lasts as long"
        )
    return renew(keys)


@contextmanager
def _cryptography() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise MissingExtra(
            "the keys of a fleet need cryptography, which is not installed",
            why=str(error),
            fix='pip install "hooke[dask]"',
        ) from error


# --- A command of Dask's that takes part in a fleet: what it is told of the keys, and that its certificate is renewed while it runs.

FRESH = 2 / 3
"""Of a certificate's time: when less of it is left, another is asked for."""

AGAIN = 1 / 20
"""Of a certificate's time, until it is asked for again where nobody answered."""

LEFT = 1 / 20
"""Of a certificate's time: with so little left the command is ended, while all still know it."""

END_S = 30.0
"""For the command, to end when it is told to."""

_ROLES = ("CLIENT", "SCHEDULER", "WORKER")
_TLS = "DASK_DISTRIBUTED__COMM__TLS__"
_PRELOAD = "hooke.engines.dask.certificate"
_LOOPBACK = re.compile(r"(localhost|127(\.[0-9]+){3}|\[::1\]):[0-9]+")

Told = Callable[[str], None]


def keep(words: Sequence[str], keys: Keys, *, tell: Told) -> int:
    """Run a command with the keys until it ends; its exit code, or minus the signal. Where the certificate is short-lived it is renewed.

    The command ends with this process, and gets its SIGTERM. `tell` gets a line when a renewal fails. Raises UsageError where there is no
    such program or certificate, and HookeError, after the command was ended, where the certificate could not be renewed in time.
    """
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise UsageError(
            f"there is no program {words[0] if words else ''!r}",
            fix="hooke fleet exec NAME -- dask worker ...",
        )
    facts = renewed(keys, tell)
    given = completed(words, renewing=bool(facts.at))
    command = [*with_parent(), os.path.abspath(program), *given[1:]]
    with _passing_on() as started:
        process = subprocess.Popen(command, env=os.environ | dask_environment(keys, facts))
        started.append(process)
        try:
            while facts.at and _lives(process, _next(facts)):
                facts = _looked_after(keys, facts, tell)
            return process.wait()
        finally:
            _end(process)


def renewed(keys: Keys, tell: Told) -> CertificateFacts:
    """The facts of a certificate that is good: renewed where it has had a third of its time.

    Where it cannot be, `tell` says why, and it is used as long as it is good. Raises UsageError where it is not.
    """
    now = time.time()
    facts = keys.good(now)
    if not facts.at or facts.until - now > FRESH * facts.valid_s:
        return facts
    try:
        return renew_keys(keys)
    except HookeError as error:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.until))
        tell(f"the certificate is not renewed, and good until {until}\n{error}")
        return facts


def dask_environment(keys: Keys, facts: CertificateFacts) -> dict[str, str]:
    """Dask's settings, as environment variables, for a process that takes part in the fleet, in whatever role."""
    folder = keys.folder.resolve()
    made = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME": "tls",
        f"{_TLS}MIN_VERSION": "1.3",
        f"{_TLS}CA_FILE": str(folder / keys.ca.name),
    }
    for role in _ROLES:
        made[f"{_TLS}{role}__CERT"] = made[f"{_TLS}{role}__KEY"] = str(folder / keys.machine.name)
    if facts.at:
        made |= {f"DASK_DISTRIBUTED__{each}__PRELOAD": _PRELOAD for each in ("SCHEDULER", "WORKER")}
    return made


def completed(words: Sequence[str], *, renewing: bool) -> list[str]:
    """The command, with what a Dask scheduler or worker needs more to be safe: its pages are plain HTTP for anybody, by default on all addresses.

    Its nanny learns by an option alone that the certificate is renewed. Raises UsageError where the command wants its pages to be open.
    """
    role = next((role for role in ("scheduler", "worker") if _starts(words, role)), None)
    if role is None:
        return list(words)
    more = []
    given = [after for word, after in pairwise([*words, ""]) if word == "--dashboard-address"]
    given += [word.partition("=")[2] for word in words if word.startswith("--dashboard-address=")]
    if not given:
        more += ["--dashboard-address", f"127.0.0.1:{8787 if role == 'scheduler' else 0}"]
    elif not all(_LOOPBACK.fullmatch(each) for each in given):
        raise UsageError(
            f"the pages of this Dask {role} would be open to every machine that reaches it",
            why=f"they are plain HTTP on {given[-1]}, and ask nobody who he is",
            fix="leave out --dashboard-address, or give one of 127.0.0.1; from elsewhere: ssh -L 8787:127.0.0.1:8787 HOST",
        )
    if renewing and role == "worker":
        more += ["--preload-nanny", _PRELOAD]
    return [*words, *more]


def _starts(words: Sequence[str], role: str) -> bool:
    programs = [word.rpartition("/")[2] for word in words]
    return (
        f"dask-{role}" in programs
        or any(one in {"dask", "dask.__main__"} and other == role for one, other in pairwise(programs))
        or f"distributed.cli.dask_{role}" in words
    )


def _looked_after(keys: Keys, known: CertificateFacts, tell: Told) -> CertificateFacts:
    """The facts, renewed where it is time. Raises HookeError where the certificate ends."""
    try:
        facts = renewed(keys, tell)
    except UsageError as error:
        facts, cause = known, error
    else:
        cause = None
    if cause is None and facts.until - time.time() >= LEFT * facts.valid_s:
        return facts
    raise HookeError(
        f"the certificate of the fleet {facts.fleet} could not be renewed, and the command was ended before it",
        fix=f"on the authority's machine: hooke fleet admit {facts.fleet} --listen {facts.at} --for 30d; then start this again",
    ) from cause


def _next(facts: CertificateFacts) -> float:
    """Seconds until the certificate is to be looked at."""
    left = facts.until - time.time()
    return max(left - FRESH * facts.valid_s, min(AGAIN * facts.valid_s, left - LEFT * facts.valid_s), 0.1)


def _lives(process: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    if _lives(process, END_S):
        process.kill()
        process.wait()


@contextmanager
def _passing_on() -> Iterator[list[subprocess.Popen[bytes]]]:
    """SIGTERM goes to the command; SIGINT does already, from the terminal. The command itself begins with neither handler."""
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            for each in started:
                each.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on), signal.signal(signal.SIGINT, pass_on)
    try:
        yield started
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
