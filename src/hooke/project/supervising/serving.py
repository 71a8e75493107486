"""A service of several replicas, from what was asked to its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hooke.base.errors import UsageError
from hooke.base.kept_modules import keep_modules
from hooke.project.asking import token_file_of
from hooke.project.folder import Project
from hooke.project.reloading.files import Sources
from hooke.project.service_runs import ServiceRun
from hooke.project.serving import check_bindings, serve_extra, shown_given
from hooke.project.supervising.generation import Source, pinned
from hooke.project.supervising.service_folder import FRONT, ServiceFolder
from hooke.project.supervising.wish import Wish
from hooke.serving.service import Service

__all__ = ["serve_several"]


def serve_several(
    declared: Service,
    path: Path,
    project: Project,
    given: Mapping[str, Any],
    *,
    wish: Wish,
    tell: Callable[[str], None],
) -> Any:
    """Keep replicas and their front until SIGTERM or Ctrl-C; returns what it came to. `tell` gets a line for each event.

    Raises UsageError where the service is supervised already or the port is taken, MissingExtra, and HookeError where no
    replica can be set up.
    """
    check_bindings(declared, given)
    wish.exposure.check()
    with serve_extra():
        from hooke.project.supervising.supervisor import Supervisor
        from hooke.serving.server import bind
    project.create()
    folder = ServiceFolder.of(project, declared.name)
    folder.create()
    if not folder.lock.try_acquire():
        raise _supervised_already(folder)
    try:
        front = next((one for one in folder.living() if one.name == FRONT), None)
        if wish.exposure.port and (front is None or front.port != wish.exposure.port):
            bind(
                wish.exposure.port, wish.exposure.host
            ).close()  # that it is taken is said before anything is started
        token_file = token_file_of(declared, project, wish.exposure)
        own = Sources(root=Project.root_of(path), file=path).own
        source = Source(
            target=f"{path}:{declared.name}",
            project=str(project.root),
            folder=os.getcwd(),
            given=dict(given),
            host=wish.exposure.host,
            names=wish.exposure.names,
            token_file=str(token_file.resolve()) if token_file is not None else "",
            modules=keep_modules(lambda file: bool(own([str(file)]))),
        )
        first = pinned(source)
        with ServiceRun(
            project, declared, entry=source.target, shown=shown_given(given), replicas=wish.replicas
        ) as run:
            supervisor = Supervisor(
                declared, project, source, first=first, wish=wish, folder=folder, run=run, tell=tell
            )
            return supervisor.run()
    finally:
        folder.lock.release()


def _supervised_already(folder: ServiceFolder) -> UsageError:
    record = folder.record()
    where = f"{record.url or 'it is coming up'}, pid {record.pid}" if record is not None else str(folder.path)
    return UsageError(
        f"{folder.name} is served already",
        where=where,
        mend=f"another number of replicas: hooke serve scale {folder.name} 4; end it: hooke serve down {folder.name}",
        next=f"hooke serve status {folder.name}",
    )
