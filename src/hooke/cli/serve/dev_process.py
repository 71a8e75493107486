"""The process that serves one version under `hooke serve --dev`: `python -m hooke.cli.serve.dev_process ORDER`."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError
from hooke.base.user_code import user_frames
from hooke.cli.parameters import bindings
from hooke.processes.channel import Channel
from hooke.processes.start import exit_with
from hooke.project.folder import Project
from hooke.services.reload import handover
from hooke.services.reload.reloader import Sources
from hooke.services.serve_file import InheritedSocket, ObserveOptions, load_service, serve_here
from hooke.serving.bind_config import BindConfig
from hooke.serving.request_context import log_with_ids

__all__ = ["DevChildOrder", "main"]

IMPORTED_EVERY_S = 1.0
"""A method may import modules that setup did not."""
MOST_LINES = 8
"""Lines of a traceback: the last frames and the exception."""


class DevChildOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve, and how. The numbers are inherited descriptors; the port is the one that was found."""

    target: str
    given: tuple[str, ...]
    bind_config: BindConfig
    listening: int
    channel: int
    debug: bool
    observe: ObserveOptions

    def argument(self) -> str:
        """The argument for the command."""
        return msgspec.json.encode(self, enc_hook=os.fspath).decode()

    @classmethod
    def of_argument(cls, text: str) -> DevChildOrder:
        """The order in the argument."""
        return msgspec.json.decode(text, type=cls, dec_hook=lambda kind, path: kind(path))


class _Reports:
    """Reports to the parent, from any thread."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._channel = Channel(descriptor)
        self._lock = threading.Lock()

    def send(self, message: handover.FromDevChild) -> None:
        """Report something, unless the parent is gone: then this process ends, too."""
        with self._lock, contextlib.suppress(OSError):
            self._channel.send(handover.encode(message))

    def keep_sending_imported(self, sources: Sources) -> None:
        """Report the imported modules of the project whenever there are new ones; never returns."""
        count, sent = -1, None
        while True:
            if len(sys.modules) != count:
                count = len(sys.modules)
                files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
                own = sources.own([file for file in files if file])
                if own != sent:
                    sent = own
                    self.send(handover.ImportedModules(files=tuple(map(str, sorted(own)))))
            time.sleep(IMPORTED_EVERY_S)


def main(order: DevChildOrder) -> int:
    """Serve until SIGTERM; returns the exit code: 0 drained, 1 requests were cut or it cannot serve."""
    # Bytecode is cached by the second and size of its source, and an edit may change neither.
    sys.dont_write_bytecode = True
    os.set_inheritable(order.listening, False)
    log_with_ids()
    reports = _Reports(order.channel)
    file = Path(order.target) if order.target.endswith(".py") else Path(order.target.rpartition(":")[0])
    sources = Sources(root=Project.root_of(file), file=file)
    listening = socket.socket(fileno=order.listening)
    listening.setblocking(False)

    def ready(lines: tuple[str, ...]) -> None:
        reports.send(handover.NowServing(lines=lines))
        threading.Thread(target=reports.keep_sending_imported, args=(sources,), daemon=True).start()

    try:
        with contextlib.redirect_stdout(sys.stderr):
            declared, path = load_service(order.target)
        project = Project.find(path)
        done = serve_here(
            declared,
            project,
            bindings(declared, order.given, project),
            bind_config=order.bind_config,
            tell=lambda _line: None,
            entry=f"{path}:{declared.name}",
            handed=InheritedSocket(listening, ready),
            observe=order.observe,
        )
    except HookeError as error:
        if order.debug:
            traceback.print_exception(error)
        reports.send(refused(error, sources))
        return 1
    reports.send(handover.DrainedReply(run=done.run, answered=done.answered, cut=done.cut))
    return 1 if done.cut else 0


def refused(error: HookeError, sources: Sources) -> handover.ServeRefused:
    """The message for an error: its place in the project's own files, and the last lines."""
    lines = user_frames(error.why) if error.why else []
    last = tuple(line for line in lines if line != "Traceback (most recent call last):")[-MOST_LINES:]
    return handover.ServeRefused(what=error.what, where=_where(error, sources), why=last, fix=error.fix)


def _where(error: HookeError, sources: Sources) -> str:
    cause = error.__cause__
    if isinstance(cause, SyntaxError) and cause.filename:
        return f"{cause.filename}:{cause.lineno}"
    if cause is None:
        return ""
    own = [one for one in traceback.extract_tb(cause.__traceback__) if sources.holds(Path(one.filename))]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


if __name__ == "__main__":
    exit_with(main(DevChildOrder.of_argument(sys.argv[1])))
