"""Membership of this machine in a fleet: the fleet's authority, tokens, this machine's keys, and commands that run with them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import TYPE_CHECKING

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.certificates.key_files import CA_KEY, Address, CertificateFacts, Keys
from hooke.certificates.tokens import Token
from hooke.processes.start import with_parent
from hooke.project.folder import Project

if TYPE_CHECKING:
    from hooke.certificates.admission import Admission
    from hooke.certificates.admission_server import Say

__all__ = [
    "admit_machines",
    "join_fleet",
    "keys_of",
    "machine_name",
    "make_authority",
    "make_token",
    "renew_keys",
    "run_with_certificate",
    "with_safe_options",
]


def keys_of(project: Project, fleet: str) -> Keys:
    """Where this machine's keys for a fleet are, whether or not they exist. Raises UsageError for an invalid name."""
    return Keys.of(project.data, fleet)


def machine_name() -> str:
    """This machine's name: its host name in the form of machine names."""
    words = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().partition(".")[0].lower())
    return words.strip("-")[:40].strip("-") or "machine"


def make_authority(project: Project, fleet: str, *, valid_s: float) -> Keys:
    """Make a fleet's authority, and a certificate for this machine that lasts as long. Raises UsageError where there are keys, MissingExtra, HookeError."""
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
    """The admission of machines. Raises UsageError where this machine does not have the authority's key, MissingExtra."""
    with _cryptography():
        from hooke.certificates.admission import Admission
        from hooke.certificates.authority import Authority
    keys = keys_of(project, fleet)
    facts = keys.good(time.time())
    if facts.at:
        raise UsageError(
            f"the authority of the fleet {fleet} is on another machine",
            where=str(keys.folder),
            fix=f"run this on that machine; this one joined through {facts.at}",
        )
    return Admission(Authority.read(fleet, keys.folder), keys.folder)


def make_token(project: Project, fleet: str, *, open_s: float, valid_s: float) -> Token:
    """Make a token that admits one machine. Raises as `admission_of`."""
    admission = admission_of(project, fleet)
    pin = admission.authority.fingerprint
    return admission.tokens.make(fleet, pin, now=time.time(), open_s=open_s, valid_s=valid_s)


def admit_machines(project: Project, fleet: str, address: Address, *, for_s: float | None, say: Say) -> int:
    """Admit machines at an address, for `for_s` or while a token is open; returns how many joined. Raises as `admission_of`, and as `admit`."""
    admission = admission_of(project, fleet)
    from hooke.certificates.admission_server import admit, listen

    now = time.time()
    if for_s is None and not admission.tokens.open(now):
        raise UsageError(
            f"the fleet {fleet} has no open token, so no machine can join",
            fix=f"make one: hooke fleet token {fleet}; or only renew certificates: --for 8h",
        )
    listener = listen(address)
    say(f"machines can join the fleet {fleet} at {Address(address.host, listener.getsockname()[1])}")
    return admit(admission, listener, until=None if for_s is None else now + for_s, say=say)


def join_fleet(project: Project, address: Address, token: Token, *, machine: str) -> CertificateFacts:
    """Get a certificate for this machine. Raises UsageError where it is refused, MissingExtra, HookeError where nothing answers."""
    with _cryptography():
        from hooke.certificates.joining import join
    project.create()
    return join(address, token, keys_of(project, token.fleet), machine=machine)


def renew_keys(keys: Keys) -> CertificateFacts:
    """Renew a certificate that is still valid. Raises UsageError where it is refused, MissingExtra, HookeError where nothing answers."""
    with _cryptography():
        from hooke.certificates.joining import renew
    facts = keys.good(time.time())
    if not facts.at:
        raise UsageError(
            f"this machine has the authority of the fleet {facts.fleet}; its certificate lasts as long as the authority"
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
            "keys of fleets need cryptography, which is not installed",
            why=str(error),
            fix=install_command("dask"),
        ) from error


# -- commands that run with the keys: Dask's settings, and renewal while they run ----------------------

FRESH = 2 / 3
"""Share of a certificate's validity: it is renewed when less is left."""

RETRY = 1 / 20
"""Share of a certificate's validity, until the next try where a renewal failed."""

LEFT = 1 / 20
"""Share of a certificate's validity: with less left the command is ended, while others still accept the certificate."""

END_S = 30.0
"""From SIGTERM to SIGKILL."""

_ROLES = ("CLIENT", "SCHEDULER", "WORKER")
_TLS = "DASK_DISTRIBUTED__COMM__TLS__"
_PRELOAD = "hooke.engines.dask.certificate"
_LOOPBACK = re.compile(r"(localhost|127(\.[0-9]+){3}|\[::1\]):[0-9]+")


def run_with_certificate(words: Sequence[str], keys: Keys, *, say: Say) -> int:
    """Run a command with the keys until it ends; returns its exit code, or minus the signal. A short-lived certificate is renewed meanwhile.

    The command ends with this process, and gets its SIGTERM. `say` gets a line when a renewal fails. Raises UsageError where the program
    or the certificate does not exist, and HookeError, after ending the command, where the certificate could not be renewed in time.
    """
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise UsageError(
            f"program {words[0] if words else ''!r} not found", fix="hooke fleet exec NAME -- dask worker ..."
        )
    facts = renewed(keys, say)
    given = with_safe_options(words, renewing=bool(facts.at))
    command = [*with_parent(), os.path.abspath(program), *given[1:]]
    with _forwarding_sigterm() as started:
        process = subprocess.Popen(command, env=os.environ | dask_environment(keys, facts))
        started.append(process)
        try:
            while facts.at and _lives(process, _until_check(facts)):
                facts = _renewed_in_time(keys, facts, say)
            return process.wait()
        finally:
            _end(process)


def renewed(keys: Keys, say: Say) -> CertificateFacts:
    """The facts on a valid certificate, which is renewed after a third of its validity.

    Where that fails, `say` gets the reason, and the certificate stays in use while it is valid. Raises UsageError where it is not.
    """
    now = time.time()
    facts = keys.good(now)
    if not facts.at or facts.until - now > FRESH * facts.valid_s:
        return facts
    try:
        return renew_keys(keys)
    except HookeError as error:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.until))
        say(f"the certificate could not be renewed; it is valid until {until}\n{error}")
        return facts


def dask_environment(keys: Keys, facts: CertificateFacts) -> dict[str, str]:
    """Dask's settings for a member of the fleet, in any role, as environment variables."""
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


def with_safe_options(words: Sequence[str], *, renewing: bool) -> list[str]:
    """The command, with the options that make a Dask scheduler or worker safe: by default its dashboard is plain HTTP on all addresses.

    A nanny reloads its certificate only if an option says so. Raises UsageError where the command opens its dashboard to other machines.
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
            f"the dashboard of this Dask {role} would be open to every machine that reaches it",
            why=f"it is plain HTTP on {given[-1]}, without authentication",
            fix="omit --dashboard-address, or use 127.0.0.1; from other machines: ssh -L 8787:127.0.0.1:8787 HOST",
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


def _renewed_in_time(keys: Keys, known: CertificateFacts, say: Say) -> CertificateFacts:
    """The facts, after a renewal where it is due. Raises HookeError where the certificate is about to expire."""
    try:
        facts = renewed(keys, say)
    except UsageError as error:
        facts, cause = known, error
    else:
        cause = None
    if cause is None and facts.until - time.time() >= LEFT * facts.valid_s:
        return facts
    raise HookeError(
        f"the certificate for the fleet {facts.fleet} could not be renewed, so the command was ended before it expires",
        fix=f"on the authority's machine: hooke fleet admit {facts.fleet} --listen {facts.at} --for 30d; then start the command again",
    ) from cause


def _until_check(facts: CertificateFacts) -> float:
    """Seconds until the certificate's next check."""
    left = facts.until - time.time()
    return max(left - FRESH * facts.valid_s, min(RETRY * facts.valid_s, left - LEFT * facts.valid_s), 0.1)


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
def _forwarding_sigterm() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Forward SIGTERM to the command, which gets SIGINT from the terminal. The command itself starts with neither handler."""
    started: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            for each in started:
                each.send_signal(number)

    before = signal.signal(signal.SIGTERM, forward), signal.signal(signal.SIGINT, forward)
    try:
        yield started
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
