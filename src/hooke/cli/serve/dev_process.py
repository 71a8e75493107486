"""The process that serves one version under `hooke serve --dev`: `python -m hooke.cli.serve.dev_process ORDER`."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError
from hooke.base.user_code import user_frames
from hooke.cli.parameters import bindings
from hooke.processes.channel import Channel
from hooke.processes.start import exit_with
from hooke.project.folder import Project
from hooke.services.reload.handover import (
    DrainedReply,
    FromDevChild,
    ImportedModules,
    NowServing,
    ServeRefused,
    encode,
)
from hooke.services.reload.reloader import Sources
from hooke.services.serve_file import InheritedSocket, load_service, serve_here
from hooke.serving.bind_config import BindConfig, TlsFiles
from hooke.serving.request_context import log_with_ids

__all__ = ["DevChildOrder", "main"]

IMPORTED_EVERY_S = 1.0
"""A method may import modules that setup did not."""
MOST_LINES = 8
"""Lines of a traceback: the last frames and the exception."""


class DevChildOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve, and how. The numbers are inherited descriptors."""

    target: str
    given: tuple[str, ...]
    host: str
    port: int
    names: tuple[str, ...]
    auth: bool
    token_file: str | None
    tls: tuple[str, str] | None
    listening: int = -1
    channel: int = -1
    debug: bool = False

    @classmethod
    def of(cls, target: str, given: Sequence[str], bind_config: BindConfig, *, port: int) -> DevChildOrder:
        """The order for the port that was found."""
        return cls(
            target=target,
            given=tuple(given),
            host=bind_config.host,
            port=port,
            names=bind_config.names,
            auth=bind_config.auth,
            token_file=str(bind_config.token_file) if bind_config.token_file is not None else None,
            tls=(str(bind_config.tls.cert), str(bind_config.tls.key))
            if bind_config.tls is not None
            else None,
        )

    def handed(self, listening: int, channel: int, *, debug: bool) -> str:
        """The argument for the command."""
        made = msgspec.structs.replace(self, listening=listening, channel=channel, debug=debug)
        return msgspec.json.encode(made).decode()

    @property
    def bind_config(self) -> BindConfig:
        """The bind configuration."""
        return BindConfig(
            host=self.host,
            port=self.port,
            names=self.names,
            auth=self.auth,
            token_file=Path(self.token_file) if self.token_file is not None else None,
            tls=TlsFiles(cert=Path(self.tls[0]), key=Path(self.tls[1])) if self.tls is not None else None,
        )


class _Reports:
    """Reports to the parent, from any thread."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._channel = Channel(descriptor)
        self._lock = threading.Lock()

    def send(self, message: FromDevChild) -> None:
        """Report something, unless the parent is gone: then this process ends, too."""
        with self._lock, contextlib.suppress(OSError):
            self._channel.send(encode(message))

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
                    self.send(ImportedModules(files=tuple(map(str, sorted(own)))))
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
        reports.send(NowServing(lines=lines))
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
        )
    except HookeError as error:
        if order.debug:
            traceback.print_exception(error)
        reports.send(refused(error, sources))
        return 1
    reports.send(DrainedReply(run=done.run, answered=done.answered, cut=done.cut))
    return 1 if done.cut else 0


def refused(error: HookeError, sources: Sources) -> ServeRefused:
    """The message for an error: its place in the project's own files, and the last lines."""
    lines = user_frames(error.why) if error.why else []
    last = tuple(line for line in lines if line != "Traceback (most recent call last):")[-MOST_LINES:]
    return ServeRefused(what=error.what, where=_where(error, sources), why=last, fix=error.fix)


def _where(error: HookeError, sources: Sources) -> str:
    cause = error.__cause__
    if isinstance(cause, SyntaxError) and cause.filename:
        return f"{cause.filename}:{cause.lineno}"
    if cause is None:
        return ""
    own = [one for one in traceback.extract_tb(cause.__traceback__) if sources.holds(Path(one.filename))]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


if __name__ == "__main__":
    exit_with(main(msgspec.json.decode(sys.argv[1], type=DevChildOrder)))
