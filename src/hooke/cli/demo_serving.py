"""The end of `hooke demo`: the champion answers for real flights, by two replicas, three, and two again."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from hooke.base.errors import HookeError
from hooke.base.processes import python_module
from hooke.cli.demo_scaling import Said
from hooke.cli.demo_typed import as_typed, show_line, typed

__all__ = ["serve_champion"]

REGISTER, SERVICE, ASK, CLASS = "register.py", "service.py", "ask.py", "Delay"
RATE = "25"
"""Requests a second: two shared cores answer them, and ask them as well."""
ENOUGH_S = 2.0
"""How long each number of replicas is asked."""
LONGEST_S = 120.0
"""A machine that is busy with other things may take long to start three processes; longer than this something is wrong."""


def serve_champion(folder: Path, months: int) -> list[Said]:
    """Register, serve, ask, scale and drain; each command as if it were typed. Ends with the first that is broken."""
    said = [_register(folder, months)]
    if said[-1].code:
        return said
    with _served(folder) as (status, served):
        _until(lambda: _are(status(), 2), served, "two replicas to be ready")
        with _asking(folder, months, status()["url"]) as asking:
            for replicas in (3, 2):
                time.sleep(ENOUGH_S)
                typed(["serve", "scale", str(replicas), "--project", str(folder)])
                _until(lambda n=replicas: _are(status(), n), served, f"{replicas} replicas")
            time.sleep(ENOUGH_S)
        said.append(asking())
        drained = typed(["serve", "drain", "--project", str(folder)])
        said.append(Said(command="hooke serve drain", exit_code=drained.returncode or served.wait(LONGEST_S)))
    return said


def _register(folder: Path, months: int) -> Said:
    line = f"python {shlex.quote(str(folder / REGISTER))} {months}"
    show_line(line)
    done = subprocess.run(
        [sys.executable, folder / REGISTER, str(months)], check=False, capture_output=True, text=True
    )
    click.echo(
        done.stdout.rstrip() if not done.returncode else done.stderr.rstrip(), err=bool(done.returncode)
    )
    return Said(command=line, exit_code=done.returncode)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[tuple[Callable[[], dict[str, Any]], subprocess.Popen[str]]]:
    """`hooke serve` of the champion, its lines shown as they come; what asks how it is, and the process."""
    arguments = [
        "serve",
        str(folder / SERVICE),
        "--with",
        "model=flights@champion",
        "--replicas",
        "2",
        "--port",
        "0",
    ]
    show_line(as_typed(arguments))
    process = subprocess.Popen(python_module("hooke", *arguments), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    shown = threading.Thread(target=_show, args=(process.stderr,), daemon=True)
    shown.start()
    try:
        yield lambda: _status(folder), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LONGEST_S)
        if process.poll() is None:
            process.kill()
        shown.join(5.0)


@contextlib.contextmanager
def _asking(folder: Path, months: int, url: str) -> Iterator[Callable[[], Said]]:
    """What asks, from its first request until the block ends; then what it says is to be had."""
    arguments = [
        str(folder / ASK),
        url,
        "--months",
        str(months),
        "--rate",
        RATE,
        "--seconds",
        f"{LONGEST_S:g}",
    ]
    line = f"python {shlex.join(arguments)}"
    show_line(line)
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    def ended() -> Said:
        return Said(command=line, exit_code=process.returncode)

    try:
        click.echo(process.stdout.readline().rstrip())
        yield ended
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=LONGEST_S)[0]
        click.echo(said.rstrip())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _show(lines: IO[str]) -> None:
    for line in lines:
        click.echo(f"  {line.rstrip()}", err=True)


def _status(folder: Path) -> dict[str, Any]:
    """What `hooke serve status --json` says; nothing while there is no service yet."""
    asked = subprocess.run(
        python_module("hooke", "serve", "status", "--json", "--project", str(folder)),
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(asked.stdout) if not asked.returncode else {"replicas": []}
    return found


def _are(status: dict[str, Any], replicas: int) -> bool:
    """Whether there are so many, each ready, and none that is starting or leaving."""
    return [replica["state"] for replica in status["replicas"]] == ["ready"] * replicas


def _until(so: Callable[[], bool], served: subprocess.Popen[str], what: str) -> None:
    ends = time.monotonic() + LONGEST_S
    while not so():
        if served.poll() is not None:
            raise HookeError(
                f"the service ended with {served.returncode} before there were {what}",
                next=f"hooke serve logs {CLASS}",
            )
        if time.monotonic() > ends:
            raise HookeError(f"{LONGEST_S:g} s were not enough for {what}", next=f"hooke serve logs {CLASS}")
        time.sleep(0.2)
