"""A command of Dask's that takes part in a fleet: what it is told of the keys, and that its certificate is renewed while it runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType

from hooke.base.errors import HookeError, UsageError
from hooke.base.with_parent import with_parent
from hooke.certificates.keys import Facts, Keys
from hooke.project.membership import renew_keys

__all__ = ["completed", "dask_environment", "keep", "renewed"]

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
_PRELOAD = "hooke.engines.dask_certificate"
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
            mend="hooke fleet exec NAME -- dask worker ...",
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


def renewed(keys: Keys, tell: Told) -> Facts:
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


def dask_environment(keys: Keys, facts: Facts) -> dict[str, str]:
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
            mend="leave out --dashboard-address, or give one of 127.0.0.1; from elsewhere: ssh -L 8787:127.0.0.1:8787 HOST",
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


def _looked_after(keys: Keys, known: Facts, tell: Told) -> Facts:
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
        mend=f"on the authority's machine: hooke fleet admit {facts.fleet} --listen {facts.at} --for 30d; then start this again",
    ) from cause


def _next(facts: Facts) -> float:
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
